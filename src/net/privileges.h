/* SPDX-License-Identifier: ISC */
#ifndef NET_PRIVILEGES_H
#define NET_PRIVILEGES_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * True if the process has CAP_NET_ADMIN in effect: needed for transparent sockets, conntrack, and
 * for congestion control algorithms outside tcp_allowed_congestion_control.
 */
bool privileges_net_admin(void);

/* Whom privileges_drop() makes of the process. Without root that is who it is already. */
struct privileges_user {
	uid_t uid;
	gid_t gid;
};

/*
 * Looks up the user to become. name NULL: "ro-ro-tcp" if there's such a user, else "nobody".
 * Returns 0; or -1 with a one-line reason in why (size bytes).
 */
int privileges_find_user(const char *name, struct privileges_user *user, char *why, unsigned size);

/*
 * Gives up everything but CAP_NET_ADMIN (kept only where the process has it, and if keep_net_admin)
 * and, if the process is root, becomes the given user, with no supplementary groups. Sets
 * no_new_privs. To be called before there are threads. Returns 0; or -1 with a one-line reason in
 * why (size bytes), and the process must not go on.
 */
int privileges_drop(const struct privileges_user *user, bool keep_net_admin, char *why,
		    unsigned size);

/*
 * Raises the soft limit of descriptors to the hard limit, and the hard limit too where allowed, up
 * to wanted. Returns the limit that is in force afterwards.
 */
unsigned long privileges_raise_descriptors(unsigned long wanted);

#endif
