/* SPDX-License-Identifier: ISC */
#ifndef WAN_LINK_H
#define WAN_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

/*
 * One direction of the emulated link, as a model without I/O and without a clock: the caller says
 * what time it is. All times are nanoseconds of one monotonic clock.
 *
 *   arrive -> blackhole? -> loss? -> queue (limit in bytes) -> bottleneck (rate) -> delay line ->
 * take
 */

#define LINK_NEVER UINT64_MAX

/* On the wire a packet has an Ethernet header, as tc(8) counts it; queue and counters are without.
 */
#define LINK_FRAMING 14

/*
 * How late, in ns, packets may be handed to us without the bottleneck losing capacity by it. It is
 * a burst of so much time: over any period the link carries at most rate * (period + slack).
 */
#define LINK_SLACK UINT64_C(200000)

/* A burst of losses has no memory of what came this many ns ago. */
#define LINK_BURST_GAP UINT64_C(50000000)

struct packet {
	STAILQ_ENTRY(packet) next;
	uint64_t due; /* while it waits in the queue: when it came */
	uint32_t size;
	uint8_t data[];
};

STAILQ_HEAD(packet_list, packet);

/* Packet buffers, kept for reuse. `left` bounds how many more may be allocated. */
struct packet_pool {
	struct packet_list free;
	size_t room;
	size_t left;
};

struct link_settings {
	uint64_t rate;		/* bit/s, 0 = unlimited */
	uint64_t delay;		/* ns, one way */
	uint64_t queue;		/* bytes that may wait before the bottleneck */
	double loss;		/* share of packets, 0..1 */
	double burst;		/* mean length of a loss burst; 1 = every packet for itself */
	double reorder;		/* share of packets that is held back */
	uint64_t reorder_delay; /* ns that these are held back */
};

struct link_counters {
	uint64_t arrived;
	uint64_t packets; /* delivered */
	uint64_t bytes;	  /* delivered */
	uint64_t dropped_queue;
	uint64_t dropped_loss;
	uint64_t dropped_blackhole;
	uint64_t undeliverable; /* refused by the far device, because it is down for instance */
	uint64_t reordered;
	uint64_t
		late; /* delivered more than LINK_LATE after their time: the emulator was starved */
};

#define LINK_LATE UINT64_C(1000000)

struct link {
	struct link_settings settings;
	struct link_counters counters;
	bool blackhole;
	struct packet_pool *pool;
	uint64_t random;
	bool bursting;
	uint64_t arrived_at; /* when the last packet came */
	struct packet_list queue;
	uint64_t queued;    /* bytes in queue */
	uint64_t head_done; /* when the head of the queue will have left the bottleneck */
	struct packet_list line;
	struct packet_list held; /* the delay line of reordered packets */
	uint64_t line_due;	 /* due of the last packet of line; held_due likewise */
	uint64_t held_due;
};

/* Makes an empty pool of buffers for packets of up to room bytes, at most limit of them. */
void pool_init(struct packet_pool *pool, size_t room, size_t limit);

/* Returns a buffer the caller owns until pool_put() or link_arrive(), or NULL at the limit. */
struct packet *pool_get(struct packet_pool *pool);
void pool_put(struct packet_pool *pool, struct packet *packet);
void pool_free(struct packet_pool *pool);

/* An unlimited, lossless direction without delay; the same seed gives the same losses. */
void link_init(struct link *link, struct packet_pool *pool, uint64_t seed);

/* Gives everything that is under way back to the pool. */
void link_clear(struct link *link);

/* Puts new settings in force from now on; packets that have left the bottleneck keep their time. */
void link_change(struct link *link, const struct link_settings *settings, uint64_t now);

/* A packet enters. The link owns it from here and may drop it at once. */
void link_arrive(struct link *link, struct packet *packet, uint64_t now);

/* Returns the next packet that is due by now, which the caller then owns, or NULL. */
struct packet *link_take(struct link *link, uint64_t now);

/* When link_take() should be called next; LINK_NEVER while nothing is under way. */
uint64_t link_next(const struct link *link);

#endif
