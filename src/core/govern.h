/* SPDX-License-Identifier: ISC */
#ifndef CORE_GOVERN_H
#define CORE_GOVERN_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

struct group;

/*
 * Keeps the stripes of a group from filling the bottleneck's queue together. Each BBR stripe takes the best that it has seen for its share, and the sum of
 * the best is more than the path carries (Hock, Bless, Zitterbart: Experimental Evaluation of BBR Congestion Control, ICNP 2017): a queue that always
 * overflows, and retransmissions that hold everything up. So a group as a whole does what BBR does for one connection: it measures what is delivered in a
 * round trip, over all stripes, and lets no more be under way than a little beyond that.
 */
#define GOVERN_ROUNDS 10

struct govern {
	bool on;
	bool startup;		     /* the rate still grows */
	bool free;		     /* nothing is bounded: the path is short, or crowded */
	bool denied;		     /* the spread waits for a tick that brings room */
	bool polite;		     /* no queue is wanted */
	bool limited;		     /* in this round the stripes, or we, held the flow back */
	ev_tstamp limited_at;	     /* when a round last ended in which that was so */
	ev_tstamp used_at;	     /* when bytes were last given to stripes */
	ev_timer tick;
	double room;		     /* bytes that may be given to stripes before the next tick; below 0 if more were */
	double paced;		     /* what the pace allows of them */
	uint64_t delivered_sum;	     /* by all stripes */
	uint64_t delivered;	     /* that at the beginning of the round */
	ev_tstamp round_at, looked_at;
	double rates[GOVERN_ROUNDS]; /* bytes a second, of the last rounds */
	unsigned round;
	unsigned phase;		     /* rounds since the last one that sent more than the rate */
	unsigned successes;	     /* of those, in a row, that have found the rate grown */
	double plateau;		     /* the rate that startup has last grown beyond */
	unsigned flat;		     /* rounds since then */
	unsigned slow;		     /* rounds in a row that ended with a long queue */
	ev_tstamp free_until;	     /* 0: governed */
	uint32_t rtt, rtt_min;	     /* microseconds: now, and the shortest; 0: unknown */
	uint32_t rtt_lows[2];	     /* since rtt_at, and before that */
	ev_tstamp rtt_at;
};

/* Seconds between looks at the stripes. */
#define GOVERN_TICK 0.004

/* What a look finds: sums over the stripes. Bytes and microseconds. */
struct govern_sample {
	uint64_t moved, delivered, flying; /* by the flow, both ways; for this flow; under way or in the stripes' sockets */
	uint32_t rtt;	   /* the shortest of the stripes' on which something was delivered since the last look; 0: none */
	uint32_t rtt_ever; /* the shortest that the kernel knows; 0: unknown */
	unsigned stripes;
	bool talk;  /* other flows have sent something for which somebody may wait */
	bool lossy; /* packets get lost on the way */
};

/* The rules, without stripes, loop and clock: begin, or begin again; learn from a look how much room there is; n bytes of it are used. */
void govern_begin(struct govern *govern, ev_tstamp now);
void govern_learn(struct govern *govern, const struct govern_sample *sample, ev_tstamp now);
void govern_spend(struct govern *govern, size_t n);

/* Ends the governing of a group, if it has begun. */
void govern_stop(struct group *group);

/* Bytes that may be given to stripes now; begins to govern a flow that has become bulk. */
uint64_t govern_room(struct group *group);

/* True if it governs the flow, which hasn't reached its speed: it looks at the stripes every few milliseconds. */
bool govern_in_startup(const struct group *group);

/* True if of late the flow had more to send than the stripes, or we, let it. */
bool govern_is_bulk(const struct group *group);

/* n bytes were given to a stripe. */
void govern_take(struct group *group, size_t n);

/* No stripe could take data that was, or may have been, there. */
void govern_blocked(struct group *group);

#endif
