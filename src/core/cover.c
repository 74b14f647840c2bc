/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <string.h>

#include "core/choose.h"
#include "core/cover.h"
#include "core/group.h"
#include "core/loss.h"
#include "wire/parity.h"

/*
 * Seconds without new data after which a flow is at rest: a server close by that is still at it would have given more. And between tries to send what
 * windows and sockets didn't take.
 */
#define REST 0.002
#define TICK 0.005

/* Seconds after which a flow that is blocked is looked at again: one of its stripes may have stalled. */
#define BLOCKED 0.1

/* Bytes of memory for all flows of a worker: beyond that no more is kept. */
#define COVER_ALL_MAX (64 * 1024 * 1024)

#define BLOCKS_MAX (PARITY_SPAN / PARITY_BLOCK)

struct cover_piece {
	STAILQ_ENTRY(cover_piece) link;
	ev_tstamp at; /* when it was sent */
	uint32_t serial, size;
	uint8_t bytes[]; /* PARITY_PREFIX of room, then the payload */
};

struct cover_parity {
	STAILQ_ENTRY(cover_parity) link;
	uint32_t serial, size;
	uint8_t bytes[];
};

bool cover_is_wanted(const struct group *group, const struct stripe *stripe)
{
	return stripe->parity && group->stripe_count > 1 && group->moved < COVER_YOUNG &&
	       stripe->out.path.rtt_min >= STRIPE_RTT_SHORT &&
	       !engine_is_crowded(group->engine) &&
	       (loss_is_unknown_out(group->engine) || loss_is_out(group->engine));
}

static size_t memory(const struct cover_piece *piece)
{
	return sizeof(*piece) + PARITY_PREFIX + piece->size;
}

static size_t parity_memory(const struct cover_parity *parity)
{
	return sizeof(*parity) + parity->size;
}

static void drop_first(struct group *group)
{
	struct cover *cover = group->cover;
	struct cover_piece *piece = STAILQ_FIRST(&cover->pieces);

	STAILQ_REMOVE_HEAD(&cover->pieces, link);
	cover->size -= memory(piece);
	group->engine->covered -= memory(piece);
	cover->count--;
	free(piece);
}

static void drop_pieces(struct group *group)
{
	while (!STAILQ_EMPTY(&group->cover->pieces))
		drop_first(group);
}

static void drop_parity(struct group *group)
{
	struct cover_parity *parity = STAILQ_FIRST(&group->cover->parities);

	STAILQ_REMOVE_HEAD(&group->cover->parities, link);
	group->engine->covered -= parity_memory(parity);
	free(parity);
}

static void drop_parities(struct group *group)
{
	while (!STAILQ_EMPTY(&group->cover->parities))
		drop_parity(group);
}

void cover_stop(struct group *group)
{
	struct cover *cover = group->cover;

	if (cover == NULL)
		return;
	ev_timer_stop(group->engine->loop, &cover->tick);
	drop_pieces(group);
	drop_parities(group);
	free(cover);
	group->cover = NULL;
}

/* What is older than a round trip has arrived, or TCP sends it again by now. The time of day may be set back. */
static bool is_old(const struct cover *cover, ev_tstamp at, ev_tstamp now)
{
	return now < at || now - at > cover->round_trip;
}

static void drop_old(struct group *group)
{
	struct cover *cover = group->cover;
	ev_tstamp now = ev_now(group->engine->loop);

	while (!STAILQ_EMPTY(&cover->pieces) && is_old(cover, STAILQ_FIRST(&cover->pieces)->at, now))
		drop_first(group);
	if (is_old(cover, cover->made_at, now))
		drop_parities(group);
}

/* The pieces, in order, and the set that they are; of too many, the last. */
static unsigned collect(struct cover *cover, struct cover_piece *pieces[PARITY_SPAN], struct parity *parity)
{
	struct cover_piece *piece;
	unsigned n = 0;
	uint32_t step;

	STAILQ_FOREACH(piece, &cover->pieces, link) {
		if (serial_distance(piece->serial, cover->last) >= PARITY_SPAN)
			continue;
		if (n == 0)
			parity->first = piece->serial;
		step = serial_distance(parity->first, piece->serial);
		parity->set[step / 8] |= (uint8_t)(1 << step % 8);
		pieces[n++] = piece;
	}
	return n;
}

