/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "core/gather.h"
#include "core/group.h"

/* Bytes of memory for one flow: more than what its peer keeps, with parities; and for all flows of a worker. */
#define GATHER_MAX (2 * COVER_YOUNG)
#define GATHER_ALL_MAX (64 * 1024 * 1024)

/* Blocks whose parities are kept; beyond these the oldest is forgotten. */
#define BLOCKS_MAX 16

/* Seconds after the last arrival for which what was delivered is kept: parity comes when the flow rests, and may be sent again. */
#define MEMORY_TIME 1.

struct gather_block {
	TAILQ_ENTRY(gather_block) link;
	struct parity parity; /* of the first that came; the others differ in index */
	unsigned count;
	uint32_t serials[PARITY_BLOCK];
	size_t length;
	unsigned parity_count;
	struct gather_piece *parities[PARITY_BLOCK];
	uint8_t indexes[PARITY_BLOCK];
};

static size_t memory(const struct gather_piece *piece)
{
	return sizeof(*piece) + PARITY_PREFIX + piece->size;
}

/* Without a group it's of one that has ended. */
static void free_piece(struct engine *engine, struct gather *gather, struct gather_piece *piece)
{
	engine->gathered -= memory(piece);
	if (gather != NULL)
		gather->size -= memory(piece);
	free(piece);
}

static void count_block(struct engine *engine, struct gather *gather, const struct gather_block *block)
{
	engine->gathered += sizeof(*block);
	gather->size += sizeof(*block);
	gather->block_count++;
}

static void free_block(struct engine *engine, struct gather *gather, struct gather_block *block)
{
	for (unsigned i = 0; i < block->parity_count; i++)
		free_piece(engine, gather, block->parities[i]);
	TAILQ_REMOVE(&gather->blocks, block, link);
	engine->gathered -= sizeof(*block);
	gather->size -= sizeof(*block);
	gather->block_count--;
	free(block);
}

static void free_blocks(struct engine *engine, struct gather *gather)
{
	struct gather_block *block;

	while ((block = TAILQ_FIRST(&gather->blocks)) != NULL)
		free_block(engine, gather, block);
}

static struct gather_piece **slot(struct gather *gather, uint32_t serial)
{
	return &gather->slots[serial % GATHER_SLOTS];
}

static struct gather_piece *find(struct gather *gather, uint32_t serial)
{
	struct gather_piece *piece = *slot(gather, serial);

	return piece != NULL && piece->serial == serial ? piece : NULL;
}

const struct gather_piece *gather_find(const struct group *group, uint32_t serial)
{
	return group->gather != NULL ? find(group->gather, serial) : NULL;
}

/* What is in this place is forgotten, if anything is. */
static void clear(struct engine *engine, struct gather *gather, struct gather_piece **piece)
{
	if (*piece != NULL)
		free_piece(engine, gather, *piece);
	*piece = NULL;
}

/* Forgets what was delivered, the oldest first, until there's room for so much. */
static bool make_room(struct group *group, size_t size)
{
	struct gather *gather = group->gather;

	while (gather->size + size > GATHER_MAX && merge_is_late(&group->merge, gather->oldest)) {
		if (find(gather, gather->oldest) != NULL)
			clear(group->engine, gather, slot(gather, gather->oldest));
		gather->oldest = serial_next(gather->oldest);
	}
	return gather->size + size <= GATHER_MAX && group->engine->gathered + size <= GATHER_ALL_MAX;
}

/* Nothing has come for a while. */
static void on_rest(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct group *group = timer->data;
	struct gather *gather = group->gather;

	(void)loop;
	(void)revents;
	free_blocks(group->engine, gather);
	for (unsigned i = 0; i < GATHER_SLOTS; i++) {
		if (gather->slots[i] != NULL && merge_is_late(&group->merge, gather->slots[i]->serial))
			clear(group->engine, gather, &gather->slots[i]);
	}
	if (gather->size == 0)
		gather_stop(group);
}

static struct gather *get(struct group *group)
{
	struct gather *gather = group->gather;

	if (gather != NULL || (gather = calloc(1, sizeof(*gather))) == NULL)
		return gather;
	TAILQ_INIT(&gather->blocks);
	gather->oldest = group->merge.due;
	ev_timer_init(&gather->rest, on_rest, 0., MEMORY_TIME);
	gather->rest.data = group;
	/* What is recovered may come on its stripe as well. */
	group->merge.repeated = true;
	group->gather = gather;
	ev_timer_again(group->engine->loop, &gather->rest);
	return gather;
}

void gather_stop(struct group *group)
{
	struct gather *gather = group->gather;

	if (gather == NULL)
		return;
	ev_timer_stop(group->engine->loop, &gather->rest);
	free_blocks(group->engine, gather);
	for (unsigned i = 0; i < GATHER_SLOTS; i++)
		clear(group->engine, gather, &gather->slots[i]);
	group->gather = NULL;
	free(gather);
}

