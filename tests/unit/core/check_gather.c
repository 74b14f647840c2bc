/* SPDX-License-Identifier: ISC */
#include "core/gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/script.h"
#include "wire/parity.h"

static void open_pair(struct pair *pair, unsigned count, int mode)
{
	pair_open_raw(pair, count, mode);
	for (unsigned i = 0; i < count; i++)
		pair->a.stripes[i]->parity = true;
}

static void kept(struct pair *pair, unsigned stripe, uint32_t serial, const char *text)
{
	raw_header(pair, stripe, serial, (uint32_t)strlen(text) | DATAGRAM_KEPT);
	raw_write(pair, stripe, text, strlen(text));
}

/* Writes one parity of the datagrams with these texts, whose serials begin with first. flaw: a bit of it is wrong. */
static void parity_of(struct pair *pair, unsigned stripe, uint32_t first, const char *const texts[], unsigned k, unsigned index,
		      bool flaw)
{
	uint8_t padded[8][64] = {{0}}, made[8][64], header[PARITY_HEADER], *out[8];
	struct parity parity = {.first = first, .blocks = 1, .index = (uint8_t)index};
	const uint8_t *in[8];
	size_t length = 0;

	for (unsigned i = 0; i < k; i++) {
		memcpy(padded[i] + PARITY_PREFIX, texts[i], strlen(texts[i]));
		parity_seal(padded[i], (uint32_t)strlen(texts[i]));
		length = PARITY_PREFIX + strlen(texts[i]) > length ? PARITY_PREFIX + strlen(texts[i]) : length;
		parity.set[i / 8] |= (uint8_t)(1 << i % 8);
		in[i] = padded[i];
	}
	for (unsigned i = 0; i <= index; i++)
		out[i] = made[i];
	parity_make(k, index + 1, length, in, out);
	made[index][PARITY_PREFIX] ^= flaw;
	parity_encode(header, &parity);
	raw_header(pair, stripe, first, (uint32_t)(PARITY_HEADER + length) | DATAGRAM_PARITY);
	raw_write(pair, stripe, header, sizeof(header));
	raw_write(pair, stripe, made[index], length);
}

static uint64_t recovered(const struct pair *pair)
{
	return counter_read(&pair->a.engine->counters.datagrams_recovered);
}

static const char *const texts[] = {"one", "second", "3rd"};

/* What isn't due is read as well, and so is what is behind it. */
START_TEST(test_in_order)
{
	struct pair pair;

	open_pair(&pair, 3, _i);
	kept(&pair, 0, 2, "b");
	kept(&pair, 0, 4, "d");
	UNTIL(&pair, gather_find(pair.a.group, 4) != NULL);
	kept(&pair, 1, 3, "c");
	raw_header(&pair, 1, 5, 1 | DATAGRAM_KEPT);
	UNTIL(&pair, gather_find(pair.a.group, 3) != NULL);
	local_expect_nothing(&pair, &pair.a);
	kept(&pair, 0, 6, "f");
	raw_data(&pair, 0, 7, "g");
	raw_write(&pair, 1, "e", 1);
	raw_data(&pair, 1, 8, "h");
	pair_settle(&pair);
	raw_data(&pair, 1, 9, "i");
	local_expect_nothing(&pair, &pair.a);
	kept(&pair, 2, 1, "a");
	local_expect(&pair, &pair.a, "abcdefghi");
	pair_close(&pair);
}
END_TEST

START_TEST(test_delivered)
{
	struct pair pair;

	open_pair(&pair, 2, _i);
	kept(&pair, 0, 2, "b");
	kept(&pair, 0, 3, "c");
	raw_data(&pair, 0, 4, "d");
	pair_settle(&pair);
	kept(&pair, 1, 1, "a");
	local_expect(&pair, &pair.a, "abcd");
	/* Once more, all of it. */
	kept(&pair, 1, 2, "b");
	raw_data(&pair, 1, 3, "c");
	kept(&pair, 1, 4, "d");
	kept(&pair, 1, 5, "e");
	raw_control(&pair, 1, &(struct control){.type = CONTROL_FIN, .serial = 5});
	local_expect(&pair, &pair.a, "e");
	local_expect_end(&pair, &pair.a);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_in), 5);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_in), 5);
	pair_close(&pair);
}
END_TEST

/* One that doesn't come is made from the others, whichever comes last. */
START_TEST(test_recovered)
{
	struct pair pair;

	open_pair(&pair, 3, _i % 2);
	raw_header(&pair, 0, 1, 3 | DATAGRAM_KEPT);
	if (_i / 2 == 0)
		parity_of(&pair, 2, 1, texts, 3, 1, false);
	kept(&pair, 1, 2, texts[1]);
	if (_i / 2 == 1)
		parity_of(&pair, 2, 1, texts, 3, 0, false);
	kept(&pair, 1, 3, texts[2]);
	if (_i / 2 == 2)
		parity_of(&pair, 2, 1, texts, 3, 5, false);
	local_expect(&pair, &pair.a, "onesecond3rd");
	ck_assert_uint_eq(recovered(&pair), 1);
	/* When it comes at last it's dropped, and its stripe goes on. */
	raw_write(&pair, 0, "one", 3);
	kept(&pair, 0, 4, "more");
	local_expect(&pair, &pair.a, "more");
	pair_close(&pair);
}
END_TEST

