/* SPDX-License-Identifier: ISC */
#include "core/choose.h"
#include "core/repeat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/pair.h"

static void part(struct pair *pair, unsigned stripe, const char *text)
{
	raw_write(pair, stripe, text, strlen(text));
}

/* What the client gets, of a datagram of ten bytes on two stripes, is always what the one that's farther has. */
START_TEST(test_farthest)
{
	struct pair pair;

	pair_open_raw(&pair, 3, _i);
	raw_header(&pair, 0, 1, 10);
	part(&pair, 0, "abc");
	local_expect(&pair, &pair.a, "abc");
	raw_header(&pair, 1, 1, 10);
	part(&pair, 1, "ab");
	local_expect_nothing(&pair, &pair.a);
	part(&pair, 1, "cde");
	local_expect(&pair, &pair.a, "de");
	part(&pair, 0, "defg");
	local_expect(&pair, &pair.a, "fg");
	part(&pair, 1, "f");
	local_expect_nothing(&pair, &pair.a);
	part(&pair, 1, "ghij");
	local_expect(&pair, &pair.a, "hij");
	/* The other has the rest still to come, and something new behind it. */
	part(&pair, 0, "hij");
	raw_data(&pair, 0, 2, "new");
	local_expect(&pair, &pair.a, "new");
	/* All of it once more, and at last the end. */
	raw_data(&pair, 2, 1, "abcdefghij");
	raw_data(&pair, 2, 2, "new");
	raw_data(&pair, 2, 3, "last");
	raw_control(&pair, 1, &(struct control){.type = CONTROL_FIN, .serial = 3});
	local_expect(&pair, &pair.a, "last");
	local_expect_end(&pair, &pair.a);
	raw_data(&pair, 1, 3, "last");
	pair_settle(&pair);
	ck_assert_ptr_nonnull(pair.a.group);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_in), 3);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_in), 17);
	pair_close(&pair);
}
END_TEST

START_TEST(test_parked_twice)
{
	struct pair pair;

	pair_open_raw(&pair, 4, _i);
	raw_data(&pair, 0, 2, "bb");
	raw_header(&pair, 1, 2, 2);
	part(&pair, 1, "b");
	raw_data(&pair, 2, 3, "ccc");
	pair_settle(&pair);
	raw_data(&pair, 3, 1, "a");
	local_expect(&pair, &pair.a, "abbccc");
	/* The copy that was behind is dropped as it comes, and its stripe is as good as any. */
	part(&pair, 1, "b");
	raw_data(&pair, 1, 4, "dddd");
	local_expect(&pair, &pair.a, "dddd");
	pair_close(&pair);
}
END_TEST

/* The group ends while a copy is still to come: its stripe is free when it has. */
START_TEST(test_copy_outlives_the_group)
{
	const struct control fin = {.type = CONTROL_FIN, .serial = 1}, detach = {.type = CONTROL_DETACH};
	struct pair pair;

	pair_open_raw(&pair, 2, _i);
	raw_header(&pair, 0, 1, 4);
	part(&pair, 0, "ab");
	raw_data(&pair, 1, 1, "abcd");
	raw_control(&pair, 1, &fin);
	local_expect(&pair, &pair.a, "abcd");
	local_expect_end(&pair, &pair.a);
	shutdown(pair.a.local, SHUT_WR);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_NONE);
	raw_control(&pair, 1, &detach);
	UNTIL(&pair, pair.a.idle == 1);
	part(&pair, 0, "cd");
	raw_control(&pair, 0, &detach);
	UNTIL(&pair, pair.a.idle == 2);
	pair_close(&pair);
}
END_TEST

/* Any datagrams, each on some of the stripes, in pieces of any length, to a client that reads when it likes. */
#define DATAGRAMS 60
#define STRIPES 5

struct script {
	uint8_t *bytes;
	size_t length, at;
};

static size_t dice(size_t sides)
{
	return (size_t)random() % sides;
}

static size_t any_size(void)
{
	static const size_t most[] = {1, 20, 3000, 70000};

	return dice(most[dice(4)]);
}

