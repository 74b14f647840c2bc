/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <string.h>

#include "core/choose.h"
#include "core/group.h"
#include "core/repeat.h"

/* Seconds without new data after which a flow is at rest: a server close by that is still at it would have given more. */
#define REST 0.005

/* A path is lossy if one packet in so many was retransmitted. When fewer were sent in all it isn't known. */
#define LOSSY 250

/* On the way in, if one in so many was ahead of another: after each that's lost some are. */
#define DISORDERED 50

/* Packets after which what was before them counts half. */
#define PACKETS_LATE 4096

/* Among more flows there's always one that could use the capacity. */
#define FLOWS_MAX 16

struct repeat_piece {
	STAILQ_ENTRY(repeat_piece) link;
	const struct stripe *stripe; /* only to tell it from others: it may be gone */
	ev_tstamp at;
	uint32_t serial, size;
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

static bool loses_out(const struct engine *engine)
{
	return engine->repeated * LOSSY > engine->sent;
}

bool repeat_is_lossy(const struct engine *engine)
{
	return loses_out(engine) || engine->disordered * DISORDERED > engine->received;
}

bool repeat_wanted(const struct group *group, const struct stripe *stripe)
{
	return !group->base && group->stripe_count > 1 && group->moved < REPEAT_YOUNG &&
	       stripe->out.path.rtt_min >= STRIPE_RTT_SHORT &&
	       counter_read(&group->engine->counters.flows_now) <= FLOWS_MAX &&
	       (group->engine->sent < LOSSY || loses_out(group->engine));
}

static void drop_first(struct repeat *repeat)
{
	struct repeat_piece *piece = STAILQ_FIRST(&repeat->pieces);

	STAILQ_REMOVE_HEAD(&repeat->pieces, link);
	repeat->size -= sizeof(*piece) + piece->size;
	free(piece);
}

/* After a round trip they are acknowledged, or TCP knows itself that they are lost. */
static void drop_old(struct repeat *repeat, ev_tstamp now)
{
	const struct repeat_piece *piece;

	while ((piece = STAILQ_FIRST(&repeat->pieces)) != NULL &&
	       (now - piece->at > repeat->round_trip || repeat->size > REPEAT_YOUNG))
		drop_first(repeat);
}

/* May end the group. */
static void send_again(struct group *group, struct stripe *stripe, const struct repeat_piece *piece)
{
	if (hold_put(group->engine->pool, &stripe->out.datagram, piece->bytes, piece->size) < 0)
		return;
	counter_add(&group->engine->counters.datagrams_repeated, 1);
	stripe_start(stripe, piece->serial, piece->size);
	if (stripe_flush(stripe))
		stripe_look(stripe, 0.);
}

/* There may be more to send, for which no stripe has room. */
static bool is_blocked(const struct group *group)
{
	return !group->spread.eof && !ev_is_active(&group->local_rd);
}

static void on_rest(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct group *group = timer->data;
	const struct repeat_piece *piece;
	struct stripe *stripe;

	(void)revents;
	drop_old(group->repeat, ev_now(loop));
	if (!STAILQ_EMPTY(&group->repeat->pieces) && is_blocked(group)) {
		ev_timer_again(loop, timer);
		return;
	}
	ev_timer_stop(loop, timer);
	/* If the group ends meanwhile, all of it is freed. */
	while (group->repeat != NULL && (piece = STAILQ_FIRST(&group->repeat->pieces)) != NULL) {
		stripe = choose_spare(group, piece->stripe, piece->serial, piece->size);
		if (stripe != NULL)
			send_again(group, stripe, piece);
		if (group->repeat != NULL)
			drop_first(group->repeat);
	}
}

static struct repeat *get(struct group *group)
{
	struct repeat *repeat = group->repeat;

	if (repeat != NULL || (repeat = calloc(1, sizeof(*repeat))) == NULL)
		return repeat;
	STAILQ_INIT(&repeat->pieces);
	ev_timer_init(&repeat->rest, on_rest, 0., REST);
	repeat->rest.data = group;
	group->repeat = repeat;
	return repeat;
}

void repeat_keep(struct group *group, const struct stripe *stripe, uint32_t serial, const uint8_t *bytes, size_t n)
{
	struct repeat *repeat = get(group);
	struct repeat_piece *piece = repeat != NULL ? malloc(sizeof(*piece) + n) : NULL;

	if (piece == NULL)
		return;
	piece->stripe = stripe;
	piece->at = ev_now(group->engine->loop);
	piece->serial = serial;
	piece->size = (uint32_t)n;
	memcpy(piece->bytes, bytes, n);
	STAILQ_INSERT_TAIL(&repeat->pieces, piece, link);
	repeat->size += sizeof(*piece) + n;
	repeat->round_trip = stripe->out.path.rtt / 1e6;
	drop_old(repeat, piece->at);
	ev_timer_again(group->engine->loop, &repeat->rest);
}

void repeat_stop(struct group *group)
{
	if (group->repeat == NULL)
		return;
	ev_timer_stop(group->engine->loop, &group->repeat->rest);
	while (!STAILQ_EMPTY(&group->repeat->pieces))
		drop_first(group->repeat);
	free(group->repeat);
	group->repeat = NULL;
}
