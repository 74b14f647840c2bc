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
 * With 1 % loss every second flow of a hundred kilobytes has to wait for a packet to be sent again: a round trip more, which is as long as all the
 * rest. So where packets get lost, what a young flow sends is kept until it has arrived, and sent once more on another stripe, of which the peer takes what
 * comes first: when the flow comes to rest, since then it has no use for the capacity; and later if it's overdue, which shows on all stripes together
 * sooner than on the one. One stripe in REPEAT_SPARE is kept free for that, since a copy can't follow a later datagram; of the others none has
 * much more than another, since a loss holds up all that is behind it. It costs a flow at most REPEAT_YOUNG bytes of memory.
 */
#define REPEAT_YOUNG (1024 * 1024)
#define REPEAT_SPARE 4

STAILQ_HEAD(repeat_pieces, repeat_piece);

struct repeat {
	struct repeat_pieces pieces; /* datagrams that aren't known to have arrived, in the order of their serials */
	size_t size;		     /* of their memory */
	unsigned count;
	ev_timer tick;		     /* as long as there are any */
	ev_tstamp kept_at;	     /* when the last of them was sent for the first time */
	bool rested;		     /* since then the flow has been at rest */
	ev_tstamp round_trip, shortest; /* of the stripe that sent it; as it is, and as it can be */
	uint32_t orders, arrived;    /* how often any was sent, and the last of these that has arrived */
	ev_tstamp arrived_at;	     /* when the last was found to have */
};

/* A stripe of the engine has come from one state of its path to another. */
void repeat_learn(struct engine *engine, const struct sock_path *before, const struct sock_path *now);

/* True if it's known that of late many packets were lost on the way out. */
bool repeat_loses_out(const struct engine *engine);

/* True if of late so many packets were lost, on the way out or in, that repeating is worthwhile; and as long as it isn't known. */
bool repeat_may_be_lossy(const struct engine *engine);

/* True if what the flow sends by this stripe now is worth keeping, for all that's known: then it must pass through a buffer. */
bool repeat_wanted(const struct group *group, const struct stripe *stripe);

/*
 * Keeps a copy of the payload of the datagram that the stripe was just given, until it has arrived; of all no more than REPEAT_YOUNG bytes of memory.
 * Without memory it does nothing.
 */
void repeat_keep(struct group *group, const struct stripe *stripe, const uint8_t *bytes, size_t n);

/* Forgets all. */
void repeat_stop(struct group *group);

#endif