static void append(struct script *script, uint32_t serial, size_t offset, size_t size)
{
	datagram_encode(script->bytes + script->length, serial, (uint32_t)size);
	script->length += DATAGRAM_HEADER;
	for (size_t done = 0, n; done < size; done += n) {
		const uint8_t *bytes = pattern(1, offset + done, (n = size - done, &n));

		memcpy(script->bytes + script->length + done, bytes, n);
	}
	script->length += size;
}

static void write_some(struct pair *pair, unsigned stripe, struct script *script)
{
	size_t left = script->length - script->at, n = 1 + any_size();
	ssize_t sent = send(pair->raw[stripe], script->bytes + script->at, n < left ? n : left, MSG_DONTWAIT | MSG_NOSIGNAL);

	ck_assert(sent >= 0 || errno == EAGAIN);
	script->at += sent > 0 ? (size_t)sent : 0;
}

START_TEST(test_any_copies)
{
	struct script scripts[STRIPES] = {{0}};
	struct pour out = {.from = -1, .seed = 1, .keep = true};
	struct pair pair;
	bool going = true;

	for (int round = 0; round < 12; round++) {
		srandom((unsigned)round + 1);
		pair_open_raw(&pair, STRIPES, _i);
		out = (struct pour){.from = -1, .to = pair.a.local, .seed = 1, .keep = true};
		for (unsigned i = 0; i < STRIPES; i++)
			scripts[i] = (struct script){.bytes = malloc(DATAGRAMS * (DATAGRAM_HEADER + 70000))};
		for (uint32_t serial = 1; serial <= DATAGRAMS; serial++) {
			size_t size = any_size(), one = dice(STRIPES);

			for (unsigned i = 0; i < STRIPES; i++) {
				if (i == one || dice(3) == 0)
					append(&scripts[i], serial, out.size, size);
			}
			out.size += size;
		}
		out.sent = out.size;
		pair_start_clock(&pair);
		for (going = true; going;) {
			ck_assert_msg(!pair_is_late(&pair), "round %d: %zu of %zu", round, out.got, out.size);
			ck_assert_ptr_nonnull(pair.a.group);
			going = false;
			for (unsigned i = 0; i < STRIPES; i++) {
				if (dice(3) == 0)
					write_some(&pair, i, &scripts[i]);
				going = going || scripts[i].at < scripts[i].length;
			}
			if (dice(4) == 0)
				pour(&out);
			pair_turn(&pair);
		}
		UNTIL(&pair, (pour(&out), pour_done(&out)));
		UNTIL(&pair, counter_read(&pair.a.engine->counters.datagrams_in) == DATAGRAMS);
		raw_control(&pair, 0, &(struct control){.type = CONTROL_FIN, .serial = DATAGRAMS});
		local_expect_end(&pair, &pair.a);
		shutdown(pair.a.local, SHUT_WR);
		UNTIL(&pair, pair.a.group == NULL);
		ck_assert_int_eq(pair.a.reason, REASON_NONE);
		/* What was behind is dropped, and nothing else is. */
		for (unsigned i = 0; i < STRIPES; i++) {
			raw_control(&pair, i, &(struct control){.type = CONTROL_DETACH});
			free(scripts[i].bytes);
		}
		UNTIL(&pair, pair.a.idle == STRIPES);
		pair_close(&pair);
	}
}
END_TEST

/* A long path on which packets get lost; until the next look at it, which finds loopback. */
static void pretend_loss(struct pair *pair, unsigned sent, unsigned repeated)
{
	for (unsigned i = 0; i < pair->count; i++) {
		stripe_look(pair->a.stripes[i], 0.);
		pair->a.stripes[i]->out.path.rtt = pair->a.stripes[i]->out.path.rtt_min = 100000;
	}
	pair->a.engine->sent = sent;
	pair->a.engine->repeated = repeated;
}

static void learn(struct engine *engine, uint32_t packets, uint32_t bad, bool in)
{
	const struct sock_path before = {0};
	struct sock_path now = {.rtt_min = STRIPE_RTT_SHORT};

	if (in) {
		now.received = packets;
		now.disordered = bad;
	} else {
		now.sent = packets;
		now.repeated = bad;
	}
	repeat_learn(engine, &before, &now);
}

