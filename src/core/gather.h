/* SPDX-License-Identifier: ISC */
#ifndef CORE_GATHER_H
#define CORE_GATHER_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "wire/parity.h"

struct engine;
struct group;
struct stripe;

/*
 * Where packets get lost, what a young flow's peer sends may be covered by parity (cover.h), from which that is made good which waits behind a lost
 * packet. For this the datagrams that it covers must be at hand: those that are marked as kept are read into memory as they come, due or not, and are
 * there for a while after they were delivered. That is bounded for the flow and for the worker; and what isn't gathered waits in its stripe for its
 * serial, as everything else does (merge.h).
 */
#define GATHER_SLOTS 512

/* From the serial that's due on so many have a slot each: 0 is none, so that beyond the largest two of GATHER_SLOTS would have the same. */
#define GATHER_REACH (GATHER_SLOTS - 1)

/* A kept datagram, or a parity with its header, on its way in or whole. */
struct gather_piece {
	uint32_t serial;
	uint32_t size; /* of the payload */
	uint32_t got;  /* bytes that have come */
	uint8_t bytes[]; /* of a kept one: PARITY_PREFIX bytes of room, then the payload */
};

struct gather_block;
TAILQ_HEAD(gather_blocks, gather_block);

struct gather {
	struct gather_piece *slots[GATHER_SLOTS]; /* whole ones, by serial */
	struct gather_blocks blocks;		  /* of which there is a parity, the newest last */
	unsigned block_count;
	bool off; /* until it's forgotten, no more parities are taken */
	size_t size; /* of the memory of pieces and blocks */
	uint32_t oldest; /* no piece has an earlier serial */
	ev_timer rest;
};

/* Begins to read the kept datagram, or the parity, whose header the stripe has read into memory: stripe->in.piece. False if that's not to be. */
bool gather_begin(struct stripe *stripe);

/* What the stripe has begun is whole: it's taken over, and what can be recovered is. False if it makes no sense. */
bool gather_whole(struct stripe *stripe);

/* The stripe leaves its group, or has lost interest. */
void gather_forget(struct stripe *stripe);

/* The datagram with this serial, whole; NULL if it isn't at hand. It stays the group's. */
const struct gather_piece *gather_find(const struct group *group, uint32_t serial);

/* True if one is at hand that can't be, if so many from the due one on are still to come. */
bool gather_is_past(const struct group *group, uint32_t count);

/* Forgets all but what stripes have begun. */
void gather_stop(struct group *group);

#endif
