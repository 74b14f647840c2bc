/* SPDX-License-Identifier: ISC */
#include <stdlib.h>

#include "wan_link.h"

#define NS_PER_S UINT64_C(1000000000)

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

void pool_init(struct packet_pool *pool, size_t room, size_t limit)
{
	STAILQ_INIT(&pool->free);
	pool->room = room;
	pool->left = limit;
}

struct packet *pool_get(struct packet_pool *pool)
{
	struct packet *packet = STAILQ_FIRST(&pool->free);

	if (packet) {
		STAILQ_REMOVE_HEAD(&pool->free, next);
		return packet;
	}
	if (pool->left == 0)
		return NULL;
	packet = malloc(sizeof(*packet) + pool->room);
	if (packet)
		pool->left--;
	return packet;
}

void pool_put(struct packet_pool *pool, struct packet *packet)
{
	STAILQ_INSERT_HEAD(&pool->free, packet, next);
}

void pool_free(struct packet_pool *pool)
{
	struct packet *packet;

	while ((packet = STAILQ_FIRST(&pool->free))) {
		STAILQ_REMOVE_HEAD(&pool->free, next);
		free(packet);
	}
}

void link_init(struct link *link, struct packet_pool *pool, uint64_t seed)
{
	*link = (struct link){
		.settings = { .queue = 1250000, .burst = 1, .reorder_delay = 5000000 },
		.pool = pool,
		.random = seed,
	};
	STAILQ_INIT(&link->queue);
	STAILQ_INIT(&link->line);
	STAILQ_INIT(&link->held);
}

static void list_clear(struct packet_list *list, struct packet_pool *pool)
{
	struct packet *packet;

	while ((packet = STAILQ_FIRST(list))) {
		STAILQ_REMOVE_HEAD(list, next);
		pool_put(pool, packet);
	}
}

void link_clear(struct link *link)
{
	list_clear(&link->queue, link->pool);
	list_clear(&link->line, link->pool);
	list_clear(&link->held, link->pool);
	link->queued = 0;
}

/* splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). */
static double random_unit(struct link *link)
{
	uint64_t z = (link->random += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	return (double)(z >> 11) * 0x1p-53;
}

static bool chance(struct link *link, double share)
{
	return share > 0 && random_unit(link) < share;
}

/*
 * With bursts this is the simple Gilbert model: all is lost in the bad state and nothing in the
 * good one. Leaving the bad state with 1/burst makes the mean burst as asked for; entering it with
 * loss / (burst * (1 - loss)) makes its share of the packets `loss`. What disturbs a link is over at
 * some time, whether packets come or not: after a silence the state is drawn anew, with that share.
 * Else a burst would wait for the retransmissions of a TCP alone, longer and longer between them,
 * and last for minutes.
 */
static bool is_lost(struct link *link, uint64_t now)
{
	const struct link_settings *s = &link->settings;
	bool silent = now > link->arrived_at + LINK_BURST_GAP;

	link->arrived_at = now;
	if (s->burst <= 1 || s->loss <= 0) {
		link->bursting = false;
		return chance(link, s->loss);
	}
	if (silent)
		link->bursting = chance(link, s->loss);
	else if (link->bursting)
		link->bursting = !chance(link, 1 / s->burst);
	else
		link->bursting = chance(link, s->loss / (s->burst * (1 - s->loss)));
	return link->bursting;
}

static uint64_t transmit_time(const struct link *link, const struct packet *packet)
{
	if (link->settings.rate == 0)
		return 0;
	return (packet->size + LINK_FRAMING) * 8 * NS_PER_S / link->settings.rate;
}

/* A packet left the bottleneck at `left`. Without reordering a direction never overtakes itself,
 * not even when its delay is made shorter meanwhile. */
static void to_delay_line(struct link *link, struct packet *packet, uint64_t left)
{
	bool hold = chance(link, link->settings.reorder);
	struct packet_list *list = hold ? &link->held : &link->line;
	uint64_t *last = hold ? &link->held_due : &link->line_due;

	packet->due = left + link->settings.delay;
	if (hold) {
		packet->due += link->settings.reorder_delay;
		link->counters.reordered++;
	}
	packet->due = later(packet->due, *last);
	*last = packet->due;
	STAILQ_INSERT_TAIL(list, packet, next);
}

/*
 * Brings the bottleneck up to date. Departures are reckoned from the departure before, not from
 * when we looked, so the rate is exact however late we look.
 */
static void advance(struct link *link, uint64_t now)
{
	struct packet *packet;

	while ((packet = STAILQ_FIRST(&link->queue)) && link->head_done <= now) {
		STAILQ_REMOVE_HEAD(&link->queue, next);
		link->queued -= packet->size;
		to_delay_line(link, packet, later(packet->due, link->head_done));
		if (!STAILQ_EMPTY(&link->queue))
			link->head_done += transmit_time(link, STAILQ_FIRST(&link->queue));
	}
}

void link_change(struct link *link, const struct link_settings *settings, uint64_t now)
{
	bool rate_changes = settings->rate != link->settings.rate;

	advance(link, now);
	link->settings = *settings;
	if (rate_changes && !STAILQ_EMPTY(&link->queue))
		link->head_done = now + transmit_time(link, STAILQ_FIRST(&link->queue));
}

void link_arrive(struct link *link, struct packet *packet, uint64_t now)
{
	struct link_counters *counters = &link->counters;

	counters->arrived++;
	if (link->blackhole) {
		counters->dropped_blackhole++;
		pool_put(link->pool, packet);
		return;
	}
	if (is_lost(link, now)) {
		counters->dropped_loss++;
		pool_put(link->pool, packet);
		return;
	}
	advance(link, now);
	if (STAILQ_EMPTY(&link->queue)) {
		/* Not idle when the last packet was taken ahead of its time, nor idle for as long
		 * as it looks: this packet may have come while the caller was about to wake up. */
		link->head_done = later(now - earlier(now, LINK_SLACK), link->head_done) +
				  transmit_time(link, packet);
	} else if (link->queued + packet->size > link->settings.queue) {
		counters->dropped_queue++;
		pool_put(link->pool, packet);
		return;
	}
	packet->due = now;
	STAILQ_INSERT_TAIL(&link->queue, packet, next);
	link->queued += packet->size;
}

static struct packet *take_due(struct link *link, uint64_t now)
{
	struct packet *line = STAILQ_FIRST(&link->line);
	struct packet *held = STAILQ_FIRST(&link->held);
	bool from_held = held && (!line || held->due < line->due);
	struct packet *packet = from_held ? held : line;

	if (!packet || packet->due > now)
		return NULL;
	if (from_held)
		STAILQ_REMOVE_HEAD(&link->held, next);
	else
		STAILQ_REMOVE_HEAD(&link->line, next);
	return packet;
}

struct packet *link_take(struct link *link, uint64_t now)
{
	struct packet *packet;

	advance(link, now);
	while ((packet = take_due(link, now)) && link->blackhole) {
		link->counters.dropped_blackhole++;
		pool_put(link->pool, packet);
	}
	return packet;
}

uint64_t link_next(const struct link *link)
{
	uint64_t next = LINK_NEVER;

	if (!STAILQ_EMPTY(&link->line))
		next = STAILQ_FIRST(&link->line)->due;
	if (!STAILQ_EMPTY(&link->held))
		next = earlier(next, STAILQ_FIRST(&link->held)->due);
	/* What still waits may come out first: a held packet does not hold up the rest. */
	if (!STAILQ_EMPTY(&link->queue))
		next = earlier(next, link->head_done + link->settings.delay);
	return next;
}