/* Two are missing: one parity isn't enough, and another with the same index isn't another. */
START_TEST(test_enough)
{
	struct pair pair;

	open_pair(&pair, 3, _i);
	kept(&pair, 1, 1, texts[0]);
	local_expect(&pair, &pair.a, "one");
	parity_of(&pair, 2, 1, texts, 3, 2, false);
	parity_of(&pair, 2, 1, texts, 3, 2, false);
	pair_settle(&pair);
	ck_assert_uint_eq(recovered(&pair), 0);
	local_expect_nothing(&pair, &pair.a);
	if (_i) {
		/* One of them comes. */
		kept(&pair, 0, 3, texts[2]);
		local_expect(&pair, &pair.a, "second3rd");
		ck_assert_uint_eq(recovered(&pair), 1);
	} else {
		parity_of(&pair, 2, 1, texts, 3, 0, false);
		local_expect(&pair, &pair.a, "second3rd");
		ck_assert_uint_eq(recovered(&pair), 2);
	}
	pair_close(&pair);
}
END_TEST

/* A stripe is in the middle of the due datagram, not marked as kept, when that is recovered. */
START_TEST(test_under_way)
{
	struct pair pair;

	open_pair(&pair, 3, _i);
	kept(&pair, 1, 2, texts[1]);
	raw_header(&pair, 0, 1, 3);
	raw_write(&pair, 0, "on", 2);
	local_expect(&pair, &pair.a, "on");
	kept(&pair, 1, 3, texts[2]);
	raw_data(&pair, 1, 4, "4");
	parity_of(&pair, 2, 1, texts, 3, 0, false);
	local_expect(&pair, &pair.a, "esecond3rd4");
	raw_write(&pair, 0, "e", 1);
	raw_data(&pair, 0, 5, "5");
	local_expect(&pair, &pair.a, "5");
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_in), 14);
	pair_close(&pair);
}
END_TEST

/* What a parity brings forth must be what was sent. */
START_TEST(test_flaw)
{
	struct pair pair;

	open_pair(&pair, 3, _i);
	kept(&pair, 1, 2, texts[1]);
	kept(&pair, 1, 3, texts[2]);
	parity_of(&pair, 2, 1, texts, 3, 0, true);
	pair_settle(&pair);
	local_expect_nothing(&pair, &pair.a);
	ck_assert_uint_eq(recovered(&pair), 0);
	kept(&pair, 0, 1, texts[0]);
	local_expect(&pair, &pair.a, "onesecond3rd");
	pair_close(&pair);
}
END_TEST

/* A parity that's shorter than a piece of its block is of other pieces. */
START_TEST(test_too_short)
{
	struct pair pair;

	open_pair(&pair, 3, _i);
	kept(&pair, 1, 2, "longer than second");
	kept(&pair, 1, 3, texts[2]);
	parity_of(&pair, 2, 1, texts, 3, 0, false);
	kept(&pair, 2, 4, "4");
	UNTIL(&pair, gather_find(pair.a.group, 4) != NULL);
	local_expect_nothing(&pair, &pair.a);
	ck_assert_uint_eq(recovered(&pair), 0);
	kept(&pair, 0, 1, texts[0]);
	local_expect(&pair, &pair.a, "onelonger than second3rd4");
	pair_close(&pair);
}
END_TEST

/* More was passed on of the due datagram than another stripe, or a parity, says that it has: nobody gets what's behind it in memory. */
START_TEST(test_sizes_differ)
{
	const char *rest = "abcdefgh";
	struct pair pair;
	char byte;

	open_pair(&pair, 3, _i % 2);
	kept(&pair, 2, 2, texts[1]);
	kept(&pair, 2, 3, texts[2]);
	UNTIL(&pair, gather_find(pair.a.group, 3) != NULL);
	if (_i / 2) {
		raw_header(&pair, 1, 1, 3 | DATAGRAM_KEPT);
		UNTIL(&pair, pair.a.stripes[1]->in.piece != NULL);
	}
	raw_header(&pair, 0, 1, 10);
	raw_write(&pair, 0, "abcdefgh", 8);
	if (_i / 2) {
		pair_settle(&pair);
		if (pair.a.group != NULL)
			raw_write(&pair, 1, texts[0], 3);
	} else {
		local_expect(&pair, &pair.a, rest);
		rest = "";
		parity_of(&pair, 2, 1, texts, 3, 0, false);
	}
	pair_settle(&pair);
	/* It may take this for an error, at once or later. */
	while (recv(pair.a.local, &byte, 1, MSG_DONTWAIT) == 1) {
		ck_assert_int_ne(*rest, '\0');
		ck_assert_int_eq(byte, *rest++);
	}
	/* What a parity says is no more than a guess: the datagram itself counts. */
	if (_i / 2 == 0) {
		raw_write(&pair, 0, "ij", 2);
		local_expect(&pair, &pair.a, "ijsecond3rd");
	}
	pair_close(&pair);
}
END_TEST

/* From a peer whose parity didn't fit no more is taken; all else goes on. */
START_TEST(test_no_more_parity)
{
	struct pair pair;

	open_pair(&pair, 3, _i);
	kept(&pair, 1, 2, texts[1]);
	kept(&pair, 1, 3, texts[2]);
	UNTIL(&pair, gather_find(pair.a.group, 3) != NULL);
	parity_of(&pair, 2, 1, texts, 3, 0, true);
	parity_of(&pair, 2, 1, texts, 3, 1, false);
	kept(&pair, 2, 4, "4");
	UNTIL(&pair, gather_find(pair.a.group, 4) != NULL);
	ck_assert_uint_eq(recovered(&pair), 0);
	ck_assert_uint_eq(pair.a.group->gather->block_count, 0);
	kept(&pair, 0, 1, texts[0]);
	local_expect(&pair, &pair.a, "onesecond3rd4");
	pair_close(&pair);
}
END_TEST

