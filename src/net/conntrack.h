/* SPDX-License-Identifier: ISC */
#ifndef NET_CONNTRACK_H
#define NET_CONNTRACK_H

#include <ev.h>
#include <stdint.h>

#include "base/addr.h"

/*
 * Asks the kernel's connection tracking, without waiting, where a captured client wanted to go. One
 * per worker: it owns one netlink socket (NETLINK_NETFILTER) in the worker's loop. Needs
 * CAP_NET_ADMIN.
 */
struct conntrack;

struct conntrack_answer {
	union addr destination; /* original tuple's destination: what the client dialled */
	union addr client;	/* original tuple's source */
	uint32_t mark;		/* connmark */
};

/*
 * error is 0 with an answer; else answer is NULL. ENOENT: the table has no such entry; ETIMEDOUT:
 * no answer in time; EBADMSG: the answer is not one to our question; another errno: the kernel
 * refused. Always called from the loop, never from within conntrack_ask(). By then nothing is
 * outstanding: the query may be freed or used again, and others asked or cancelled.
 */
typedef void conntrack_done(void *arg, int error, const struct conntrack_answer *answer);

/*
 * One question. Lives in the caller's own structure, all zero at first; only conntrack.c looks
 * inside.
 */
struct conntrack_query {
	struct conntrack *owner; /* NULL when nothing is outstanding */
	conntrack_done *done;
	void *arg;
	uint32_t sequence;
	union addr local, client; /* the reply tuple asked for */
	ev_timer timer;
	struct conntrack_query *next, *previous;
};

/*
 * zone: the conntrack zone to look in, 0 is the default one. timeout in seconds, per question.
 * Returns NULL with errno set if the kernel has no nfnetlink conntrack (EPROTONOSUPPORT, ...) or
 * refuses it (EPERM).
 */
struct conntrack *conntrack_new(struct ev_loop *loop, uint16_t zone, double timeout);

/*
 * Like conntrack_new with a netlink-like datagram socket of the caller's, which it takes over: for
 * tests.
 */
struct conntrack *conntrack_new_fd(struct ev_loop *loop, int fd, uint16_t zone, double timeout);

/*
 * Cancels what is outstanding, without calling back. Must not be called from within a
 * conntrack_done.
 */
void conntrack_free(struct conntrack *ct);

/*
 * Asks for the TCP entry whose reply tuple is local -> client: local is our socket's own address
 * (getsockname), client its peer. Both unmapped and of the same family. Returns 0, and done() is
 * called later exactly once; or -1 with errno set, and it isn't: EBUSY if CONNTRACK_MAX questions
 * are outstanding, EINVAL for addresses of different families.
 */
#define CONNTRACK_MAX 4096
int conntrack_ask(struct conntrack *ct, struct conntrack_query *query, const union addr *local,
		  const union addr *client, conntrack_done *done, void *arg);

/* Forgets the question; done() won't be called. Harmless if there's none outstanding. */
void conntrack_cancel(struct conntrack_query *query);

#endif