/* One in 250 that are sent, or in 150 that come. */
START_TEST(test_lossy)
{
	struct engine engine = {.sent = 0};
	const uint32_t enough = _i ? 150 : 250;

	/* As long as nothing is known. */
	ck_assert(repeat_may_be_lossy(&engine));
	learn(&engine, 1000, 0, !_i);
	ck_assert(!repeat_may_be_lossy(&engine));
	learn(&engine, enough - 1, 1, _i);
	ck_assert(repeat_may_be_lossy(&engine));
	learn(&engine, 1, 0, _i);
	ck_assert(!repeat_may_be_lossy(&engine));
	/* What was is forgotten. */
	learn(&engine, 1000, 500, _i);
	ck_assert(repeat_may_be_lossy(&engine));
	for (int i = 0; i < 1000; i++)
		learn(&engine, 100, 0, _i);
	ck_assert(!repeat_may_be_lossy(&engine));
	for (int i = 0; i < 1000; i++)
		learn(&engine, 2 * enough, 1, _i);
	ck_assert(!repeat_may_be_lossy(&engine));
	for (int i = 0; i < 1000; i++)
		learn(&engine, enough / 2, 1, _i);
	ck_assert(repeat_may_be_lossy(&engine));
	learn(&engine, UINT32_MAX / 2, 0, _i);
	ck_assert(!repeat_may_be_lossy(&engine));
}
END_TEST

/* Short paths count as if they lost nothing. */
START_TEST(test_short_path)
{
	const struct sock_path before = {0}, now = {.rtt_min = STRIPE_RTT_SHORT - 1, .sent = 200, .repeated = 50,
						    .received = 100, .disordered = 50};
	struct engine engine = {.sent = 0};

	(void)_i;
	repeat_learn(&engine, &before, &now);
	ck_assert(!repeat_may_be_lossy(&engine));
	ck_assert_uint_eq(engine.sent, 200);
}
END_TEST

START_TEST(test_wanted)
{
	struct pair pair;
	struct group *group;
	struct stripe *stripe;

	pair_open(&pair, 4, _i);
	group = pair.a.group;
	stripe = pair.a.stripes[0];
	pretend_loss(&pair, 1000, 10);
	ck_assert(repeat_wanted(group, stripe));
	group->moved = REPEAT_YOUNG;
	ck_assert(!repeat_wanted(group, stripe));
	group->moved = 0;
	end_crowd(&pair.a, 100);
	ck_assert(!repeat_wanted(group, stripe));
	end_crowd(&pair.a, 0);
	stripe->out.path.rtt_min = 100;
	ck_assert(!repeat_wanted(group, stripe));
	pretend_loss(&pair, 10000, 10);
	ck_assert(!repeat_wanted(group, stripe));
	/* As long as nothing is known. */
	pretend_loss(&pair, 200, 0);
	ck_assert(repeat_wanted(group, stripe));
	pretend_loss(&pair, 300, 0);
	ck_assert(!repeat_wanted(group, stripe));
	pair_close(&pair);
}
END_TEST

/* As if the stripe had carried this last. */
static void keep(struct pair *pair, unsigned stripe, uint32_t serial, const void *bytes, size_t n)
{
	pair->a.stripes[stripe]->out.last = serial;
	repeat_keep(pair->a.group, pair->a.stripes[stripe], bytes, n);
}

static bool at_rest(const struct group *group)
{
	return group->repeat == NULL || group->repeat->rested || STAILQ_EMPTY(&group->repeat->pieces);
}

/* What was sent when the flow comes to rest comes once more, on another stripe, and is what it was. */
START_TEST(test_sent_again)
{
	uint8_t bytes[DATAGRAM_HEADER + 5];
	uint32_t serial = 0;
	struct pair pair;

	pair_open_raw(&pair, 2, _i);
	/* Where this process was kept waiting for long meanwhile, the engine has looked at the paths again, and found no loss. */
	while (counter_read(&pair.a.engine->counters.datagrams_repeated) == 0) {
		ck_assert_uint_lt(++serial, 50);
		pretend_loss(&pair, 100, 1);
		local_write(&pair.a, "hello");
		UNTIL(&pair, counter_read(&pair.a.engine->counters.datagrams_out) == serial);
		UNTIL(&pair, at_rest(pair.a.group));
	}
	for (unsigned i = 0; i < 2; i++) {
		do
			raw_read(&pair, i, bytes, sizeof(bytes));
		while (datagram_decode(bytes).serial != serial);
		ck_assert_mem_eq(bytes + DATAGRAM_HEADER, "hello", 5);
	}
	/* As soon as it has arrived nothing is kept, and nothing comes a third time. */
	UNTIL(&pair, STAILQ_EMPTY(&pair.a.group->repeat->pieces));
	UNTIL(&pair, !ev_is_active(&pair.a.group->repeat->tick));
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_repeated), 1);
	pair_close(&pair);
}
END_TEST

