/* SPDX-License-Identifier: ISC */
#include "core/choose.h"
#include "core/cover.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/pair.h"
#include "wire/parity.h"

/* A long path on which packets get lost; until the next look at it, which finds loopback. */
static void pretend_loss(struct pair *pair, unsigned sent, unsigned repeated)
{
	for (unsigned i = 0; i < pair->count; i++) {
		stripe_look(pair->a.stripes[i], 0.);
		pair->a.stripes[i]->parity = true;
		pair->a.stripes[i]->out.path.rtt = pair->a.stripes[i]->out.path.rtt_min = 100000;
	}
	pair->a.engine->sent = sent;
	pair->a.engine->repeated = repeated;
}

static void open_lossy(struct pair *pair, unsigned count, int mode)
{
	pair_open_raw(pair, count, mode);
	pretend_loss(pair, 100, 1);
}

static uint64_t parities(const struct pair *pair)
{
	return counter_read(&pair->a.engine->counters.parities_out);
}

START_TEST(test_wanted)
{
	struct pair pair;
	struct group *group;
	struct stripe *stripe;

	pair_open(&pair, 4, _i);
	group = pair.a.group;
	stripe = pair.a.stripes[0];
	pretend_loss(&pair, 1000, 10);
	ck_assert(cover_is_wanted(group, stripe));
	stripe->parity = false;
	ck_assert(!cover_is_wanted(group, stripe));
	stripe->parity = true;
	group->moved = COVER_YOUNG;
	ck_assert(!cover_is_wanted(group, stripe));
	group->moved = 0;
	end_crowd(&pair.a, 100);
	ck_assert(!cover_is_wanted(group, stripe));
	end_crowd(&pair.a, 0);
	stripe->out.path.rtt_min = 100;
	ck_assert(!cover_is_wanted(group, stripe));
	pretend_loss(&pair, 10000, 10);
	ck_assert(!cover_is_wanted(group, stripe));
	/* There's no other stripe that could bring it. */
	group->stripe_count = 1;
	pretend_loss(&pair, 1000, 10);
	ck_assert(!cover_is_wanted(group, stripe));
	group->stripe_count = 4;
	ck_assert(cover_is_wanted(group, stripe));
	/* As long as nothing is known. */
	pretend_loss(&pair, 200, 0);
	ck_assert(cover_is_wanted(group, stripe));
	pretend_loss(&pair, 300, 0);
	ck_assert(!cover_is_wanted(group, stripe));
	pair_close(&pair);
}
END_TEST

/* As if the stripe had carried this last. */
static void keep(struct pair *pair, unsigned stripe, uint32_t serial, const void *bytes, size_t n)
{
	pair->a.stripes[stripe]->out.last = serial;
	cover_keep(pair->a.group, pair->a.stripes[stripe], bytes, n);
}

/* What the loop would do if it came round now: no time goes by. */
static void tick(struct pair *pair)
{
	ev_invoke(pair->a.engine->loop, &pair->a.group->cover->tick, EV_TIMER);
}

/* The flow has sent nothing for long enough. */
static void tick_at_rest(struct pair *pair)
{
	pair->a.group->cover->kept_at -= 1.;
	tick(pair);
}

/* The parity with this header. Returns its length. */
static uint32_t read_rest(struct pair *pair, unsigned index, struct datagram datagram, struct parity *parity, uint8_t *bytes, size_t room)
{
	uint32_t length = (datagram.size & ~DATAGRAM_PARITY) - PARITY_HEADER;
	uint8_t head[PARITY_HEADER];

	ck_assert_uint_ne(datagram.size & DATAGRAM_PARITY, 0);
	ck_assert_uint_le(length, room);
	raw_read(pair, index, head, sizeof(head));
	ck_assert(parity_decode(parity, head));
	ck_assert_uint_eq(datagram.serial, parity->first);
	raw_read(pair, index, bytes, length);
	return length;
}

static struct datagram read_header(struct pair *pair, unsigned index)
{
	uint8_t header[DATAGRAM_HEADER];

	raw_read(pair, index, header, sizeof(header));
	return datagram_decode(header);
}