/* One that's read into memory, while another stripe brings and delivers the same, isn't kept. */
START_TEST(test_overtaken)
{
	struct pair pair;

	open_pair(&pair, 2, _i);
	raw_header(&pair, 1, 1, 3 | DATAGRAM_KEPT);
	raw_write(&pair, 1, "on", 2);
	UNTIL(&pair, pair.a.stripes[1]->in.piece != NULL && pair.a.stripes[1]->in.piece->got == 2);
	raw_data(&pair, 0, 1, "one");
	local_expect(&pair, &pair.a, "one");
	raw_write(&pair, 1, "e", 1);
	kept(&pair, 1, 2, texts[1]);
	local_expect(&pair, &pair.a, "second");
	ck_assert_ptr_null(gather_find(pair.a.group, 1));
	ck_assert_ptr_nonnull(gather_find(pair.a.group, 2));
	pair_close(&pair);
}
END_TEST

/* Nothing at all, and a single byte, are the smallest; a parity can't be smaller than over these. */
START_TEST(test_smallest)
{
	static const char *const small[] = {"", "x"};
	struct pair pair;
	unsigned missing = (unsigned)_i / 2;

	open_pair(&pair, 2, _i % 2);
	kept(&pair, 0, 2 - missing, small[1 - missing]);
	parity_of(&pair, 1, 1, small, 2, 0, false);
	kept(&pair, 1, 3, "y");
	local_expect(&pair, &pair.a, "xy");
	ck_assert_uint_eq(recovered(&pair), 1);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_in), 3);
	pair_close(&pair);
}
END_TEST

/* As it would be after four billion datagrams. */
START_TEST(test_wrap)
{
	struct pair pair;

	open_pair(&pair, 3, _i);
	pair.a.group->merge.due = SERIAL_LAST - 1;
	pair.a.group->merge.delivered = 1000;
	kept(&pair, 0, 1, texts[2]);
	kept(&pair, 1, SERIAL_LAST - 1, texts[0]);
	parity_of(&pair, 2, SERIAL_LAST - 1, texts, 3, 0, false);
	local_expect(&pair, &pair.a, "onesecond3rd");
	ck_assert_uint_eq(recovered(&pair), 1);
	/* Those that were before it are dropped, and come no more. */
	kept(&pair, 1, SERIAL_LAST, texts[1]);
	kept(&pair, 1, 2, "2");
	local_expect(&pair, &pair.a, "2");
	pair_close(&pair);
}
END_TEST

static void nonsense(struct pair *pair, int which)
{
	uint8_t bytes[DATAGRAM_KEPT_MAX] = {0};

	switch (which) {
	case 0:
		raw_header(pair, 0, 2, 100 | DATAGRAM_PARITY);
		raw_write(pair, 0, bytes, 100);
		break;
	case 1:
		raw_header(pair, 0, 2, (PARITY_HEADER + PARITY_PREFIX) | DATAGRAM_PARITY);
		break;
	case 2:
		raw_header(pair, 0, 2, (PARITY_HEADER + PARITY_PREFIX + DATAGRAM_KEPT_MAX + 1) | DATAGRAM_PARITY);
		break;
	case 3:
		raw_header(pair, 0, 2, (DATAGRAM_KEPT_MAX + 1) | DATAGRAM_KEPT);
		break;
	case 4:
		raw_header(pair, 0, 2, 100 | DATAGRAM_KEPT | DATAGRAM_PARITY);
		break;
	case 5:
	case 6:
		/* Who doesn't know of flags takes them for a size. */
		pair->a.stripes[0]->parity = false;
		raw_header(pair, 0, 2, 100 | (which == 5 ? DATAGRAM_KEPT : DATAGRAM_PARITY));
		break;
	case 7:
		/* Only the last byte of the header isn't looked at. */
		memset(bytes, 0xff, PARITY_HEADER);
		raw_header(pair, 0, 2, 100 | DATAGRAM_PARITY);
		raw_write(pair, 0, bytes, 100);
		break;
	case 8:
		/* The end is before what is there, or comes. */
		kept(pair, 1, 4, "four");
		UNTIL(pair, gather_find(pair->a.group, 4) != NULL);
		raw_control(pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 3});
		break;
	case 9:
		raw_header(pair, 1, 4, 100 | DATAGRAM_KEPT);
		UNTIL(pair, pair->a.stripes[1]->in.piece != NULL);
		raw_control(pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 3});
		break;
	case 10:
		/* The end is what was delivered last, but there's more. */
		kept(pair, 1, 3, "three");
		UNTIL(pair, gather_find(pair->a.group, 3) != NULL);
		raw_control(pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 1});
		break;
	case 11:
		raw_data(pair, 1, 3, "three");
		UNTIL(pair, pair->a.stripes[1]->in.parked);
		raw_control(pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 1});
		break;
	default:
		/* Of another size than what is there. */
		kept(pair, 1, 3, "three");
		UNTIL(pair, gather_find(pair->a.group, 3) != NULL);
		kept(pair, 0, 3, "four");
	}
}

START_TEST(test_nonsense)
{
	struct pair pair;

	open_pair(&pair, 3, 0);
	kept(&pair, 2, 1, "begins");
	local_expect(&pair, &pair.a, "begins");
	nonsense(&pair, _i);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_PROTOCOL);
	ck_assert_uint_eq(pair.a.engine->gathered, 0);
	pair_close(&pair);
}
END_TEST