/* Behind a later datagram a copy would be of no use. */
START_TEST(test_no_spare_stripe)
{
	struct pair pair;
	struct group *group;

	pair_open_raw(&pair, 2, _i);
	pretend_loss(&pair, 100, 1);
	group = pair.a.group;
	pair.a.stripes[0]->out.last = 7; /* the original */
	ck_assert_ptr_eq(choose_spare(group, 7, 100, false), pair.a.stripes[1]);
	pair.a.stripes[1]->out.last = 6;
	ck_assert_ptr_eq(choose_spare(group, 7, 100, false), pair.a.stripes[1]);
	pair.a.stripes[1]->out.last = 7;
	ck_assert_ptr_null(choose_spare(group, 7, 100, false));
	pair.a.stripes[1]->out.last = 8;
	ck_assert_ptr_null(choose_spare(group, 7, 100, false));
	pair.a.stripes[1]->out.last = 0xffffffff; /* the one before 1 */
	ck_assert_ptr_eq(choose_spare(group, 7, 100, false), pair.a.stripes[1]);
	ck_assert_ptr_null(choose_spare(group, 7, pair.a.stripes[1]->out.path.window + 1, true));
	pair.a.stripes[1]->out.path.stalled = true;
	ck_assert_ptr_null(choose_spare(group, 7, 100, false));
	pair_close(&pair);
}
END_TEST

/* Of twelve stripes one that has carried nothing is kept for what is overdue. */
START_TEST(test_kept_for_overdue)
{
	struct pair pair;
	struct group *group;

	(void)_i;
	pair_open_raw(&pair, 12, 0);
	pretend_loss(&pair, 100, 1);
	group = pair.a.group;
	for (unsigned i = 0; i < 10; i++)
		pair.a.stripes[i]->out.last = 9;
	ck_assert_ptr_nonnull(choose_spare(group, 7, 100, false));
	ck_assert_uint_gt(choose_spare_room(group, 7), 0);
	pair.a.stripes[10]->out.last = 8;
	ck_assert_ptr_null(choose_spare(group, 7, 100, false));
	ck_assert_uint_eq(choose_spare_room(group, 7), 0);
	ck_assert_ptr_eq(choose_spare(group, 7, 100, true), pair.a.stripes[11]);
	/* One that has carried something earlier is free for all. */
	pair.a.stripes[10]->out.last = 6;
	ck_assert_ptr_eq(choose_spare(group, 7, 100, false), pair.a.stripes[10]);
	ck_assert_uint_gt(choose_spare_room(group, 7), 0);
	pair_close(&pair);
}
END_TEST

/* Keeps a datagram that isn't known to have arrived, nor forgotten, till the end of the test. */
static struct repeat *keep_for_good(struct pair *pair)
{
	struct repeat *repeat;

	pretend_loss(pair, 100, 1);
	keep(pair, 0, 7, "copy", 4);
	repeat = pair->a.group->repeat;
	repeat->shortest = repeat->round_trip = 3600.;
	return repeat;
}

static void expect_copy(struct pair *pair)
{
	UNTIL(pair, counter_read(&pair->a.engine->counters.datagrams_repeated) == 1);
	ck_assert_uint_eq(pair->a.stripes[1]->out.last, 7);
}

/* A copy that no socket takes when the flow comes to rest goes out when one does. */
START_TEST(test_copied_later)
{
	struct pair pair;

	pair_open_raw(&pair, 2, _i);
	keep_for_good(&pair);
	pair.a.stripes[1]->out.writable = false;
	UNTIL(&pair, at_rest(pair.a.group));
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_repeated), 0);
	pair.a.stripes[1]->out.writable = true;
	expect_copy(&pair);
	pair_close(&pair);
}
END_TEST