/* The parity that comes next on a raw stripe. */
static uint32_t read_parity(struct pair *pair, unsigned index, struct parity *parity, uint8_t *bytes, size_t room)
{
	return read_rest(pair, index, read_header(pair, index), parity, bytes, room);
}

/* Which of the raw stripes has something to read. */
static unsigned which_has(struct pair *pair)
{
	unsigned index = pair->count;
	char byte;

	pair_start_clock(pair);
	while (index == pair->count) {
		ck_assert_msg(!pair_is_late(pair), "nothing came");
		pair_turn(pair);
		for (index = 0; index < pair->count; index++) {
			if (recv(pair->raw[index], &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1)
				break;
		}
	}
	return index;
}

/* When the flow comes to rest there's parity, from which what is missing can be made. */
START_TEST(test_at_rest)
{
	uint8_t bytes[100], found[100], *out[] = {found};
	const uint8_t *pieces[PARITY_BLOCK] = {NULL}, *in[] = {bytes};
	uint32_t length, size, serials[PARITY_BLOCK];
	struct parity parity;
	struct pair pair;

	open_lossy(&pair, 3, _i);
	keep(&pair, 0, 7, "hello", 5);
	UNTIL(&pair, parities(&pair) == 1);
	length = read_parity(&pair, which_has(&pair), &parity, bytes, sizeof(bytes));
	ck_assert_uint_eq(parity_serials(&parity, serials), 1);
	ck_assert_uint_eq(serials[0], 7);
	ck_assert(parity_recover(1, length, pieces, &parity.index, in, out));
	ck_assert(parity_unseal(found, length, &size));
	ck_assert_uint_eq(size, 5);
	ck_assert_mem_eq(found + PARITY_PREFIX, "hello", 5);
	/* That's all of it, and nothing is left. */
	UNTIL(&pair, pair.a.group->cover == NULL);
	pair_settle(&pair);
	ck_assert_uint_eq(parities(&pair), 1);
	pair_close(&pair);
}
END_TEST

/* Not as long as there's more every time one looks. */
START_TEST(test_not_before)
{
	struct pair pair;

	open_lossy(&pair, 3, _i);
	for (uint32_t serial = 1; serial <= 10; serial++) {
		keep(&pair, 0, serial, "more", 4);
		tick(&pair);
		ck_assert_uint_eq(pair.a.group->cover->count, serial);
		ck_assert(ev_is_active(&pair.a.group->cover->tick));
	}
	ck_assert_uint_eq(parities(&pair), 0);
	tick_at_rest(&pair);
	ck_assert_uint_gt(parities(&pair), 0);
	pair_close(&pair);
}
END_TEST

/* All that a flow has sent, as the peer would see it. */
#define SENT_MAX 8
struct sent {
	unsigned pieces, parities;
	uint32_t flags;			    /* of all pieces together */
	uint8_t piece[SENT_MAX][PARITY_PREFIX + 64]; /* by serial, from 1; padded and sealed */
	uint8_t parity[SENT_MAX][PARITY_PREFIX + 64];
	struct parity header[SENT_MAX];
	uint32_t length;
};

/* What the client writes is a datagram. The loop isn't run, so no time goes by, and the flow doesn't come to rest. */
static void send_piece(struct pair *pair, const char *text, bool parity)
{
	uint64_t before = counter_read(&pair->a.engine->counters.datagrams_out);

	local_write(&pair->a, text);
	pair_start_clock(pair);
	while (counter_read(&pair->a.engine->counters.datagrams_out) == before) {
		ck_assert(!pair_is_late(pair));
		pretend_loss(pair, 100, 1);
		for (unsigned i = 0; i < pair->count; i++)
			pair->a.stripes[i]->parity = parity;
		ev_invoke(pair->a.engine->loop, &pair->a.group->local_rd, EV_READ);
	}
}

static void read_one(struct pair *pair, struct sent *sent)
{
	unsigned index = which_has(pair), n = sent->parities;
	struct datagram datagram = read_header(pair, index);
	uint32_t size = datagram.size & ~DATAGRAM_KEPT;

	if (datagram.size & DATAGRAM_PARITY) {
		ck_assert_uint_lt(n, SENT_MAX);
		sent->length = read_rest(pair, index, datagram, &sent->header[n], sent->parity[n], sizeof(sent->parity[n]));
		sent->parities++;
		return;
	}
	ck_assert(datagram.serial >= 1 && datagram.serial <= SENT_MAX && size <= 64);
	raw_read(pair, index, sent->piece[datagram.serial - 1] + PARITY_PREFIX, size);
	parity_seal(sent->piece[datagram.serial - 1], size);
	sent->flags |= datagram.size & DATAGRAM_KEPT;
	sent->pieces++;
}

/* As if these pieces, by bits, hadn't come. */
static void check_recovery(const struct sent *sent, unsigned missing)
{
	uint8_t memory[SENT_MAX][PARITY_PREFIX + 64], indexes[SENT_MAX], *found[SENT_MAX];
	const uint8_t *pieces[PARITY_BLOCK], *in[SENT_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < sent->pieces; i++) {
		pieces[i] = missing & 1u << i ? NULL : sent->piece[i];
		if (pieces[i] != NULL)
			continue;
		/* Any will do. */
		indexes[n] = sent->header[sent->parities - 1 - n].index;
		in[n] = sent->parity[sent->parities - 1 - n];
		found[n] = memory[n];
		n++;
	}
	ck_assert_uint_le(n, sent->parities);
	ck_assert(parity_recover(sent->pieces, sent->length, pieces, indexes, in, found));
	for (unsigned i = 0, next = 0; i < sent->pieces; i++) {
		if (pieces[i] == NULL)
			ck_assert_mem_eq(found[next++], sent->piece[i], sent->length);
	}
}

static const char *const texts[] = {"one", "the second", "3", "of four"};
#define TEXTS 4

/* From what goes over the wire any of the pieces can be made. */
START_TEST(test_on_the_wire)
{
	struct sent sent = {0};
	uint32_t serials[PARITY_BLOCK];
	struct pair pair;

	pair_open_raw(&pair, 4, _i);
	for (unsigned i = 0; i < TEXTS; i++)
		send_piece(&pair, texts[i], true);
	ck_assert_uint_eq(parities(&pair), 0);
	tick_at_rest(&pair);
	UNTIL(&pair, pair.a.group->cover == NULL);
	while (sent.pieces < TEXTS || sent.parities < parities(&pair))
		read_one(&pair, &sent);
	ck_assert_uint_eq(sent.flags, DATAGRAM_KEPT);
	ck_assert_uint_gt(sent.parities, 1);
	for (unsigned i = 0; i < sent.parities; i++)
		ck_assert_uint_eq(parity_serials(&sent.header[i], serials), TEXTS);
	for (unsigned i = 0; i < TEXTS; i++) {
		ck_assert_mem_eq(sent.piece[i] + PARITY_PREFIX, texts[i], strlen(texts[i]));
		ck_assert_uint_eq(serials[i], i + 1);
		check_recovery(&sent, 1u << i);
		for (unsigned other = 0; other < i; other++)
			check_recovery(&sent, 1u << i | 1u << other);
	}
	pair_close(&pair);
}
END_TEST

/* Who doesn't know of parity sees nothing of it. */
START_TEST(test_old_peer)
{
	struct sent sent = {0};
	struct pair pair;

	pair_open_raw(&pair, 3, _i);
	for (unsigned i = 0; i < TEXTS; i++) {
		send_piece(&pair, texts[i], false);
		ck_assert_ptr_null(pair.a.group->cover);
	}
	shutdown(pair.a.local, SHUT_WR);
	while (sent.pieces < TEXTS)
		read_one(&pair, &sent);
	ck_assert_uint_eq(sent.flags, 0);
	raw_expect(&pair, which_has(&pair), CONTROL_FIN);
	ck_assert_uint_eq(sent.parities, 0);
	ck_assert_uint_eq(parities(&pair), 0);
	pair_close(&pair);
}
END_TEST

/* Half as many and four, but no more than there are. */
START_TEST(test_number)
{
	static const unsigned numbers[][2] = {{1, 1}, {2, 2}, {8, 8}, {9, 8}, {24, 16}, {128, 68}, {129, 2 * (32 + 4)}, {300, 2 * 68}};
	struct pair pair;
	unsigned pieces = numbers[_i][0];

	open_lossy(&pair, 12, 0);
	for (uint32_t serial = 1; serial <= pieces; serial++)
		keep(&pair, 0, serial, "some bytes", 10);
	UNTIL(&pair, pair.a.group->cover == NULL);
	ck_assert_uint_eq(parities(&pair), numbers[_i][1]);
	pair_close(&pair);
}
END_TEST

/* Of many small pieces and a large one there are no more bytes than of large ones alone. */
START_TEST(test_mixed_sizes)
{
	static const uint8_t bytes[4000];
	struct pair pair;

	(void)_i;
	open_lossy(&pair, 12, 0);
	for (uint32_t serial = 1; serial <= 100; serial++)
		keep(&pair, 0, serial, bytes, serial == 50 ? sizeof(bytes) : 1);
	UNTIL(&pair, pair.a.group->cover == NULL);
	ck_assert_uint_eq(parities(&pair), 2);
	pair_close(&pair);
}
END_TEST

/* A flow that has more to send isn't at rest, and windows are for what it sends. */
START_TEST(test_not_while_blocked)
{
	struct pair pair;

	open_lossy(&pair, 2, _i);
	for (unsigned i = 0; i < 2; i++)
		pair.a.stripes[i]->out.writable = false;
	local_write(&pair.a, "waits");
	keep(&pair, 0, 7, "before", 6);
	pair.a.group->cover->kept_at -= 1.;
	UNTIL(&pair, spread_is_blocked(pair.a.group));
	pair_settle(&pair);
	ck_assert_uint_eq(parities(&pair), 0);
	ck_assert_ptr_null(choose_for_parity(pair.a.group, 10));
	for (unsigned i = 0; i < 2; i++)
		pair.a.stripes[i]->out.writable = true;
	/* Nobody else says that they are: it's tried again all the time. */
	UNTIL(&pair, counter_read(&pair.a.engine->counters.datagrams_out) == 1);
	pair_close(&pair);
}
END_TEST

/* What has grown old meanwhile is of no use, and isn't kept. */
START_TEST(test_old_while_blocked)
{
	struct pair pair;
	struct cover *cover;

	(void)_i;
	open_lossy(&pair, 2, 0);
	keep(&pair, 0, 7, "parity of this", 14);
	cover = pair.a.group->cover;
	cover->round_trip = 3600.;
	for (unsigned i = 0; i < 2; i++)
		pair.a.stripes[i]->out.writable = false;
	tick_at_rest(&pair);
	ck_assert(!STAILQ_EMPTY(&cover->parities));
	ev_io_stop(pair.a.engine->loop, &pair.a.group->local_rd);
	keep(&pair, 0, 8, "a piece", 7);
	tick(&pair);
	ck_assert_uint_eq(cover->count, 1);
	ck_assert(!STAILQ_EMPTY(&cover->parities));
	cover->made_at -= 3600.;
	tick(&pair);
	ck_assert_uint_eq(cover->count, 1);
	ck_assert(STAILQ_EMPTY(&cover->parities));
	ck_assert_uint_eq(pair.a.engine->covered, cover->size);
	cover->round_trip = -1.;
	tick(&pair);
	/* It stays: it's tried again by its tick. */
	ck_assert_ptr_eq(pair.a.group->cover, cover);
	ck_assert(ev_is_active(&cover->tick));
	ck_assert_uint_eq(cover->count, 0);
	ck_assert_uint_eq(pair.a.engine->covered, 0);
	pair_close(&pair);
}
END_TEST

/* Parity that no socket takes when the flow comes to rest goes out when one does, or never. */
START_TEST(test_later)
{
	struct pair pair;

	open_lossy(&pair, 2, 0);
	keep(&pair, 0, 7, "hello", 5);
	pair.a.group->cover->round_trip = 3600.;
	for (unsigned i = 0; i < 2; i++)
		pair.a.stripes[i]->out.writable = false;
	UNTIL(&pair, !STAILQ_EMPTY(&pair.a.group->cover->parities));
	pair_settle(&pair);
	ck_assert_uint_eq(parities(&pair), 0);
	if (_i)
		pair.a.stripes[1]->out.writable = true;
	else
		pair.a.group->cover->round_trip = 0.;
	UNTIL(&pair, pair.a.group->cover == NULL);
	ck_assert_uint_eq(parities(&pair), (unsigned)_i);
	pair_close(&pair);
}
END_TEST

/* What was sent long ago has arrived, or TCP sends it again. */
START_TEST(test_old_ones)
{
	struct pair pair;

	(void)_i;
	open_lossy(&pair, 2, 0);
	keep(&pair, 0, 7, "hello", 5);
	pair.a.group->cover->round_trip = -1.;
	UNTIL(&pair, pair.a.group->cover == NULL);
	ck_assert_uint_eq(parities(&pair), 0);
	pair_close(&pair);
}
END_TEST

/* As if it had sent something just now. */
static void stay_busy(struct pair *pair)
{
	if (pair->a.group != NULL && pair->a.group->cover != NULL)
		pair->a.group->cover->kept_at = ev_now(pair->a.engine->loop);
}

/* Others of the same flow are covered all the same. */
START_TEST(test_left_out)
{
	uint8_t bytes[100];
	uint32_t serials[PARITY_BLOCK];
	struct ev_loop *loop;
	struct parity parity;
	struct pair pair;
	ev_tstamp first;

	(void)_i;
	open_lossy(&pair, 2, 0);
	loop = pair.a.engine->loop;
	keep(&pair, 0, 7, "old", 3);
	first = ev_now(loop);
	do
		ev_now_update(loop);
	while (ev_now(loop) <= first);
	keep(&pair, 0, 8, "newer", 5);
	keep(&pair, 0, 10, "new", 3);
	pair.a.group->cover->round_trip = (ev_now(loop) - first) / 2.;
	tick_at_rest(&pair);
	ck_assert_uint_eq(parities(&pair), 2);
	read_parity(&pair, which_has(&pair), &parity, bytes, sizeof(bytes));
	ck_assert_uint_eq(parity_serials(&parity, serials), 2);
	ck_assert_uint_eq(serials[0], 8);
	ck_assert_uint_eq(serials[1], 10);
	pair_close(&pair);
}
END_TEST

/* Of more than a set can name it's the last, also where serials begin anew; they are dealt out to blocks. */
START_TEST(test_last_ones)
{
	uint32_t serial = _i ? SERIAL_LAST - 100 : 1000, next, serials[PARITY_BLOCK];
	uint8_t bytes[100];
	struct parity parity;
	struct pair pair;
	unsigned count;

	open_lossy(&pair, 12, 0);
	for (unsigned i = 0; i < 300; i++, serial = serial_next(serial))
		keep(&pair, 0, serial, "some bytes", 10);
	next = serial;
	tick_at_rest(&pair);
	read_parity(&pair, which_has(&pair), &parity, bytes, sizeof(bytes));
	ck_assert_uint_eq(parity.blocks, 2);
	ck_assert_uint_eq(serial_distance(parity.first, next), PARITY_SPAN);
	count = parity_serials(&parity, serials);
	ck_assert_uint_eq(count, PARITY_BLOCK);
	for (unsigned i = 0; i < count; i++)
		ck_assert_uint_eq(serial_distance(parity.first, serials[i]), 2 * i + parity.block);
	pair_close(&pair);
}
END_TEST

/* When a flow goes on, parities that had to wait make room for new ones, of what is new. */
START_TEST(test_goes_on)
{
	uint8_t bytes[100];
	uint32_t serials[PARITY_BLOCK];
	struct parity parity;
	struct pair pair;

	open_lossy(&pair, 2, _i);
	pair.a.stripes[0]->out.writable = pair.a.stripes[1]->out.writable = false;
	keep(&pair, 0, 7, "hello", 5);
	tick_at_rest(&pair);
	ck_assert(!STAILQ_EMPTY(&pair.a.group->cover->parities));
	keep(&pair, 0, 8, "again", 5);
	pair.a.stripes[0]->out.writable = pair.a.stripes[1]->out.writable = true;
	tick_at_rest(&pair);
	ck_assert_uint_eq(parities(&pair), 1);
	read_parity(&pair, which_has(&pair), &parity, bytes, sizeof(bytes));
	ck_assert_uint_eq(parity_serials(&parity, serials), 1);
	ck_assert_uint_eq(serials[0], 8);
	pair_close(&pair);
}
END_TEST

/* A flow may end while pieces, or parities, are there. */
START_TEST(test_ends)
{
	struct pair pair;

	open_lossy(&pair, 2, _i % 2);
	pair.a.stripes[0]->out.writable = pair.a.stripes[1]->out.writable = false;
	for (uint32_t serial = 1; serial <= 20; serial++)
		keep(&pair, 0, serial, "hello", 5);
	if (_i / 2) {
		tick_at_rest(&pair);
		ck_assert(!STAILQ_EMPTY(&pair.a.group->cover->parities));
		keep(&pair, 0, 21, "more", 4);
	}
	raw_control(&pair, 0, &(struct control){.type = CONTROL_RESET, .reset = {.reason = REASON_RESET}});
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_uint_eq(parities(&pair), 0);
	pair_close(&pair);
}
END_TEST

/* At the end it doesn't wait, since there may be no later. */
START_TEST(test_end)
{
	struct pair pair;

	open_lossy(&pair, 3, 0);
	if (_i) {
		raw_control(&pair, 0, &(struct control){.type = CONTROL_FIN});
		local_expect_end(&pair, &pair.a);
	}
	pretend_loss(&pair, 100, 1);
	keep(&pair, 0, 7, "hello", 5);
	/* Else it would do so by and by. */
	ev_timer_stop(pair.a.engine->loop, &pair.a.group->cover->tick);
	pair_settle(&pair);
	ck_assert_uint_eq(parities(&pair), 0);
	shutdown(pair.a.local, SHUT_WR);
	UNTIL(&pair, (stay_busy(&pair), parities(&pair) == 1));
	pair_close(&pair);
}
END_TEST

/* A stripe that has carried parity only isn't missed: not when the flow has ended before the peer knows of it, nor when it's lost. */
START_TEST(test_binds_nobody)
{
	struct pair pair;
	struct group *group;

	open_lossy(&pair, 2, _i);
	group = pair.a.group;
	pair.a.stripes[0]->out.path.flying = 5000;
	pair.a.stripes[1]->out.asked = true;
	pair.a.stripes[0]->out.writable = false;
	keep(&pair, 0, 7, "hello", 5);
	UNTIL(&pair, parities(&pair) == 1);
	ck_assert(pair.a.stripes[1]->out.used);
	ck_assert_uint_eq(pair.a.stripes[1]->out.last, 0);
	ck_assert(!group_is_unconfirmed(group));
	stripe_close(pair.a.stripes[1], false, "the test says so");
	ck_assert_ptr_nonnull(pair.a.group);
	pair.a.stripes[0]->out.writable = true;
	local_write(&pair.a, "goes on");
	UNTIL(&pair, counter_read(&pair.a.engine->counters.bytes_out) == 7);
	pair_close(&pair);
}
END_TEST

static void set_paths(struct pair *pair, const uint32_t rtts[], const uint32_t flying[])
{
	for (unsigned i = 0; i < pair->count; i++)
		pair->a.stripes[i]->out.path = (struct sock_path){
			.mss = 1448, .window = 100000, .rtt = rtts[i], .rtt_min = 100000, .pacing = 10000000, .flying = flying[i]};
}

/* What comes at once goes over all of them, so that a loss holds up little; but for those by which it would come later. */
START_TEST(test_even)
{
	static const uint32_t rtts[] = {100000, 106000, 112000, 90000, 160000}, flying[] = {20000, 10000, 5000, 20000, 0};
	struct pair pair;
	struct group *group;

	(void)_i;
	open_lossy(&pair, 5, 0);
	group = pair.a.group;
	set_paths(&pair, rtts, flying);
	group->spread.last = pair.a.stripes[0];
	group->spread.full = true;
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[2]);
	/* By two datagrams; within them it stays where it is. */
	pair.a.stripes[2]->out.path.flying = 8688;
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[1]);
	group->spread.last = pair.a.stripes[2];
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[2]);
	/* Piece by piece it stays where it is; and where nothing is lost it takes the nearest. */
	group->spread.last = pair.a.stripes[1];
	group->spread.full = false;
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[1]);
	group->spread.last = NULL;
	pair.a.engine->sent = 10000;
	pair.a.engine->repeated = 0;
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[3]);
	pair_close(&pair);
}
END_TEST

