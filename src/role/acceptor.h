/* SPDX-License-Identifier: ISC */
#ifndef ROLE_ACCEPTOR_H
#define ROLE_ACCEPTOR_H

#include <ev.h>

#include "base/addr.h"
#include "core/counters.h"

/* A listener that survives the want of descriptors: it pauses in place of spinning, and keeps one in reserve to turn callers away. */
struct acceptor {
	struct ev_loop *loop;
	struct counters *counters;
	void (*accepted)(struct acceptor *acceptor, int fd, const union addr *peer); /* takes over fd */
	ev_io io;
	ev_timer pause;
	int fd;
	int reserve;
};

/* Listens; accepting begins with the loop. Returns 0, or -1 with errno set. */
int acceptor_open(struct acceptor *acceptor, struct ev_loop *loop, struct counters *counters, const union addr *listen,
		  bool transparent);

/* Stops accepting; harmless if it has stopped. */
void acceptor_close(struct acceptor *acceptor);

#endif