/* A flow that has more to send isn't at rest; but while it finds its speed it's windows that it waits for. */
START_TEST(test_copied_while_waiting)
{
	struct repeat *repeat;
	struct pair pair;

	pair_open_raw(&pair, 2, _i);
	repeat = keep_for_good(&pair);
	ev_io_stop(pair.a.engine->loop, &pair.a.group->local_rd);
	UNTIL(&pair, ev_now(pair.a.engine->loop) - repeat->kept_at > 0.02);
	ck_assert(!at_rest(pair.a.group));
	pair_begin_startup(&pair);
	expect_copy(&pair);
	pair_close(&pair);
}
END_TEST

/* A stripe that has carried copies only isn't missed: not when the flow has ended before the peer knows of it, nor when it's lost. */
START_TEST(test_copies_bind_nobody)
{
	struct pair pair;
	struct group *group;
	struct stripe *spare;

	pair_open_raw(&pair, 2, _i);
	group = pair.a.group;
	spare = pair.a.stripes[1];
	spare->out.asked = true;
	for (unsigned tries = 0; counter_read(&pair.a.engine->counters.datagrams_repeated) == 0; tries++) {
		ck_assert_uint_lt(tries, 50);
		pretend_loss(&pair, 100, 1);
		keep(&pair, 0, 7, "copy", 4);
		UNTIL(&pair, at_rest(group));
	}
	ck_assert_uint_eq(spare->out.last, 7);
	ck_assert(!group_is_unconfirmed(group));
	stripe_close(spare, false, "the test says so");
	ck_assert_ptr_nonnull(pair.a.group);
	local_write(&pair.a, "goes on");
	UNTIL(&pair, counter_read(&pair.a.engine->counters.bytes_out) == 7);
	pair_close(&pair);
}
END_TEST

static uint64_t count_copies(const struct pair *pair)
{
	return counter_read(&pair->a.engine->counters.datagrams_repeated);
}

/* What the other stripes have carried of this serial doesn't arrive. */
static void lose(struct pair *pair, uint32_t serial)
{
	for (unsigned i = 0; i < pair->count; i++) {
		struct stripe_out *out = &pair->a.stripes[i]->out;

		if (out->last != serial)
			continue;
		out->given -= 1000;
		/* It's as far as it will get: the socket isn't asked any more. */
		out->acknowledged = out->given;
	}
}

/* Nothing can have arrived yet, however slow this process is. */
static void know_nothing(struct pair *pair)
{
	pair->a.group->repeat->shortest = pair->a.group->repeat->round_trip = 1000.;
}

/* A datagram is lost, and then its copy. */
static void lose_twice(struct pair *pair)
{
	pair_open_raw(pair, 6, 0);
	pretend_loss(pair, 100, 1);
	keep(pair, 0, 7, "lost", 4);
	lose(pair, 7);
	know_nothing(pair);
	UNTIL(pair, count_copies(pair) == 1);
	lose(pair, 7);
}

/* One that's lost, and its copy as well, is sent again when one that was sent later has arrived (_i), or when nothing has for long. */
START_TEST(test_overdue)
{
	struct pair pair;

	lose_twice(&pair);
	if (_i)
		keep(&pair, 1, 8, "arrives", 7);
	/* From now on what has arrived is known at once. */
	pair.a.group->repeat->shortest = 0.;
	pair.a.group->repeat->round_trip = _i ? 1000. : 0.5;
	UNTIL(&pair, count_copies(&pair) == 2);
	UNTIL(&pair, STAILQ_EMPTY(&pair.a.group->repeat->pieces));
	ck_assert_uint_eq(count_copies(&pair), 2);
	pair_close(&pair);
}
END_TEST

