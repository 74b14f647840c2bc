/* SPDX-License-Identifier: ISC */
#ifndef NET_NOTIFY_H
#define NET_NOTIFY_H

/*
 * Tells systemd the daemon's state, e.g. "READY=1" or "STOPPING=1\nSTATUS=...", by the protocol of
 * sd_notify(3): one datagram to $NOTIFY_SOCKET (path, or abstract with '@'). Nothing happens if it
 * isn't set. Returns 0, or -1 with errno.
 */
int notify_state(const char *state);

#endif
