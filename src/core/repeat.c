/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <string.h>

#include "core/choose.h"
#include "core/group.h"
#include "core/repeat.h"

/* Seconds without new data after which a flow is at rest: a server close by that is still at it would have given more. */
#define REST 0.005

/* A path is lossy if one packet in so many was retransmitted; and as long as too few were sent to know. */
#define LOSSY 250

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

void repeat_learn(struct engine *engine, uint32_t sent, uint32_t repeated)
{
	engine->sent += sent;
	engine->repeated += repeated;
	while (engine->sent >= 2 * PACKETS_LATE) {
		engine->sent /= 2;
		engine->repeated /= 2;
	}
}

bool repeat_is_lossy(const struct engine *engine)
{
	return (engine->repeated + 1) * LOSSY > engine->sent;
}

bool repeat_wanted(const struct group *group, const struct stripe *stripe)
{
	return !group->base && group->stripe_count > 1 && group->moved < REPEAT_YOUNG &&
	       stripe->out.path.rtt_min >= STRIPE_RTT_SHORT &&
	       counter_read(&group->engine->counters.flows_now) <= FLOWS_MAX && repeat_is_lossy(group->engine);
}

static void free_pieces(struct repeat_pieces *pieces)
{
	struct repeat_piece *piece;

	while ((piece = STAILQ_FIRST(pieces)) != NULL) {
		STAILQ_REMOVE_HEAD(pieces, link);
		free(piece);
	}
}

/* May end the group. */
static void send_again(struct group *group, const struct repeat_piece *piece)
{
	struct stripe *stripe;

	/* Older ones are acknowledged by now, or TCP knows itself that they are lost. */
	stripe = choose_spare(group, piece->stripe, piece->serial, piece->size);
	if (stripe == NULL || ev_now(group->engine->loop) - piece->at > stripe->out.path.rtt / 1e6)
		return;
	if (hold_put(group->engine->pool, &stripe->out.datagram, piece->bytes, piece->size) < 0)
		return;
	counter_add(&group->engine->counters.datagrams_repeated, 1);
	stripe_start(stripe, piece->serial, piece->size);
	if (stripe_flush(stripe))
		stripe_look(stripe, 0.);
}

static void on_rest(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct repeat *repeat = timer->data;
	struct group *group = repeat->group;
	struct repeat_pieces pieces = STAILQ_HEAD_INITIALIZER(pieces);
	struct repeat_piece *piece;

	(void)revents;
	ev_timer_stop(loop, timer);
	STAILQ_CONCAT(&pieces, &repeat->pieces);
	STAILQ_FOREACH(piece, &pieces, link) {
		if (!group->ended)
			send_again(group, piece);
	}
	free_pieces(&pieces);
}

static struct repeat *get(struct group *group)
{
	struct repeat *repeat = group->repeat;

	if (repeat != NULL || (repeat = calloc(1, sizeof(*repeat))) == NULL)
		return repeat;
	repeat->group = group;
	STAILQ_INIT(&repeat->pieces);
	ev_timer_init(&repeat->rest, on_rest, 0., REST);
	repeat->rest.data = repeat;
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
	ev_timer_again(group->engine->loop, &repeat->rest);
}

void repeat_stop(struct group *group)
{
	if (group->repeat == NULL)
		return;
	ev_timer_stop(group->engine->loop, &group->repeat->rest);
	free_pieces(&group->repeat->pieces);
	free(group->repeat);
	group->repeat = NULL;
}