/* Those of the parity's block. */
static unsigned deal(struct cover_piece *const all[], unsigned n, const struct parity *parity, struct cover_piece *pieces[PARITY_BLOCK])
{
	unsigned k = 0;

	for (unsigned i = parity->block; i < n; i += parity->blocks)
		pieces[k++] = all[i];
	return k;
}

/* All are taken to be as long as the longest. */
static size_t common_length(struct cover_piece *const pieces[], unsigned k)
{
	uint32_t longest = 0;

	for (unsigned i = 0; i < k; i++)
		longest = pieces[i]->size > longest ? pieces[i]->size : longest;
	return PARITY_PREFIX + longest;
}

/* A part of what was sent: as many pieces, and no more bytes, as pieces of one length would make. */
static unsigned wanted_of(struct cover_piece *const pieces[], unsigned k, size_t length)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < k; i++)
		bytes += PARITY_PREFIX + pieces[i]->size;
	return parity_most((unsigned)((bytes + length - 1) / length));
}

/* Without memory there are fewer. Returns how many. */
static unsigned new_parities(struct cover_parity *made[PARITY_BLOCK], unsigned wanted, struct parity parity, size_t length)
{
	size_t size = PARITY_HEADER + length;
	unsigned n;

	for (n = 0; n < wanted && (made[n] = malloc(sizeof(*made[n]) + size)) != NULL; n++) {
		made[n]->serial = parity.first;
		made[n]->size = (uint32_t)size;
		parity.index = (uint8_t)n;
		parity_encode(made[n]->bytes, &parity);
	}
	return n;
}

/* Makes the parities of a block of k pieces. Returns how many. */
static unsigned make_block(struct cover_piece *const pieces[], unsigned k, const struct parity *parity,
			   struct cover_parity *made[PARITY_BLOCK])
{
	size_t length = common_length(pieces, k);
	unsigned wanted = wanted_of(pieces, k, length), n;
	uint8_t *padded = calloc(k, length), *outputs[PARITY_BLOCK];
	const uint8_t *inputs[PARITY_BLOCK];

	if (padded == NULL)
		return 0;
	for (unsigned i = 0; i < k; i++) {
		memcpy(padded + i * length, pieces[i]->bytes, PARITY_PREFIX + pieces[i]->size);
		parity_seal(padded + i * length, pieces[i]->size);
		inputs[i] = padded + i * length;
	}
	n = new_parities(made, wanted, *parity, length);
	for (unsigned i = 0; i < n; i++)
		outputs[i] = made[i]->bytes + PARITY_HEADER;
	parity_make(k, n, length, inputs, outputs);
	free(padded);
	return n;
}

static void make(struct group *group)
{
	struct cover *cover = group->cover;
	struct cover_piece *all[PARITY_SPAN], *pieces[PARITY_BLOCK];
	struct cover_parity *made[BLOCKS_MAX][PARITY_BLOCK];
	unsigned k, n, counts[BLOCKS_MAX];
	struct parity parity = {0};

	n = collect(cover, all, &parity);
	parity.blocks = (uint8_t)((n + PARITY_BLOCK - 1) / PARITY_BLOCK);
	for (parity.block = 0; parity.block < parity.blocks; parity.block++) {
		k = deal(all, n, &parity, pieces);
		counts[parity.block] = make_block(pieces, k, &parity, made[parity.block]);
	}
	/* Each block gets its first before one gets its second. */
	for (unsigned i = 0; i < PARITY_BLOCK; i++) {
		for (unsigned block = 0; block < parity.blocks; block++) {
			if (i >= counts[block])
				continue;
			STAILQ_INSERT_TAIL(&cover->parities, made[block][i], link);
			group->engine->covered += parity_memory(made[block][i]);
		}
	}
	cover->made_at = ev_now(group->engine->loop);
	drop_pieces(group);
}