/* What waits in the socket isn't overdue, however long it does. */
START_TEST(test_not_sent)
{
	struct pair pair;
	ev_tstamp until;

	(void)_i;
	lose_twice(&pair);
	for (unsigned i = 0; i < pair.count; i++)
		pair.a.stripes[i]->out.unsent = 1000;
	pair.a.group->repeat->shortest = 0.;
	pair.a.group->repeat->round_trip = 0.05;
	until = ev_now(pair.a.engine->loop) + 0.3;
	UNTIL(&pair, ev_now(pair.a.engine->loop) > until);
	ck_assert_uint_eq(count_copies(&pair), 1);
	pair.a.group->repeat->round_trip = 0.5;
	for (unsigned i = 0; i < pair.count; i++)
		pair.a.stripes[i]->out.unsent = 0;
	UNTIL(&pair, count_copies(&pair) == 2);
	pair_close(&pair);
}
END_TEST

/* What has arrived isn't overdue. */
START_TEST(test_not_overdue)
{
	struct pair pair;

	(void)_i;
	pair_open_raw(&pair, 3, 0);
	pretend_loss(&pair, 100, 1);
	keep(&pair, 0, 7, "arrives", 7);
	pair.a.group->repeat->shortest = pair.a.group->repeat->round_trip = 0.;
	UNTIL(&pair, STAILQ_EMPTY(&pair.a.group->repeat->pieces));
	ck_assert_uint_eq(count_copies(&pair), 0);
	pair_close(&pair);
}
END_TEST

/* Where there isn't room for copies of all, the last ones are repeated. */
START_TEST(test_last_ones)
{
	static const uint8_t bytes[60000];
	uint8_t header[DATAGRAM_HEADER];
	const uint32_t count = 15;
	struct pair pair;
	uint32_t fit;

	(void)_i;
	pair_open_raw(&pair, 2, 0);
	pretend_loss(&pair, 100, 1);
	fit = pair.a.stripes[1]->out.path.window / (uint32_t)(sizeof(bytes) + 100);
	ck_assert_uint_lt(fit, count);
	for (uint32_t serial = 1; serial <= count; serial++)
		keep(&pair, 0, serial, bytes, sizeof(bytes));
	know_nothing(&pair);
	UNTIL(&pair, at_rest(pair.a.group));
	raw_read(&pair, 1, header, sizeof(header));
	ck_assert_uint_ge(datagram_decode(header).serial, count - fit);
	ck_assert_uint_le(datagram_decode(header).serial, count);
	pair_close(&pair);
}
END_TEST

/* One stripe in four takes nothing but copies, as long as another works, be it full or not. */
START_TEST(test_spares)
{
	struct pair pair;
	struct group *group;

	(void)_i;
	pair_open_raw(&pair, 4, 0);
	group = pair.a.group;
	pretend_loss(&pair, 100, 1);
	ck_assert_ptr_nonnull(choose_stripe(group));
	for (unsigned i = 0; i < 3; i++) {
		ck_assert(!pair.a.stripes[i]->out.spare);
		pair.a.stripes[i]->out.writable = false;
	}
	ck_assert_ptr_null(choose_stripe(group));
	pretend_loss(&pair, 10000, 0);
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[3]);
	pretend_loss(&pair, 100, 1);
	ck_assert_ptr_null(choose_stripe(group));
	pair.a.stripes[0]->out.waits = pair.a.stripes[1]->detach_sent = true;
	ck_assert_ptr_null(choose_stripe(group));
	pair.a.stripes[2]->out.waits = true;
	ck_assert_ptr_eq(choose_stripe(group), pair.a.stripes[3]);
	pair_close(&pair);
}
END_TEST

/* What comes at once goes over all of them, so that a loss holds up little; but for those by which it would come later. */
START_TEST(test_even)
{
	static const uint32_t rtts[] = {100000, 106000, 112000, 90000, 140000}, flying[] = {20000, 10000, 5000, 0, 0};
	struct pair pair;
	struct group *group;

	(void)_i;
	pair_open_raw(&pair, 5, 0);
	group = pair.a.group;
	pretend_loss(&pair, 100, 1);
	for (unsigned i = 0; i < 5; i++)
		pair.a.stripes[i]->out.path = (struct sock_path){
			.mss = 1448, .window = 100000, .rtt = rtts[i], .rtt_min = 100000, .pacing = 10000000, .flying = flying[i]};
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

/* What waits for a stripe that's full goes on by the spare one when the other leaves. */
START_TEST(test_spare_is_left)
{
	const struct control detach = {.type = CONTROL_DETACH};
	struct pair pair;

	(void)_i;
	pair_open_raw(&pair, 4, 0);
	pretend_loss(&pair, 100, 1);
	for (unsigned i = 0; i < 3; i++)
		pair.a.stripes[i]->out.writable = false;
	local_write(&pair.a, "waits");
	pair_settle(&pair);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_out), 0);
	for (unsigned i = 0; i < 3; i++)
		raw_control(&pair, i, &detach);
	UNTIL(&pair, counter_read(&pair.a.engine->counters.datagrams_out) == 1);
	pair_close(&pair);
}
END_TEST