/* One that has far more than others isn't taken where these are only full for now. */
START_TEST(test_waits_for_full_ones)
{
	static const uint32_t rtts[] = {100000, 100000, 100000}, flying[] = {60000, 8688, 8688};
	struct pair pair;
	struct group *group;

	(void)_i;
	open_lossy(&pair, 3, 0);
	group = pair.a.group;
	keep(&pair, 0, 7, "hello", 5);
	set_paths(&pair, rtts, flying);
	pair.a.stripes[1]->out.writable = pair.a.stripes[2]->out.writable = false;
	ck_assert_ptr_null(choose_stripe(group));
	/* Those that have stalled, or work no more, aren't waited for. */
	pair.a.stripes[1]->out.waits = true;
	pair.a.stripes[2]->out.path.stalled = true;
	pair.a.stripes[2]->out.path_at = ev_now(pair.a.engine->loop);
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[0]);
	pair.a.stripes[1]->out.waits = false;
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[0]);
	pair.a.stripes[2]->out.path.stalled = false;
	ck_assert_ptr_null(choose_stripe(group));
	/* It has less than it was seen to have. */
	pair.a.stripes[0]->out.path_at = 0.;
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[0]);
	set_paths(&pair, rtts, flying);
	/* Nor are any without the tick, by which it's tried again. */
	cover_stop(group);
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[0]);
	pair_close(&pair);
}
END_TEST

