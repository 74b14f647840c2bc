/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <string.h>

#include "core/choose.h"
#include "core/govern.h"
#include "core/group.h"
#include "core/repeat.h"

/*
 * Seconds without new data after which a flow is at rest: a server close by that is still at it would have given more. And between looks at what has
 * arrived.
 */
#define REST 0.002
#define TICK 0.005

/* A path is lossy if one packet in so many was retransmitted. When fewer were sent in all it isn't known. */
#define LOSSY 250

/* On the way in, if one in so many was ahead of another: after each that's lost some are. */
#define DISORDERED 150

/* Packets after which what was before them counts half. */
#define PACKETS_LATE 4096

/* A datagram that nothing says has arrived is overdue after this multiple of the round trip, if for so many seconds nothing else arrived either. */
#define OVERDUE 1.25
#define QUIET 0.02

/* Round trips after which it's TCP's. */
#define AGE_MAX 8

/* A flow that comes in pieces smaller than a few packets isn't worth the work. */
#define PIECES_MAX 256

/* Stripes that a datagram is known to be on; there can be one more. */
#define CARRIERS 2

struct carrier {
	const struct stripe *stripe; /* only to find it: it may be gone */
	uint32_t end;		     /* where it had sent the datagram whole: stripe_end() */
	uint32_t order;		     /* of all that were sent */
};

struct repeat_piece {
	STAILQ_ENTRY(repeat_piece) link;
	ev_tstamp at; /* when it was last sent */
	uint32_t serial, size;
	uint8_t carriers;
	ev_tstamp passed_at; /* when it was found that what was sent after it has arrived; 0: it wasn't */
	struct carrier by[CARRIERS];
	uint8_t bytes[];
};

static void count(uint32_t *packets, uint32_t *bad, uint32_t more, uint32_t more_bad)
{
	*packets += more;
	*bad += more_bad;
	while (*packets >= 2 * PACKETS_LATE) {
		*packets /= 2;
		*bad /= 2;
	}
}

void repeat_learn(struct engine *engine, const struct sock_path *before, const struct sock_path *now)
{
	/* On a short path TCP itself is quick enough. */
	bool counts = now->rtt_min >= STRIPE_RTT_SHORT;

	count(&engine->sent, &engine->repeated, now->sent - before->sent, counts ? now->repeated - before->repeated : 0);
	count(&engine->received, &engine->disordered, now->received - before->received,
	      counts ? now->disordered - before->disordered : 0);
}

bool repeat_loses_out(const struct engine *engine)
{
	return engine->repeated * LOSSY > engine->sent;
}

bool repeat_may_be_lossy(const struct engine *engine)
{
	return engine->sent + engine->received < LOSSY || repeat_loses_out(engine) || engine->disordered * DISORDERED > engine->received;
}

bool repeat_wanted(const struct group *group, const struct stripe *stripe)
{
	return !group->base && group->stripe_count > 1 && group->moved < REPEAT_YOUNG &&
	       stripe->out.path.rtt_min >= STRIPE_RTT_SHORT &&
	       !engine_is_crowded(group->engine) &&
	       (group->engine->sent < LOSSY || repeat_loses_out(group->engine));
}

static size_t memory(const struct repeat_piece *piece)
{
	return sizeof(*piece) + piece->size;
}

static void drop(struct repeat *repeat, struct repeat_piece *piece)
{
	STAILQ_REMOVE(&repeat->pieces, piece, repeat_piece, link);
	repeat->size -= memory(piece);
	repeat->count--;
	free(piece);
}

static void note_carrier(struct repeat *repeat, struct repeat_piece *piece, const struct stripe *stripe, ev_tstamp now)
{
	piece->by[piece->carriers++] = (struct carrier){.stripe = stripe, .end = stripe_end(stripe), .order = ++repeat->orders};
	piece->at = now;
	piece->passed_at = 0.;
}

static const struct stripe *find(const struct group *group, const struct stripe *wanted)
{
	const struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (stripe == wanted)
			return stripe;
	}
	return NULL;
}