/* Where there's no flow there's nothing to cover. */
START_TEST(test_idle)
{
	struct pair pair;

	pair_connect(&pair, 1, _i % 2, true);
	pair.a.stripes[0]->parity = true;
	if (_i / 2)
		kept(&pair, 0, 1, texts[0]);
	else
		parity_of(&pair, 0, 1, texts, 3, 0, false);
	UNTIL(&pair, pair.a.closed == 1);
	ck_assert_str_eq(pair.a.why, "data on an idle stripe");
	ck_assert_uint_eq(pair.a.engine->gathered, 0);
	pair_close(&pair);
}
END_TEST

/* The stripe comes before its flow, and the flow before its server. */
START_TEST(test_early)
{
	struct pair pair;
	int local;

	pair_connect(&pair, 2, _i, true);
	for (unsigned i = 0; i < 2; i++) {
		pair.a.stripes[i]->parity = true;
		stripe_hold(pair.a.stripes[i]);
	}
	parity_of(&pair, 0, 1, texts, 3, 1, false);
	kept(&pair, 1, 1, texts[0]);
	kept(&pair, 1, 3, texts[2]);
	pair_settle(&pair);
	/* Whose it is isn't known yet. */
	ck_assert_uint_eq(pair.a.engine->gathered, 0);
	end_open_group(&pair.a, _i);
	local = pair.a.group->local;
	ev_io_stop(pair.a.engine->loop, &pair.a.group->local_rd);
	pair.a.group->local = -1;
	end_bind(&pair.a, 0);
	end_bind(&pair.a, 1);
	UNTIL(&pair, recovered(&pair) == 1);
	group_set_local(pair.a.group, local);
	local_expect(&pair, &pair.a, "onesecond3rd");
	pair_close(&pair);
}
END_TEST

/* The end comes before the rest does; the last is recovered. */
START_TEST(test_end_comes_first)
{
	struct control end = {.type = CONTROL_FIN, .serial = 3};
	struct pair pair;

	open_pair(&pair, 3, _i % 2);
	kept(&pair, 0, 2, texts[1]);
	UNTIL(&pair, gather_find(pair.a.group, 2) != NULL);
	if (_i / 2)
		end = (struct control){.type = CONTROL_RESET, .reset = {REASON_RESET, 3}};
	raw_control(&pair, 1, &end);
	local_expect_nothing(&pair, &pair.a);
	kept(&pair, 2, 1, texts[0]);
	local_expect(&pair, &pair.a, "onesecond");
	parity_of(&pair, 1, 1, texts, 3, 2, false);
	local_expect(&pair, &pair.a, "3rd");
	if (_i / 2) {
		UNTIL(&pair, pair.a.group == NULL);
		ck_assert_uint_eq(pair.a.engine->gathered, 0);
	} else {
		local_expect_end(&pair, &pair.a);
		ck_assert_ptr_nonnull(pair.a.group);
	}
	pair_close(&pair);
}
END_TEST

/* Nor are two read that would have the same place, since no serial is 0. */
START_TEST(test_out_of_reach_at_wrap)
{
	const uint32_t due = SERIAL_LAST - (GATHER_SLOTS - 2);
	struct pair pair;

	open_pair(&pair, 2, _i);
	pair.a.group->merge.due = due;
	pair.a.group->merge.delivered = 1000;
	raw_header(&pair, 0, due, (uint32_t)strlen(texts[0]) | DATAGRAM_KEPT);
	UNTIL(&pair, pair.a.stripes[0]->in.piece != NULL);
	kept(&pair, 1, 1, texts[1]);
	UNTIL(&pair, pair.a.stripes[1]->in.parked);
	raw_write(&pair, 0, texts[0], strlen(texts[0]));
	local_expect(&pair, &pair.a, texts[0]);
	kept(&pair, 0, due + 1, texts[2]);
	local_expect(&pair, &pair.a, texts[2]);
	pair_close(&pair);
}
END_TEST

/* Without memory for what parity makes up for, no more of it is taken. */
START_TEST(test_no_room_for_recovered)
{
	const size_t others = 64 * 1024 * 1024;
	struct pair pair;

	open_pair(&pair, 2, _i);
	kept(&pair, 0, 3, texts[2]);
	kept(&pair, 0, 4, "4");
	UNTIL(&pair, gather_find(pair.a.group, 4) != NULL);
	parity_of(&pair, 0, 1, texts, 3, 0, false);
	UNTIL(&pair, pair.a.group->gather->block_count == 1);
	raw_header(&pair, 0, 5, 2 | DATAGRAM_KEPT);
	raw_header(&pair, 1, 1, (uint32_t)strlen(texts[0]) | DATAGRAM_KEPT);
	UNTIL(&pair, pair.a.stripes[1]->in.piece != NULL);
	pair.a.engine->gathered += others;
	raw_write(&pair, 1, texts[0], strlen(texts[0]));
	local_expect(&pair, &pair.a, texts[0]);
	ck_assert(pair.a.group->gather->off);
	ck_assert_uint_eq(recovered(&pair), 0);
	pair.a.engine->gathered -= others;
	kept(&pair, 1, 2, texts[1]);
	local_expect(&pair, &pair.a, "second3rd4");
	pair_close(&pair);
}
END_TEST