/* Parity goes where least is before it, if the window has room. */
START_TEST(test_choose_for_parity)
{
	static const uint32_t rtts[] = {100000, 100000, 100000}, flying[] = {20000, 8688, 15000};
	struct pair pair;
	struct group *group;

	(void)_i;
	open_lossy(&pair, 3, 0);
	group = pair.a.group;
	set_paths(&pair, rtts, flying);
	for (unsigned i = 0; i < 3; i++)
		pair.a.stripes[i]->out.path_at = ev_now(pair.a.engine->loop);
	ck_assert_ptr_eq(choose_for_parity(group, 4000), pair.a.stripes[1]);
	/* What opens is for the flow itself, if it's blocked. */
	ev_io_stop(pair.a.engine->loop, &group->local_rd);
	ck_assert_ptr_null(choose_for_parity(group, 4000));
	ev_io_start(pair.a.engine->loop, &group->local_rd);
	pair.a.stripes[1]->out.path.window = 12000;
	ck_assert_ptr_eq(choose_for_parity(group, 4000), pair.a.stripes[2]);
	pair.a.stripes[2]->parity = false;
	ck_assert_ptr_eq(choose_for_parity(group, 4000), pair.a.stripes[0]);
	/* On one that BBR paces what waits leaves late. */
	pair.a.stripes[2]->parity = true;
	pair.a.stripes[0]->out.settled = pair.a.stripes[2]->out.settled = true;
	pair.a.stripes[0]->out.path.flying = 0;
	pair.a.stripes[2]->out.path.flying = 4000;
	ck_assert_ptr_eq(choose_for_parity(group, 4000), pair.a.stripes[0]);
	pair.a.stripes[0]->out.path.pacing = 100000;
	ck_assert_ptr_eq(choose_for_parity(group, 4000), pair.a.stripes[2]);
	pair.a.stripes[2]->out.writable = false;
	ck_assert_ptr_eq(choose_for_parity(group, 4000), pair.a.stripes[0]);
	pair.a.stripes[0]->out.path.stalled = true;
	ck_assert_ptr_null(choose_for_parity(group, 4000));
	pair_close(&pair);
}
END_TEST

