/* SPDX-License-Identifier: ISC */
#ifndef CORE_REPEAT_H
#define CORE_REPEAT_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "net/sock.h"

struct engine;
struct group;
struct stripe;

/*
 * With 1 % loss every second flow of a hundred kilobytes has to wait for a packet to be sent again: a round trip more, which is as long as all
 * the rest. So when a young flow comes to rest, what it has just sent is sent once more on stripes that have nothing to do, and the peer takes
 * what comes first. It costs capacity that the flow has no use for at the moment, and of that at most REPEAT_YOUNG bytes.
 */
#define REPEAT_YOUNG (1024 * 1024)

STAILQ_HEAD(repeat_pieces, repeat_piece);

struct repeat {
	struct repeat_pieces pieces; /* datagrams as they were sent, the oldest first */
	size_t size;		     /* of their memory */
	ev_tstamp round_trip;	     /* that of the stripe which sent the last of them */
	ev_timer rest;		     /* the flow has sent nothing for a while */
};

/* A stripe of the engine has come from one state of its path to another. */
void repeat_learn(struct engine *engine, const struct sock_path *before, const struct sock_path *now);

/* True if of late so many packets were lost, on the way out or in, that repeating is worthwhile. */
bool repeat_is_lossy(const struct engine *engine);

/* True if what the flow sends by this stripe now is worth keeping, for all that's known: then it must pass through a buffer. */
bool repeat_wanted(const struct group *group, const struct stripe *stripe);

/*
 * Keeps a copy of the payload of a datagram that the stripe takes, for a round trip at most, and of all no more than REPEAT_YOUNG bytes of memory;
 * without memory it does nothing.
 */
void repeat_keep(struct group *group, const struct stripe *stripe, uint32_t serial, const uint8_t *bytes, size_t n);

/* Forgets all. */
void repeat_stop(struct group *group);

#endif