/* The memory of what is kept is bounded. */
START_TEST(test_bounds)
{
	static const uint8_t bytes[HOLD_BUFFER];
	struct pair pair;
	struct group *group;

	(void)_i;
	pair_open_raw(&pair, 2, 0);
	group = pair.a.group;
	pretend_loss(&pair, 100, 1);
	for (uint32_t serial = 1; serial < 100; serial++) {
		keep(&pair, 0, serial, bytes, sizeof(bytes));
		ck_assert_uint_le(group->repeat->size, REPEAT_YOUNG);
	}
	ck_assert_uint_ge(group->repeat->size, REPEAT_YOUNG - 2 * sizeof(bytes));
	for (uint32_t serial = 100; serial < 1000; serial++)
		keep(&pair, 0, serial, bytes, 1);
	ck_assert_uint_eq(group->repeat->count, 256);
	ck_assert_uint_lt(group->repeat->size, 256 * 1024);
	repeat_stop(group);
	ck_assert_ptr_null(group->repeat);
	pair_close(&pair);
}
END_TEST

/* Whole flows of which some is repeated. */
START_TEST(test_flow)
{
	struct pour up, down;
	struct pair pair;
	uint64_t repeated = 0;

	for (unsigned flows = 0; repeated == 0; flows++) {
		ck_assert_uint_lt(flows, 20);
		pair_open(&pair, 8, _i);
		/* In small pieces, behind which the engine doesn't look at the path. */
		up = (struct pour){.from = pair.a.local, .to = pair.b.local, .size = 300000, .piece = 1000, .seed = 1, .keep = true};
		down = (struct pour){.from = pair.b.local, .to = pair.a.local, .size = 200000, .seed = 2, .keep = true};
		UNTIL(&pair, (pretend_loss(&pair, 100, 1), pour(&up), pour(&down), pour_done(&up) && pour_done(&down)));
		UNTIL(&pair, at_rest(pair.a.group));
		shutdown(pair.a.local, SHUT_WR);
		shutdown(pair.b.local, SHUT_WR);
		UNTIL(&pair, pair.a.group == NULL && pair.b.group == NULL);
		ck_assert_int_eq(pair.a.reason, REASON_NONE);
		ck_assert_int_eq(pair.b.reason, REASON_NONE);
		UNTIL(&pair, pair.a.idle == 8 && pair.b.idle == 8);
		repeated = counter_read(&pair.a.engine->counters.datagrams_repeated);
		pair_close(&pair);
	}
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_farthest, MODES_EXTENDED},
		{test_parked_twice, MODES_EXTENDED},
		{test_copy_outlives_the_group, MODES_EXTENDED},
		{test_any_copies, MODES_EXTENDED},
		{test_lossy, 2},
		{test_short_path, 1},
		{test_wanted, MODES_EXTENDED},
		{test_sent_again, MODES_EXTENDED},
		{test_no_spare_stripe, MODES_EXTENDED},
		{test_kept_for_overdue, 1},
		{test_copied_later, MODES_EXTENDED},
		{test_copied_while_waiting, MODES_EXTENDED},
		{test_copies_bind_nobody, MODES_EXTENDED},
		{test_overdue, 2},
		{test_not_sent, 1},
		{test_not_overdue, 1},
		{test_last_ones, 1},
		{test_spares, 1},
		{test_even, 1},
		{test_spare_is_left, 1},
		{test_bounds, 1},
		{test_flow, MODES_EXTENDED},
		{NULL, 0},
	};

	return run_looped("repeat", tests);
}