/* The memory of what is kept is bounded. */
START_TEST(test_bounds)
{
	static const uint8_t bytes[DATAGRAM_KEPT_MAX];
	struct pair pair;
	struct group *group;
	size_t size;

	(void)_i;
	open_lossy(&pair, 2, 0);
	group = pair.a.group;
	for (uint32_t serial = 1; serial < 200; serial++) {
		keep(&pair, 0, serial, bytes, sizeof(bytes));
		ck_assert_uint_le(group->cover->size, COVER_YOUNG);
	}
	ck_assert_uint_ge(group->cover->size, COVER_YOUNG - 2 * sizeof(bytes));
	for (uint32_t serial = 200; serial < 1000; serial++)
		keep(&pair, 0, serial, bytes, 1);
	ck_assert_uint_eq(group->cover->count, PARITY_SPAN);
	ck_assert_uint_lt(group->cover->size, PARITY_SPAN * 256);
	/* That of all flows, too. */
	size = group->cover->size;
	pair.a.engine->covered += 64 * 1024 * 1024;
	keep(&pair, 0, 1000, bytes, sizeof(bytes));
	ck_assert_uint_eq(group->cover->size, size);
	pair.a.engine->covered -= 64 * 1024 * 1024;
	cover_stop(group);
	ck_assert_ptr_null(group->cover);
	ck_assert_uint_eq(pair.a.engine->covered, 0);
	/* The tick is there all the same. */
	pair.a.engine->covered = 64 * 1024 * 1024;
	keep(&pair, 0, 1001, bytes, sizeof(bytes));
	ck_assert_uint_eq(group->cover->count, 0);
	ck_assert(ev_is_active(&group->cover->tick));
	UNTIL(&pair, group->cover == NULL);
	pair.a.engine->covered = 0;
	pair_close(&pair);
}
END_TEST