/* What windows and sockets don't take now they take at a later tick. May end the group. */
static void send_parities(struct group *group)
{
	struct cover_parity *parity;
	struct stripe *stripe;

	while (group->cover != NULL && (parity = STAILQ_FIRST(&group->cover->parities)) != NULL) {
		stripe = choose_for_parity(group, parity->size);
		if (stripe == NULL || hold_put(group->engine->pool, &stripe->out.datagram, parity->bytes, parity->size) < 0)
			return;
		counter_add(&group->engine->counters.parities_out, 1);
		stripe_start_parity(stripe, parity->serial, parity->size);
		drop_parity(group);
		if (stripe_flush(stripe))
			stripe_look(stripe, 0.);
	}
}

static void set_tick(struct group *group, ev_tstamp after)
{
	ev_timer_stop(group->engine->loop, &group->cover->tick);
	ev_timer_set(&group->cover->tick, after, 0.);
	ev_timer_start(group->engine->loop, &group->cover->tick);
}

/* May end the group. */
static void rest(struct group *group)
{
	drop_old(group);
	if (!STAILQ_EMPTY(&group->cover->pieces)) {
		/* Those that are left of another rest are of less use than what is made now. */
		drop_parities(group);
		make(group);
	}
	send_parities(group);
	if (group->cover == NULL)
		return;
	if (STAILQ_EMPTY(&group->cover->parities))
		cover_stop(group);
	else
		set_tick(group, TICK);
}

void cover_end(struct group *group)
{
	if (group->cover == NULL)
		return;
	/* When the other direction has ended the flow is over as soon as the end is said. If not, what was sent last leaves first. */
	if (group->merge.done)
		rest(group);
	else
		set_tick(group, 0.);
}

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct group *group = timer->data;
	ev_tstamp quiet = ev_now(loop) - group->cover->kept_at;

	(void)revents;
	if (!spread_is_blocked(group) && (group->spread.eof || quiet < 0. || quiet >= REST)) {
		rest(group);
		return;
	}
	drop_old(group);
	/* choose_stripe() may wait for a stripe that has stalled meanwhile. */
	if (spread_is_blocked(group))
		spread_pump(group);
	if (group->cover != NULL)
		set_tick(group, spread_is_blocked(group) ? BLOCKED : REST);
}

static struct cover *get(struct group *group)
{
	struct cover *cover = group->cover;

	if (cover != NULL || (cover = calloc(1, sizeof(*cover))) == NULL)
		return cover;
	STAILQ_INIT(&cover->pieces);
	STAILQ_INIT(&cover->parities);
	ev_timer_init(&cover->tick, on_tick, 0., 0.);
	cover->tick.data = group;
	group->cover = cover;
	return cover;
}

void cover_keep(struct group *group, const struct stripe *stripe, const uint8_t *bytes, size_t n)
{
	struct cover *cover = get(group);
	struct cover_piece *piece;

	if (cover == NULL)
		return;
	/* In any case: choose_stripe() counts on it. */
	set_tick(group, REST);
	if (group->engine->covered + n > COVER_ALL_MAX || (piece = malloc(sizeof(*piece) + PARITY_PREFIX + n)) == NULL)
		return;
	piece->at = cover->kept_at = ev_now(group->engine->loop);
	piece->serial = cover->last = stripe->out.last;
	piece->size = (uint32_t)n;
	memcpy(piece->bytes + PARITY_PREFIX, bytes, n);
	STAILQ_INSERT_TAIL(&cover->pieces, piece, link);
	cover->size += memory(piece);
	group->engine->covered += memory(piece);
	cover->count++;
	cover->round_trip = stripe->out.path.rtt / 1e6;
	while (cover->size > COVER_YOUNG || cover->count > PARITY_SPAN)
		drop_first(group);
}
