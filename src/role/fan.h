/* SPDX-License-Identifier: ISC */
#ifndef ROLE_FAN_H
#define ROLE_FAN_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How many stripes a flow should have. A flow that has moved little has one. One that moves much gets FAN_BULK, or FAN_LOSSY where packets get lost, and
 * from then on more are tried: twice as many, and they stay if the flow got faster by them. Where few stripes can fill the path (BBR) that ends at once;
 * where loss holds each stripe down (CUBIC) it goes on until the path is full. Bulk flows that run side by side share what one would have; and on a path
 * that holds only few packets a flow has no more stripes than can have some of them under way, since each keeps a few in the queue, at the expense of
 * others. Pure: the caller brings the clock by looking regularly.
 */
#define FAN_BULK 12

/* Where packets get lost, windows grow more slowly, and the less is on each stripe, the less a loss holds up. */
#define FAN_LOSSY (2 * FAN_BULK)

/* Stripes given back at a look when it has turned out that nothing gets lost. */
#define FAN_STEP 2

/* Stripes that bulk flows have together before any has earned more. */
#define FAN_TOTAL 24

/* Seconds between looks, and bytes between them that make a flow count as bulk. */
#define FAN_INTERVAL 0.5
#define FAN_GROWN 4 /* looks by which a busy flow has reached its speed */
#define FAN_BULK_BYTES (16 * 1024)

struct fan {
	unsigned least, most; /* bounds of target */
	unsigned target;      /* stripes that the flow should have */
	unsigned proven;      /* what it had before the trial that is going on; 0: none is */
	bool soon;	      /* as fan_init() was told */
	bool bulk;
	bool earned;	      /* a trial has shown that more are better */
	unsigned whole;	      /* stripes that the flow has when it's alone and bulk: FAN_BULK to FAN_LOSSY */
	uint64_t moved;	      /* bytes at the last look */
	uint64_t rate[2];     /* bytes between the last looks, the newest first */
	uint64_t base;	      /* the rate before the trial */
	unsigned looks;	      /* since the trial began */
	unsigned age;	      /* looks that found it busy, counted up to FAN_GROWN */
	uint32_t rtt;	      /* microseconds; 0: unknown */
	unsigned useful;      /* stripes that can be of use, when it was last more, or a quarter less, than it had been */
	unsigned still;	      /* looks in a row that found the flow at rest */
	unsigned pause;	      /* looks until the next trial */
	unsigned next_pause;
};

/* first: stripes at the beginning; never fewer than least, nor more than most. soon: more are tried sooner, for stripes without BBR. */
void fan_init(struct fan *fan, unsigned first, unsigned least, unsigned most, bool soon);

/*
 * Packets get lost, or not, as it looks now. What is lost may be what the flow itself has made the queue overflow by, at first: that's known later, and then
 * stripes are given back a few at each look, so that the others can take over what they have carried.
 */
void fan_note_loss(struct fan *fan, bool lossy);

/* The flow has moved enough to be called bulk. flows: how many are, with this one. */
void fan_bulk(struct fan *fan, unsigned flows);

/* Looks at the bytes that the flow has moved since it began, and sets target. flows as above; rtt: the path's, in microseconds, 0 if there's nothing new. */
void fan_look(struct fan *fan, uint64_t moved, unsigned flows, uint32_t rtt);

/* True if the last look found it to be one of the flows that share the path. */
bool fan_is_busy(const struct fan *fan);

#endif
