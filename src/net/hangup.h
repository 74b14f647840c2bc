/* SPDX-License-Identifier: ISC */
#ifndef NET_HANGUP_H
#define NET_HANGUP_H

#include <ev.h>

/*
 * Notices a reset on sockets that nobody reads or writes at the moment. libev asks the kernel only for what a watcher waits for, so a
 * flow whose directions both stand still would not hear of its end. This is a second epoll set, with nothing asked for:
 * the kernel then reports errors alone (EPOLLERR can't be left out, epoll_ctl(2)).
 */
struct hangup;

struct hangup_watch {
	/* Once, in the loop, when the socket has an error pending; reading or writing it will give that error. */
	void (*failed)(struct hangup_watch *watch);
};

/* Returns NULL with errno set. */
struct hangup *hangup_new(struct ev_loop *loop);
void hangup_free(struct hangup *hangup);

/* fd must be connected; closing it ends the watch, as does hangup_remove(). Returns 0 or -1 with errno set. */
int hangup_add(struct hangup *hangup, int fd, struct hangup_watch *watch);
void hangup_remove(struct hangup *hangup, int fd);

#endif