/* A flow may end anywhere: in a piece, with pieces, with parities. */
START_TEST(test_ends)
{
	struct pair pair;

	open_pair(&pair, 4, _i);
	kept(&pair, 0, 2, texts[1]);
	parity_of(&pair, 1, 1, texts, 3, 0, false);
	raw_header(&pair, 2, 3, 1000 | DATAGRAM_KEPT);
	raw_write(&pair, 2, "half", 4);
	UNTIL(&pair, pair.a.stripes[2]->in.piece != NULL && pair.a.stripes[2]->in.piece->got == 4);
	ck_assert_uint_gt(pair.a.engine->gathered, 1000);
	reset_socket(&pair.a.local);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_uint_eq(pair.a.engine->gathered, 0);
	/* The rest is dropped as it comes. */
	for (unsigned i = 0; i < 4; i++) {
		if (i == 2) {
			char rest[996] = {0};

			raw_write(&pair, i, rest, sizeof(rest));
		}
		raw_control(&pair, i, &(struct control){.type = CONTROL_DETACH});
	}
	UNTIL(&pair, pair.a.idle == 4);
	pair_close(&pair);
}
END_TEST

/* What was delivered is forgotten when nothing has come for a while. */
START_TEST(test_forgotten)
{
	struct pair pair;

	open_pair(&pair, 2, _i);
	kept(&pair, 0, 1, "one");
	local_expect(&pair, &pair.a, "one");
	ck_assert_ptr_nonnull(gather_find(pair.a.group, 1));
	pair.a.group->gather->rest.repeat = 0.001;
	ev_timer_again(pair.a.engine->loop, &pair.a.group->gather->rest);
	UNTIL(&pair, pair.a.group->gather == NULL);
	ck_assert_uint_eq(pair.a.engine->gathered, 0);
	kept(&pair, 1, 2, "two");
	local_expect(&pair, &pair.a, "two");
	pair_close(&pair);
}
END_TEST

/* So are parities; but not what waits for others. */
START_TEST(test_forgotten_in_part)
{
	struct pair pair;
	struct gather *gather;

	open_pair(&pair, 2, _i);
	kept(&pair, 0, 1, texts[0]);
	kept(&pair, 0, 3, texts[2]);
	parity_of(&pair, 0, 1, (const char *const[]){"one", "second", "3rd", "4"}, 4, 0, false);
	local_expect(&pair, &pair.a, "one");
	UNTIL(&pair, pair.a.group->gather->block_count == 1);
	gather = pair.a.group->gather;
	gather->rest.repeat = 0.001;
	ev_timer_again(pair.a.engine->loop, &gather->rest);
	UNTIL(&pair, gather->block_count == 0);
	ck_assert_ptr_null(gather_find(pair.a.group, 1));
	ck_assert_ptr_nonnull(gather_find(pair.a.group, 3));
	kept(&pair, 0, 4, "4");
	UNTIL(&pair, gather_find(pair.a.group, 4) != NULL);
	local_expect_nothing(&pair, &pair.a);
	kept(&pair, 1, 2, texts[1]);
	local_expect(&pair, &pair.a, "second3rd4");
	UNTIL(&pair, pair.a.group->gather == NULL);
	ck_assert_uint_eq(pair.a.engine->gathered, 0);
	pair_close(&pair);
}
END_TEST

/* A datagram of this size whose bytes are the serial's. */
static void large(struct pair *pair, unsigned stripe, uint32_t serial)
{
	static uint8_t bytes[DATAGRAM_KEPT_MAX];

	memset(bytes, (int)serial, sizeof(bytes));
	raw_header(pair, stripe, serial, sizeof(bytes) | DATAGRAM_KEPT);
	raw_write(pair, stripe, bytes, sizeof(bytes));
}

static void expect_large(struct pair *pair, uint32_t serial)
{
	static uint8_t got[DATAGRAM_KEPT_MAX];
	size_t done = 0;

	pair_start_clock(pair);
	while (done < sizeof(got)) {
		ssize_t n = recv(pair->a.local, got + done, sizeof(got) - done, MSG_DONTWAIT);

		ck_assert(n > 0 || (n < 0 && errno == EAGAIN));
		ck_assert_msg(!pair_is_late(pair), "waited in vain for %u", serial);
		done += n > 0 ? (size_t)n : 0;
		pair_turn(pair);
	}
	ck_assert_uint_eq(got[0], serial & 0xff);
	ck_assert_mem_eq(got, got + 1, sizeof(got) - 1);
}