/* Of a stripe's bytes, counted modulo 2^32. */
static bool is_past(uint32_t position, uint32_t end)
{
	return (int32_t)(position - end) >= 0;
}

/* By the carrier that's returned; NULL if it hasn't. A stripe leaves the group only when all it had has arrived, or the group goes with it. */
static const struct carrier *arrived_by(const struct group *group, const struct repeat_piece *piece)
{
	const struct stripe *stripe;

	for (unsigned i = 0; i < piece->carriers; i++) {
		stripe = find(group, piece->by[i].stripe);
		if (stripe == NULL || is_past(stripe->out.acknowledged, piece->by[i].end))
			return &piece->by[i];
	}
	return NULL;
}

/* Until then it waits in the socket, and its time doesn't count. */
static bool has_left(const struct group *group, const struct repeat_piece *piece)
{
	const struct carrier *by = &piece->by[piece->carriers - 1];
	const struct stripe *stripe = find(group, by->stripe);

	return stripe == NULL || stripe->out.unsent == 0 || is_past(stripe->out.given - stripe->out.unsent, by->end);
}

/* Drops what has arrived, and what is too old, or of a time that's still to come: it's the time of day, which may be set back. */
static void look_for_arrivals(struct group *group, ev_tstamp now)
{
	struct repeat *repeat = group->repeat;
	struct repeat_piece *piece, *next;
	const struct carrier *by;
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link)
		stripe_look_back(stripe);
	for (piece = STAILQ_FIRST(&repeat->pieces); piece != NULL; piece = next) {
		next = STAILQ_NEXT(piece, link);
		if (now >= piece->at && now - piece->at < repeat->shortest)
			continue;
		by = arrived_by(group, piece);
		if (by != NULL) {
			repeat->arrived_at = now;
			repeat->arrived = by->order > repeat->arrived ? by->order : repeat->arrived;
			drop(repeat, piece);
		} else if (now < piece->at || now - piece->at > repeat->round_trip * AGE_MAX) {
			drop(repeat, piece);
		} else if (!has_left(group, piece)) {
			piece->by[piece->carriers - 1].order = ++repeat->orders;
			piece->at = now;
		}
	}
}

/*
 * On one path, what was sent first arrives first, whatever the stripe: what was sent before something that has arrived is lost, if it isn't there a tick
 * later. TCP finds that out by itself, at about the same time, if the same stripe has sent more; else it's as long again in coming to a decision.
 */
static bool is_overdue(const struct repeat *repeat, struct repeat_piece *piece, ev_tstamp now)
{
	if (now - piece->at < repeat->shortest)
		return false;
	if (piece->by[piece->carriers - 1].order >= repeat->arrived)
		piece->passed_at = 0.;
	else if (piece->passed_at == 0.)
		piece->passed_at = now;
	return (piece->passed_at != 0. && now - piece->passed_at >= TICK) ||
	       (now - piece->at > repeat->round_trip * OVERDUE && now - repeat->arrived_at > QUIET);
}

/* False if the group has ended by it, and all is forgotten. */
static bool send_again(struct group *group, struct stripe *stripe, struct repeat_piece *piece, ev_tstamp now)
{
	if (hold_put(group->engine->pool, &stripe->out.datagram, piece->bytes, piece->size) < 0)
		return true;
	counter_add(&group->engine->counters.datagrams_repeated, 1);
	stripe_start(stripe, piece->serial, piece->size);
	if (piece->carriers < CARRIERS)
		note_carrier(group->repeat, piece, stripe, now);
	else
		drop(group->repeat, piece);
	if (stripe_flush(stripe))
		stripe_look(stripe, 0.);
	return group->repeat != NULL;
}

/* While the flow finds its speed, it's windows that have no room: the path has, for copies. */
static bool is_blocked(const struct group *group)
{
	return spread_is_blocked(group) && !govern_in_startup(group);
}