/* Whole flows that are covered, both ways. */
START_TEST(test_flow)
{
	struct pour up, down;
	struct pair pair;
	uint64_t covered = 0;

	for (unsigned flows = 0; covered == 0; flows++) {
		ck_assert_uint_lt(flows, 20);
		pair_open(&pair, 8, _i);
		for (unsigned i = 0; i < 8; i++)
			pair.b.stripes[i]->parity = true;
		/* In small pieces, behind which the engine doesn't look at the path. */
		up = (struct pour){.from = pair.a.local, .to = pair.b.local, .size = 300000, .piece = 1000, .seed = 1, .keep = true};
		down = (struct pour){.from = pair.b.local, .to = pair.a.local, .size = 200000, .seed = 2, .keep = true};
		UNTIL(&pair, (pretend_loss(&pair, 100, 1), pour(&up), pour(&down), pour_done(&up) && pour_done(&down)));
		UNTIL(&pair, pair.a.group->cover == NULL);
		shutdown(pair.a.local, SHUT_WR);
		shutdown(pair.b.local, SHUT_WR);
		UNTIL(&pair, pair.a.group == NULL && pair.b.group == NULL);
		ck_assert_int_eq(pair.a.reason, REASON_NONE);
		ck_assert_int_eq(pair.b.reason, REASON_NONE);
		UNTIL(&pair, pair.a.idle == 8 && pair.b.idle == 8);
		ck_assert_uint_eq(pair.b.engine->gathered, 0);
		covered = parities(&pair);
		pair_close(&pair);
	}
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_wanted, MODES_EXTENDED},
		{test_at_rest, MODES_EXTENDED},
		{test_not_before, MODES_EXTENDED},
		{test_on_the_wire, MODES_EXTENDED},
		{test_old_peer, MODES_EXTENDED},
		{test_number, 8},
		{test_mixed_sizes, 1},
		{test_not_while_blocked, MODES_EXTENDED},
		{test_old_while_blocked, 1},
		{test_later, 2},
		{test_old_ones, 1},
		{test_left_out, 1},
		{test_last_ones, 2},
		{test_goes_on, MODES_EXTENDED},
		{test_ends, 4},
		{test_end, 2},
		{test_binds_nobody, MODES_EXTENDED},
		{test_even, 1},
		{test_waits_for_full_ones, 1},
		{test_choose_for_parity, 1},
		{test_bounds, 1},
		{test_flow, MODES_EXTENDED},
		{NULL, 0},
	};

	return run_looped("cover", tests);
}