static void set_small_buffers(struct pair *pair)
{
	const int size = 32768;

	ck_assert_int_eq(setsockopt(pair->a.group->local, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	ck_assert_int_eq(setsockopt(pair->a.local, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
}

/* What isn't due is bounded, too: beyond that its stripe waits, as others do. */
START_TEST(test_much_not_due)
{
	struct pair pair;
	uint32_t last = 1;
	size_t had;

	open_pair(&pair, 2, _i);
	while (!pair.a.stripes[0]->in.parked) {
		large(&pair, 0, ++last);
		pair_settle(&pair);
		ck_assert_uint_lt(last, 1000);
		ck_assert_uint_le(pair.a.engine->gathered, 2 * COVER_YOUNG);
	}
	had = pair.a.engine->gathered;
	ck_assert_uint_ge(had, 2 * COVER_YOUNG - 2 * DATAGRAM_KEPT_MAX);
	large(&pair, 0, ++last);
	pair_settle(&pair);
	ck_assert_uint_eq(pair.a.engine->gathered, had);
	large(&pair, 1, 1);
	for (uint32_t serial = 1; serial <= last; serial++)
		expect_large(&pair, serial);
	pair_close(&pair);
}
END_TEST

/* What was delivered first makes room for what comes. */
START_TEST(test_much_delivered)
{
	struct pair pair;
	const uint32_t last = 200;

	open_pair(&pair, 2, _i);
	for (uint32_t serial = 1; serial <= last; serial++) {
		large(&pair, serial % 2, serial);
		expect_large(&pair, serial);
		ck_assert_uint_le(pair.a.engine->gathered, 2 * COVER_YOUNG);
		ck_assert_ptr_nonnull(gather_find(pair.a.group, serial));
	}
	ck_assert_ptr_null(gather_find(pair.a.group, 1));
	ck_assert_ptr_nonnull(gather_find(pair.a.group, last - 100));
	pair_close(&pair);
}
END_TEST

/* When a worker's flows have as much as they all may nothing more is gathered, due or not. */
START_TEST(test_much_of_others)
{
	const size_t others = 64 * 1024 * 1024;
	struct pair pair;

	open_pair(&pair, 3, _i);
	pair.a.engine->gathered = others;
	kept(&pair, 0, 3, texts[2]);
	UNTIL(&pair, pair.a.stripes[0]->in.parked);
	raw_header(&pair, 1, 1, 3 | DATAGRAM_KEPT);
	parity_of(&pair, 2, 1, texts, 3, 0, false);
	raw_write(&pair, 1, "on", 2);
	local_expect(&pair, &pair.a, "on");
	ck_assert_uint_eq(pair.a.engine->gathered, others);
	raw_write(&pair, 1, "e", 1);
	/* It has read the parity, if only to drop it. */
	kept(&pair, 2, 2, texts[1]);
	local_expect(&pair, &pair.a, "esecond3rd");
	ck_assert_uint_eq(pair.a.engine->gathered, others);
	pair.a.engine->gathered = 0;
	kept(&pair, 0, 5, "5");
	UNTIL(&pair, gather_find(pair.a.group, 5) != NULL);
	pair_close(&pair);
}
END_TEST

/* Only so many serials ahead have a place; that of one that was delivered is another's. */
START_TEST(test_places)
{
	struct pair pair;

	open_pair(&pair, 2, _i);
	kept(&pair, 0, GATHER_REACH, "z");
	UNTIL(&pair, gather_find(pair.a.group, GATHER_REACH) != NULL);
	kept(&pair, 0, GATHER_REACH + 1, "!");
	UNTIL(&pair, pair.a.stripes[0]->in.parked);
	kept(&pair, 1, 1, "a");
	local_expect(&pair, &pair.a, "a");
	ck_assert_ptr_nonnull(gather_find(pair.a.group, 1));
	for (uint32_t serial = 2; serial < GATHER_REACH; serial++) {
		kept(&pair, 1, serial, "b");
		local_expect(&pair, &pair.a, "b");
	}
	local_expect(&pair, &pair.a, "z!");
	kept(&pair, 0, GATHER_SLOTS + 1, "?");
	kept(&pair, 1, 2 * GATHER_SLOTS - 1, "far");
	local_expect(&pair, &pair.a, "?");
	UNTIL(&pair, gather_find(pair.a.group, 2 * GATHER_SLOTS - 1) != NULL);
	ck_assert_ptr_null(gather_find(pair.a.group, 1));
	ck_assert_ptr_nonnull(gather_find(pair.a.group, 2));
	kept(&pair, 0, GATHER_SLOTS + 2, ".");
	local_expect(&pair, &pair.a, ".");
	ck_assert_ptr_null(gather_find(pair.a.group, 2));
	pair_close(&pair);
}
END_TEST

/* A parity of what has no place yet would recover nothing. */
START_TEST(test_out_of_reach)
{
	struct pair pair;

	open_pair(&pair, 2, _i);
	parity_of(&pair, 0, GATHER_REACH - 2, texts, 3, 0, false);
	/* However many there are of it, nothing of them stays. */
	for (uint32_t far = 0; far < 50; far++)
		parity_of(&pair, 0, GATHER_REACH - 1 + far, texts, 3, 0, false);
	kept(&pair, 0, 2, "behind them");
	UNTIL(&pair, gather_find(pair.a.group, 2) != NULL);
	ck_assert_uint_eq(pair.a.group->gather->block_count, 1);
	pair_close(&pair);
}
END_TEST

/* Parities that wait for pieces are few: the oldest go. */
START_TEST(test_many_blocks)
{
	static const char *const two[] = {"a", "b"};
	const unsigned blocks = 17;
	struct pair pair;

	open_pair(&pair, 3, _i);
	for (unsigned block = 0; block < blocks; block++)
		parity_of(&pair, 0, 1 + 2 * block, two, 2, 0, false);
	kept(&pair, 0, 2 * blocks, two[1]);
	UNTIL(&pair, recovered(&pair) == 1);
	ck_assert_uint_eq(pair.a.group->gather->block_count, 15);
	/* They are counted, too: of one the list of its serials alone has so much. */
	ck_assert_uint_gt(pair.a.engine->gathered, 15 * PARITY_BLOCK * sizeof(uint32_t));
	/* That of the first is gone. */
	kept(&pair, 1, 2, two[1]);
	kept(&pair, 1, 4, two[1]);
	kept(&pair, 1, 5, two[0]);
	UNTIL(&pair, recovered(&pair) == 3);
	local_expect_nothing(&pair, &pair.a);
	kept(&pair, 2, 1, two[0]);
	local_expect(&pair, &pair.a, "ababab");
	ck_assert_uint_eq(recovered(&pair), 3);
	pair_close(&pair);
}
END_TEST

/* A client that doesn't read has little in memory; and later all that was sent. */
START_TEST(test_slow_reader)
{
	struct pair pair;
	size_t had;
	uint32_t sent = 0;

	open_pair(&pair, 3, _i);
	do {
		large(&pair, 0, ++sent);
		pair_settle(&pair);
		ck_assert_uint_lt(sent, 2000);
		ck_assert_uint_le(pair.a.engine->gathered, 2 * COVER_YOUNG);
	} while (!ev_is_active(&pair.a.group->local_wr));
	had = pair.a.engine->gathered;
	/* No more of it is read, and parity is dropped: what is behind it is heard. */
	for (int i = 0; i < 8; i++) {
		large(&pair, 1, ++sent);
		pair_settle(&pair);
	}
	parity_of(&pair, 2, sent + 1, texts, 3, 0, false);
	raw_control(&pair, 2, &(struct control){.type = CONTROL_PING});
	raw_expect(&pair, 2, CONTROL_PONG);
	ck_assert_uint_eq(pair.a.engine->gathered, had);
	ck_assert_uint_eq(pair.a.group->gather->block_count, 0);
	for (uint32_t serial = 1; serial <= sent; serial++)
		expect_large(&pair, serial);
	pair_close(&pair);
}
END_TEST

/*
 * Any datagrams, each on some of the stripes, with parities; in pieces of any length, to a client that reads when it likes. Either all are kept, and some
 * are sent never; or each is kept or not, as it happens, and these come last of all, as TCP would send what was lost.
 */
#define DATAGRAMS 60
#define STRIPES 5
#define LAST STRIPES /* the stripe for what comes last */
#define BLOCK 6
#define SIZE_MAX_ANY 3000
#define SCRIPT_MAX (2 * DATAGRAMS * (SIZE_MAX_ANY + 100))

struct play {
	struct pair pair;
	struct script scripts[STRIPES + 1];
	struct pour out;
	bool mixed;
	uint8_t pieces[BLOCK][PARITY_PREFIX + SIZE_MAX_ANY], parities[BLOCK][PARITY_PREFIX + SIZE_MAX_ANY];
	size_t sizes[BLOCK];
};

static void append_datagram(struct play *play, unsigned stripe, uint32_t serial, unsigned piece)
{
	script_header(&play->scripts[stripe], serial, play->sizes[piece], !play->mixed || dice(2) ? DATAGRAM_KEPT : 0);
	script_append(&play->scripts[stripe], play->pieces[piece] + PARITY_PREFIX, play->sizes[piece]);
}

static void make_piece(struct play *play, unsigned piece)
{
	size_t size = 1 + dice(dice(2) ? 20 : SIZE_MAX_ANY);

	memset(play->pieces[piece], 0, sizeof(play->pieces[piece]));
	script_pattern(play->pieces[piece] + PARITY_PREFIX, play->out.size, size);
	parity_seal(play->pieces[piece], (uint32_t)size);
	play->sizes[piece] = size;
	play->out.size += size;
}

/* So many parities of the block's pieces, with different indexes, in any place. */
static void append_parities(struct play *play, uint32_t first, unsigned count)
{
	struct parity parity = {.first = first, .set = {(1 << BLOCK) - 1}, .blocks = 1};
	const size_t length = sizeof(play->pieces[0]);
	uint8_t header[PARITY_HEADER], *out[BLOCK];
	const uint8_t *in[BLOCK];

	for (unsigned i = 0; i < BLOCK; i++) {
		in[i] = play->pieces[i];
		out[i] = play->parities[i];
	}
	parity_make(BLOCK, BLOCK, length, in, out);
	for (unsigned i = 0; i < count; i++) {
		struct script *script = &play->scripts[dice(STRIPES)];

		parity.index = (uint8_t)(3 * i + dice(3));
		parity_encode(header, &parity);
		script_header(script, first, PARITY_HEADER + length, DATAGRAM_PARITY);
		script_append(script, header, sizeof(header));
		script_append(script, play->parities[parity.index], length);
	}
}

/* A block's datagrams: of these as many are left out as there are parities. */
static void append_block(struct play *play, uint32_t first)
{
	unsigned lost = (unsigned)dice(3), index[2] = {(unsigned)dice(BLOCK), (unsigned)dice(BLOCK)};

	for (unsigned i = 0; i < BLOCK; i++) {
		bool is_lost = (lost > 0 && i == index[0]) || (lost > 1 && i == index[1]);
		size_t one = dice(STRIPES);

		make_piece(play, i);
		for (unsigned stripe = 0; stripe < STRIPES; stripe++) {
			if (!is_lost && (stripe == one || dice(4) == 0))
				append_datagram(play, stripe, first + i, i);
		}
		if (is_lost && play->mixed)
			append_datagram(play, LAST, first + i, i);
	}
	append_parities(play, first, lost);
}

static void begin(struct play *play, unsigned seed, int mode)
{
	srandom(seed);
	open_pair(&play->pair, STRIPES + 1, mode);
	/* While the client reads too slowly parity is dropped, and kept ones wait in their stripes: here what's lost comes itself in the end. */
	if (play->mixed && seed % 2)
		set_small_buffers(&play->pair);
	play->out = (struct pour){.from = -1, .to = play->pair.a.local, .seed = 1, .keep = true};
	for (unsigned i = 0; i <= STRIPES; i++)
		script_open(&play->scripts[i], SCRIPT_MAX);
	for (uint32_t first = 1; first <= DATAGRAMS; first += BLOCK)
		append_block(play, first);
	play->out.sent = play->out.size;
}

static size_t some(void)
{
	return 1 + dice(dice(2) ? 30 : 5000);
}

START_TEST(test_any)
{
	struct play play = {.mixed = _i >= MODES_EXTENDED};
	uint64_t sum = 0;

	for (unsigned round = 1; round <= 12; round++) {
		begin(&play, round, _i % MODES_EXTENDED);
		scripts_play(&play.pair, play.scripts, 0, STRIPES, some, &play.out);
		scripts_play(&play.pair, play.scripts, LAST, LAST + 1, some, &play.out);
		scripts_finish(&play.pair, play.scripts, STRIPES + 1, DATAGRAMS, &play.out);
		ck_assert_uint_eq(play.pair.a.engine->gathered, 0);
		sum += recovered(&play.pair);
		pair_close(&play.pair);
	}
	ck_assert_uint_gt(sum, 0);
}
END_TEST

#define LARGE_LAST 60

/* All stripes have left, and what they brought waits in memory for the client to read. */
static void bring_and_leave(struct pair *pair, const struct control *end)
{
	const struct control detach = {.type = CONTROL_DETACH};

	set_small_buffers(pair);
	for (uint32_t serial = 2; serial <= LARGE_LAST; serial++) {
		large(pair, 0, serial);
		pair_settle(pair);
	}
	raw_control(pair, 0, end);
	raw_control(pair, 0, &detach);
	UNTIL(pair, pair->a.group->stripe_count == 1);
	large(pair, 1, 1);
	raw_control(pair, 1, &detach);
	UNTIL(pair, pair->a.idle == 2);
	ck_assert_ptr_nonnull(pair->a.group);
}

START_TEST(test_stripes_leave_first)
{
	struct pair pair;

	open_pair(&pair, 2, _i);
	shutdown(pair.a.local, SHUT_WR);
	bring_and_leave(&pair, &(struct control){.type = CONTROL_FIN, .serial = LARGE_LAST});
	for (uint32_t serial = 1; serial <= LARGE_LAST; serial++)
		expect_large(&pair, serial);
	local_expect_end(&pair, &pair.a);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_NONE);
	pair_close(&pair);
}
END_TEST

/* What was sent before a reset arrives, if the client takes it in time. */
START_TEST(test_stripes_leave_at_reset)
{
	struct pair pair;
	ev_timer *timer;

	open_pair(&pair, 2, _i % MODES_EXTENDED);
	bring_and_leave(&pair, &(struct control){.type = CONTROL_RESET, .reset = {.reason = REASON_RESET, .serial = LARGE_LAST}});
	timer = &pair.a.group->timer;
	ck_assert(ev_is_active(timer));
	if (_i < MODES_EXTENDED) {
		for (uint32_t serial = 1; serial <= LARGE_LAST; serial++)
			expect_large(&pair, serial);
		local_expect_reset(&pair, &pair.a);
	} else {
		ev_timer_stop(pair.a.engine->loop, timer);
		ev_timer_set(timer, 0.001, 0.);
		ev_timer_start(pair.a.engine->loop, timer);
	}
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_RESET);
	ck_assert_uint_eq(pair.a.engine->gathered, 0);
	pair_close(&pair);
}
END_TEST

/* The last stripe leaves while what it brought is being delivered. */
START_TEST(test_leaves_in_delivery)
{
	const struct control detach = {.type = CONTROL_DETACH};
	const struct control reset = {.type = CONTROL_RESET, .reset = {.reason = REASON_RESET, .serial = 3}};
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];
	struct script script;
	struct pair pair;

	open_pair(&pair, 2, _i);
	kept(&pair, 0, 3, texts[2]);
	raw_control(&pair, 0, &reset);
	raw_control(&pair, 0, &detach);
	UNTIL(&pair, pair.a.group->stripe_count == 1);
	script_open(&script, 1000);
	script_header(&script, 1, strlen(texts[0]), 0);
	script_append(&script, texts[0], strlen(texts[0]));
	script_header(&script, 2, strlen(texts[1]), DATAGRAM_KEPT);
	script_append(&script, texts[1], strlen(texts[1]));
	script_append(&script, bytes, control_encode(bytes, &detach));
	raw_write(&pair, 1, script.bytes, script.length);
	free(script.bytes);
	local_expect(&pair, &pair.a, "onesecond3rd");
	local_expect_reset(&pair, &pair.a);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_RESET);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_in_order, MODES_EXTENDED},
		{test_delivered, MODES_EXTENDED},
		{test_recovered, 6},
		{test_enough, MODES_EXTENDED},
		{test_under_way, MODES_EXTENDED},
		{test_flaw, MODES_EXTENDED},
		{test_too_short, MODES_EXTENDED},
		{test_sizes_differ, 4},
		{test_no_more_parity, MODES_EXTENDED},
		{test_overtaken, MODES_EXTENDED},
		{test_smallest, 4},
		{test_wrap, MODES_EXTENDED},
		{test_nonsense, 13},
		{test_idle, 4},
		{test_early, MODES_EXTENDED},
		{test_end_comes_first, 4},
		{test_ends, MODES_EXTENDED},
		{test_out_of_reach_at_wrap, MODES_EXTENDED},
		{test_no_room_for_recovered, MODES_EXTENDED},
		{test_forgotten, MODES_EXTENDED},
		{test_forgotten_in_part, MODES_EXTENDED},
		{test_much_not_due, MODES_EXTENDED},
		{test_much_delivered, MODES_EXTENDED},
		{test_much_of_others, MODES_EXTENDED},
		{test_places, MODES_EXTENDED},
		{test_out_of_reach, MODES_EXTENDED},
		{test_many_blocks, MODES_EXTENDED},
		{test_slow_reader, MODES_EXTENDED},
		{test_any, 2 * MODES_EXTENDED},
		{test_stripes_leave_first, MODES_EXTENDED},
		{test_stripes_leave_at_reset, 2 * MODES_EXTENDED},
		{test_leaves_in_delivery, MODES_EXTENDED},
		{NULL, 0},
	};

	return run_looped("gather", tests);
}