static size_t sent_once(const struct repeat *repeat)
{
	const struct repeat_piece *piece;
	size_t bytes = 0;

	STAILQ_FOREACH(piece, &repeat->pieces, link)
		bytes += piece->carriers == 1 ? memory(piece) : 0;
	return bytes;
}

/*
 * At rest, what was sent last comes first, where there isn't room for copies of all: what was sent before it is known to be lost, and sent again, before
 * that. What the sockets don't take now they take at a later tick. May end the group.
 */
static void repeat_due(struct group *group, ev_tstamp now)
{
	struct repeat *repeat = group->repeat;
	struct repeat_piece *piece, *next;
	size_t left = sent_once(repeat);
	struct stripe *stripe;
	bool overdue, once, tail = false;

	for (piece = STAILQ_FIRST(&repeat->pieces); piece != NULL; piece = next) {
		next = STAILQ_NEXT(piece, link);
		overdue = is_overdue(repeat, piece, now);
		once = piece->carriers == 1;
		/* Later ones have more room: a stripe that has carried earlier ones can carry them. */
		tail = tail || (repeat->rested && once && left <= choose_spare_room(group, piece->serial));
		left -= once ? memory(piece) : 0;
		stripe = overdue || (tail && once) ? choose_spare(group, piece->serial, piece->size, overdue) : NULL;
		if (stripe != NULL && !send_again(group, stripe, piece, now))
			return;
	}
}

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct group *group = timer->data;
	struct repeat *repeat = group->repeat;
	ev_tstamp now = ev_now(loop);

	(void)revents;
	look_for_arrivals(group, now);
	repeat->rested = repeat->rested || (now - repeat->kept_at >= REST && !is_blocked(group));
	timer->repeat = STAILQ_EMPTY(&repeat->pieces) ? 0. : repeat->rested ? TICK : REST;
	ev_timer_again(loop, timer);
	if (!STAILQ_EMPTY(&repeat->pieces))
		repeat_due(group, now);
}

static struct repeat *get(struct group *group)
{
	struct repeat *repeat = group->repeat;

	if (repeat != NULL || (repeat = calloc(1, sizeof(*repeat))) == NULL)
		return repeat;
	STAILQ_INIT(&repeat->pieces);
	ev_timer_init(&repeat->tick, on_tick, 0., REST);
	repeat->tick.data = group;
	group->repeat = repeat;
	return repeat;
}

void repeat_keep(struct group *group, const struct stripe *stripe, const uint8_t *bytes, size_t n)
{
	struct repeat *repeat = get(group);
	struct repeat_piece *piece = repeat != NULL ? malloc(sizeof(*piece) + n) : NULL;

	if (piece == NULL)
		return;
	memset(piece, 0, sizeof(*piece));
	piece->serial = stripe->out.last;
	piece->size = (uint32_t)n;
	memcpy(piece->bytes, bytes, n);
	STAILQ_INSERT_TAIL(&repeat->pieces, piece, link);
	repeat->size += memory(piece);
	repeat->count++;
	repeat->kept_at = ev_now(group->engine->loop);
	repeat->rested = false;
	repeat->shortest = stripe->out.path.rtt_min / 1e6;
	repeat->round_trip = stripe->out.path.rtt / 1e6;
	note_carrier(repeat, piece, stripe, repeat->kept_at);
	while (repeat->size > REPEAT_YOUNG || repeat->count > PIECES_MAX)
		drop(repeat, STAILQ_FIRST(&repeat->pieces));
	if (repeat->tick.repeat == REST && ev_is_active(&repeat->tick))
		return;
	repeat->tick.repeat = REST;
	ev_timer_again(group->engine->loop, &repeat->tick);
}

void repeat_stop(struct group *group)
{
	if (group->repeat == NULL)
		return;
	ev_timer_stop(group->engine->loop, &group->repeat->tick);
	while (!STAILQ_EMPTY(&group->repeat->pieces))
		drop(group->repeat, STAILQ_FIRST(&group->repeat->pieces));
	free(group->repeat);
	group->repeat = NULL;
}
