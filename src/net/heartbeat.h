/* SPDX-License-Identifier: ISC */
#ifndef NET_HEARTBEAT_H
#define NET_HEARTBEAT_H

/*
 * Tells the firewall's rules that the proxy can take flows. They hold for a few seconds after each beat (xt_recent, by the lists ro-ro-tcp4 and
 * ro-ro-tcp6); without one, new connections go direct. See ro-ro-tcp-firewall(8).
 */

/*
 * Returns 0, also where the rules aren't up (there are no lists then); or -1 with errno set, and *path is a list that could not be written: the
 * other may have been.
 */
int heartbeat_beat(const char **path);

/* Takes the last beat back: new connections go direct from now on. Best effort. */
void heartbeat_stop(void);

#endif