/* Memory for a datagram of this size, if there may be so much. */
static struct gather_piece *new_piece(struct group *group, uint32_t serial, uint32_t size)
{
	size_t bytes = sizeof(struct gather_piece) + PARITY_PREFIX + size;
	struct gather_piece *piece;

	if (!make_room(group, bytes) || (piece = malloc(bytes)) == NULL)
		return NULL;
	*piece = (struct gather_piece){.serial = serial, .size = size};
	group->gather->size += bytes;
	group->engine->gathered += bytes;
	return piece;
}

/* A slow reader's data stays in the kernel; not what comes while the server is still being connected to. */
static bool may_begin(const struct group *group)
{
	return !group->merge.stopped && (group->local < 0 || !ev_is_active(&group->local_wr));
}

/* True if a piece with this serial can be put there. */
static bool free_slot(struct group *group, uint32_t serial)
{
	struct gather_piece **piece = slot(group->gather, serial);

	if (serial_distance(group->merge.due, serial) >= GATHER_REACH)
		return false;
	if (*piece != NULL && ((*piece)->serial == serial || !merge_is_late(&group->merge, (*piece)->serial)))
		return false;
	clear(group->engine, group->gather, piece);
	return true;
}

bool gather_begin(struct stripe *stripe)
{
	const struct datagram *datagram = &stripe->in.datagram;
	struct group *group = stripe->group;

	if (!may_begin(group) || get(group) == NULL)
		return false;
	if (stripe->in.parity ? group->gather->off : !free_slot(group, datagram->serial))
		return false;
	stripe->in.piece = new_piece(group, datagram->serial, datagram->size);
	return stripe->in.piece != NULL;
}

void gather_forget(struct stripe *stripe)
{
	if (stripe->in.piece == NULL)
		return;
	free_piece(stripe->engine, stripe->group->gather, stripe->in.piece);
	stripe->in.piece = NULL;
}

/* Takes the piece over. False if there's no use for it. */
static bool put(struct group *group, struct gather_piece *piece)
{
	if (merge_is_late(&group->merge, piece->serial) || !free_slot(group, piece->serial)) {
		free_piece(group->engine, group->gather, piece);
		return false;
	}
	*slot(group->gather, piece->serial) = piece;
	return true;
}

/* Puts what was recovered in its place. False if it isn't what the peer has sent, or there's no memory for it. */
static bool put_recovered(struct group *group, uint32_t serial, const uint8_t *bytes, size_t length)
{
	struct gather_piece *piece;
	uint32_t size;

	if (!parity_unseal(bytes, length, &size))
		return false;
	if (merge_is_late(&group->merge, serial))
		return true;
	if (serial == group->merge.due && size < group->merge.passed)
		return false;
	piece = new_piece(group, serial, size);
	if (piece == NULL)
		return false;
	memcpy(piece->bytes, bytes, PARITY_PREFIX + size);
	if (put(group, piece))
		counter_add(&group->engine->counters.datagrams_recovered, 1);
	return true;
}

/* The pieces of a block that are at hand, padded, one behind the other in memory; NULL for the others. Returns how many are missing. */
static unsigned lay_out(struct group *group, const struct gather_block *block, uint8_t *bytes, const uint8_t *pieces[])
{
	unsigned missing = 0;

	for (unsigned i = 0; i < block->count; i++) {
		struct gather_piece *piece = find(group->gather, block->serials[i]);

		pieces[i] = NULL;
		if (piece == NULL || PARITY_PREFIX + piece->size > block->length) {
			missing++;
			continue;
		}
		parity_seal(piece->bytes, piece->size);
		memcpy(bytes, piece->bytes, PARITY_PREFIX + piece->size);
		memset(bytes + PARITY_PREFIX + piece->size, 0, block->length - PARITY_PREFIX - piece->size);
		pieces[i] = bytes;
		bytes += block->length;
	}
	return missing;
}

/* There are as many parities as pieces are missing. False if they aren't worth it. */
static bool recover(struct group *group, struct gather_block *block)
{
	uint8_t *bytes = malloc(2 * block->count * block->length), *found[PARITY_BLOCK];
	const uint8_t *pieces[PARITY_BLOCK], *parities[PARITY_BLOCK];
	unsigned missing, n = 0;
	bool good = true;

	if (bytes == NULL)
		return true;
	missing = lay_out(group, block, bytes, pieces);
	if (missing > block->parity_count) {
		free(bytes);
		return true;
	}
	for (unsigned i = 0; i < missing; i++) {
		found[i] = bytes + (block->count + i) * block->length;
		parities[i] = block->parities[i]->bytes + PARITY_HEADER;
	}
	if (parity_recover(block->count, block->length, pieces, block->indexes, parities, found)) {
		for (unsigned i = 0; i < block->count; i++) {
			if (pieces[i] == NULL)
				good = put_recovered(group, block->serials[i], found[n++], block->length) && good;
		}
	}
	free(bytes);
	return good;
}

/* How many aren't at hand, of which those are *needed that weren't delivered and forgotten. */
static unsigned count_missing(const struct group *group, const struct gather_block *block, unsigned *needed)
{
	unsigned missing = 0;

	*needed = 0;
	for (unsigned i = 0; i < block->count; i++) {
		if (gather_find(group, block->serials[i]) != NULL)
			continue;
		missing++;
		*needed += !merge_is_late(&group->merge, block->serials[i]);
	}
	return missing;
}

/* False if parities aren't worth it. */
static bool look_at_blocks(struct group *group)
{
	struct gather *gather = group->gather;
	struct gather_block *block, *next;
	unsigned missing, needed;
	bool good = true;

	for (block = TAILQ_FIRST(&gather->blocks); block != NULL; block = next) {
		next = TAILQ_NEXT(block, link);
		missing = count_missing(group, block, &needed);
		if (needed > 0 && missing > block->parity_count)
			continue;
		if (needed > 0)
			good = recover(group, block) && good;
		free_block(group->engine, gather, block);
	}
	return good;
}

/* NULL without memory. */
static struct gather_block *find_block(struct engine *engine, struct gather *gather, const struct parity *parity, size_t length)
{
	struct gather_block *block;

	TAILQ_FOREACH(block, &gather->blocks, link) {
		if (block->length == length && block->parity.first == parity->first && block->parity.block == parity->block &&
		    block->parity.blocks == parity->blocks &&
		    memcmp(block->parity.set, parity->set, sizeof(parity->set)) == 0)
			return block;
	}
	block = calloc(1, sizeof(*block));
	if (block == NULL)
		return NULL;
	block->parity = *parity;
	block->length = length;
	block->count = parity_serials(parity, block->serials);
	TAILQ_INSERT_TAIL(&gather->blocks, block, link);
	count_block(engine, gather, block);
	return block;
}

/* All that it could recover has a slot. */
static bool is_in_reach(const struct group *group, const struct gather_block *block)
{
	for (unsigned i = 0; i < block->count; i++) {
		if (!merge_is_late(&group->merge, block->serials[i]) &&
		    serial_distance(group->merge.due, block->serials[i]) >= GATHER_REACH)
			return false;
	}
	return true;
}

static bool has_index(const struct gather_block *block, uint8_t index)
{
	return memchr(block->indexes, index, block->parity_count) != NULL;
}

/* Takes the piece over. False if it makes no sense. */
static bool put_parity(struct group *group, struct gather_piece *piece)
{
	struct gather *gather = group->gather;
	struct gather_block *block = NULL;
	struct parity parity;
	bool good = parity_decode(&parity, piece->bytes);

	if (good)
		block = find_block(group->engine, gather, &parity, piece->size - PARITY_HEADER);
	if (block == NULL || block->parity_count == parity_most(block->count) || has_index(block, parity.index) || !is_in_reach(group, block)) {
		free_piece(group->engine, gather, piece);
		/* It was made for this one, which is of no use. */
		if (block != NULL && block->parity_count == 0)
			free_block(group->engine, gather, block);
		return good;
	}
	block->parities[block->parity_count] = piece;
	block->indexes[block->parity_count++] = parity.index;
	if (gather->block_count > BLOCKS_MAX)
		free_block(group->engine, gather, TAILQ_FIRST(&gather->blocks));
	return true;
}

bool gather_is_past(const struct group *group, uint32_t count)
{
	const struct merge *merge = &group->merge;

	for (unsigned i = 0; group->gather != NULL && i < GATHER_SLOTS; i++) {
		const struct gather_piece *piece = group->gather->slots[i];

		if (piece != NULL && merge_is_past(merge, piece->serial, count))
			return true;
	}
	return false;
}

bool gather_whole(struct stripe *stripe)
{
	struct gather_piece *piece = stripe->in.piece;
	struct group *group = stripe->group;
	bool good = true;

	stripe->in.piece = NULL;
	if (group->gather == NULL) {
		free_piece(group->engine, NULL, piece);
		return true;
	}
	if (stripe->in.parity)
		good = put_parity(group, piece);
	else
		put(group, piece);
	/* To find out costs more than to send them. Honest peers' always fit. */
	if (!look_at_blocks(group))
		group->gather->off = true;
	ev_timer_again(group->engine->loop, &group->gather->rest);
	return good;
}
