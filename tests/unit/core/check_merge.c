/* SPDX-License-Identifier: ISC */
#include "core/merge.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/pair.h"

/* What a peer does, in order: each step on one of four stripes. */
enum kind { STOP, DATA, PART, HEADER, FIN, RESET, BYTES, OPEN, JOIN };

struct step {
	enum kind kind;
	unsigned stripe;
	uint32_t serial; /* or the size of BYTES */
	const char *text;
};

#define STEPS 6
struct story {
	const char *what;
	struct step steps[STEPS];
	const char *delivered; /* before the flow is reset */
	bool ended;	       /* and half-closed */
};

static void play(struct pair *pair, const struct step *step)
{
	struct control control = {.type = CONTROL_FIN, .serial = step->serial};

	switch (step->kind) {
	case DATA:
		raw_data(pair, step->stripe, step->serial, step->text);
		return;
	case PART: /* the beginning of a payload of ten bytes */
		raw_header(pair, step->stripe, step->serial, 10);
		raw_write(pair, step->stripe, step->text, strlen(step->text));
		return;
	case HEADER:
		raw_header(pair, step->stripe, step->serial, 0);
		return;
	case BYTES:
		raw_write(pair, step->stripe, step->text, step->serial);
		return;
	case RESET:
		control = (struct control){.type = CONTROL_RESET, .reset = {REASON_RESET, step->serial}};
		break;
	case OPEN:
		control = (struct control){.type = CONTROL_OPEN};
		control.open.destination.in.sin_family = control.open.client.in.sin_family = AF_INET;
		control.open.destination.in.sin_port = 1;
		break;
	case JOIN:
		control = (struct control){.type = CONTROL_JOIN};
		break;
	default:
		break;
	}
	raw_control(pair, step->stripe, &control);
}

static void check_story(const struct story *story, int mode)
{
	struct pair pair;

	pair_open_raw(&pair, 4, mode);
	for (unsigned i = 0; i < STEPS && story->steps[i].kind != STOP; i++) {
		ck_assert_msg(pair.a.group != NULL, "%s: ended before step %u", story->what, i);
		play(&pair, &story->steps[i]);
		pair_settle(&pair);
	}
	ck_assert_msg(pair.a.group == NULL, "%s: not noticed", story->what);
	ck_assert_int_ne(pair.a.reason, REASON_NONE);
	local_expect(&pair, &pair.a, story->delivered);
	if (story->ended) {
		local_expect_end(&pair, &pair.a);
		UNTIL(&pair, sock_error(pair.a.local) == EPIPE);
	} else {
		local_expect_reset(&pair, &pair.a);
	}
	for (unsigned i = 0; i < 4; i++)
		ck_assert_msg(raw_ended_by_reset(&pair, i), "%s: stripe %u", story->what, i);
	ck_assert_uint_eq(pair.a.closed, 4);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.flows_reset), 1);
	pair_close(&pair);
}

static const struct story both_protocols[] = {
	{"the same serial again", {{DATA, 0, 1, "a"}, {DATA, 0, 1, "b"}}, "a", false},
	{"not rising", {{DATA, 0, 2, "b"}, {DATA, 1, 1, "a"}, {DATA, 0, 2, "c"}}, "ab", false},
	{"due twice", {{PART, 0, 1, "abc"}, {DATA, 1, 1, "d"}}, "abc", false},
	{"2^31 ahead", {{DATA, 0, 0x80000001, "x"}}, "", false},
	{"2^31 ahead of a later one", {{DATA, 0, 1, "a"}, {DATA, 1, 0x80000002, "x"}}, "a", false},
	{"just behind", {{DATA, 0, 0xffffffff, "x"}}, "", false},
	{NULL, {{0}}, NULL, false},
};

static const struct story extended_only[] = {
	{"parked twice, of two sizes", {{DATA, 0, 2, "b"}, {DATA, 1, 2, "bb"}}, "", false},
	{"an old one again on its stripe", {{DATA, 0, 1, "a"}, {DATA, 1, 1, "a"}, {DATA, 1, 1, "a"}}, "a", false},
	{"data after the last", {{DATA, 0, 1, "a"}, {FIN, 0, 1, NULL}, {DATA, 0, 2, "b"}}, "a", true},
	{"data though there's none", {{FIN, 0, 0, NULL}, {DATA, 1, 1, "a"}}, "", true},
	{"beyond Fin", {{FIN, 0, 2, NULL}, {DATA, 1, 3, "c"}}, "", false},
	{"Fin before a parked one", {{DATA, 1, 3, "c"}, {FIN, 0, 2, NULL}}, "", false},
	{"Fin 0 and a parked one", {{DATA, 1, 3, "c"}, {FIN, 0, 0, NULL}}, "", false},
	{"Fin 0 after data", {{DATA, 1, 1, "a"}, {FIN, 0, 0, NULL}}, "a", false},
	{"Fin 0 amid data", {{PART, 1, 1, "abc"}, {FIN, 0, 0, NULL}}, "abc", false},
	{"Fin amid the next", {{DATA, 1, 1, "a"}, {PART, 1, 2, "bc"}, {FIN, 0, 1, NULL}}, "abc", false},
	{"Reset amid the next", {{DATA, 1, 1, "a"}, {PART, 1, 2, "bc"}, {RESET, 0, 1, NULL}}, "abc", false},
	{"Fin in the past", {{DATA, 1, 1, "a"}, {DATA, 1, 2, "b"}, {FIN, 0, 1, NULL}}, "ab", false},
	{"Fin far ahead", {{DATA, 1, 1, "a"}, {FIN, 0, 0x80000002, NULL}}, "a", false},
	{"Fin twice", {{FIN, 0, 3, NULL}, {FIN, 1, 3, NULL}}, "", false},
	{"Fin twice at the end", {{DATA, 0, 1, "a"}, {FIN, 0, 1, NULL}, {FIN, 0, 1, NULL}}, "a", true},
	{"another Fin", {{FIN, 0, 3, NULL}, {FIN, 1, 4, NULL}}, "", false},
	{"Reset twice", {{RESET, 0, 3, NULL}, {RESET, 1, 3, NULL}}, "", false},
	{"Fin after Reset", {{RESET, 0, 3, NULL}, {FIN, 1, 3, NULL}}, "", false},
	{"Reset that is not Fin's", {{FIN, 0, 3, NULL}, {RESET, 1, 2, NULL}}, "", false},
	{"Reset in the past", {{DATA, 1, 1, "a"}, {DATA, 1, 2, "b"}, {RESET, 0, 1, NULL}}, "ab", false},
	{"Open on a bound stripe", {{OPEN, 0, 0, NULL}}, "", false},
	{"Join on a bound stripe", {{DATA, 0, 1, "a"}, {JOIN, 0, 0, NULL}}, "a", false},
	{"control that's too small", {{BYTES, 0, 8, "\0\0\0\0\0\0\0\3"}}, "", false},
	{"control that's too large", {{BYTES, 0, 8, "\0\0\0\0\0\0\0\201"}}, "", false},
	{"unknown control", {{BYTES, 0, 12, "\0\0\0\0\0\0\0\4\0\177\0\0"}}, "", false},
	{"Fin without a serial", {{BYTES, 0, 12, "\0\0\0\0\0\0\0\4\0\6\0\0"}}, "", false},
	{"data that's too large", {{BYTES, 0, 8, "\0\0\0\1\0\20\0\1"}}, "", false},
	{NULL, {{0}}, NULL, false},
};

static const struct story base_only[] = {
	{"the same on another stripe", {{DATA, 0, 1, "a"}, {DATA, 1, 1, "b"}}, "a", false},
	{"an old one", {{DATA, 0, 1, "a"}, {DATA, 1, 2, "b"}, {DATA, 2, 1, "c"}}, "ab", false},
	{"parked twice", {{DATA, 0, 5, "e"}, {DATA, 1, 5, "e"}}, "", false},
	{"serial 0", {{BYTES, 0, 8, "\0\0\0\0\0\0\0\4"}}, "", false},
	{"serial 0 after data", {{DATA, 0, 1, "a"}, {BYTES, 0, 8, "\0\0\0\0\0\0\0\0"}}, "a", false},
	{NULL, {{0}}, NULL, false},
};

START_TEST(test_nonsense)
{
	for (const struct story *story = both_protocols; story->what != NULL; story++)
		check_story(story, _i);
	for (const struct story *story = _i & MODE_BASE ? base_only : extended_only; story->what != NULL; story++)
		check_story(story, _i);
}
END_TEST

START_TEST(test_any_order)
{
	static const char *const letters[] = {"a", "bb", "", "dddd", "eeeee", "ffffff", "g", "hh"};
	struct pair pair;

	pair_open_raw(&pair, 4, _i);
	/* Four wait, in the worst of orders; then the first comes, behind which all the others are. */
	raw_data(&pair, 0, 4, letters[3]);
	raw_data(&pair, 0, 8, letters[7]);
	raw_data(&pair, 1, 3, letters[2]);
	raw_data(&pair, 1, 6, letters[5]);
	raw_data(&pair, 2, 2, letters[1]);
	raw_data(&pair, 2, 7, letters[6]);
	local_expect_nothing(&pair, &pair.a);
	raw_data(&pair, 3, 1, letters[0]);
	local_expect(&pair, &pair.a, "abbdddd");
	local_expect_nothing(&pair, &pair.a);
	raw_data(&pair, 3, 5, letters[4]);
	local_expect(&pair, &pair.a, "eeeeeffffffghh");
	/* The farthest that makes sense. */
	raw_data(&pair, 0, 0x80000007, "far");
	local_expect_nothing(&pair, &pair.a);
	ck_assert_ptr_nonnull(pair.a.group);
	ck_assert(pair.a.stripes[0]->in.parked);
	pair_close(&pair);
}
END_TEST

/* Headers and payloads come in pieces, of every length. */
START_TEST(test_pieces)
{
	static uint8_t stream[4096];
	struct pair pair;
	size_t length, at = 0;

	for (size_t piece = 1; piece < 40; piece += piece < 20 ? 1 : 7) {
		length = 0;
		pair_open_raw(&pair, 1, _i);
		for (uint32_t serial = 1; serial <= 60; serial++) {
			uint32_t size = serial * 7 % 31; /* some of them 0 */

			datagram_encode(stream + length, serial, size);
			memset(stream + length + DATAGRAM_HEADER, 'a', size);
			length += DATAGRAM_HEADER + size;
		}
		ck_assert_uint_le(length, sizeof(stream));
		for (at = 0; at < length; at += piece) {
			raw_write(&pair, 0, stream + at, length - at < piece ? length - at : piece);
			pair_turn(&pair);
		}
		UNTIL(&pair, counter_read(&pair.a.engine->counters.datagrams_in) == 60);
		ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_in), length - 60 * DATAGRAM_HEADER);
		ck_assert_ptr_nonnull(pair.a.group);
		pair_close(&pair);
	}
}
END_TEST

/* One datagram of the given size, through to the client. */
static void large(struct pair *pair, uint32_t serial, size_t size)
{
	struct pour p = {.from = -1, .to = pair->a.local, .size = size, .sent = size, .keep = true, .seed = 1};
	uint8_t header[DATAGRAM_HEADER];
	size_t at = 0, length;

	datagram_encode(header, serial, (uint32_t)size);
	raw_write(pair, 0, header, sizeof(header));
	while (at < size) {
		length = size - at < 60000 ? size - at : 60000;
		const uint8_t *bytes = pattern(1, at, &length);
		ssize_t n = send(pair->raw[0], bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);

		ck_assert(n > 0 || errno == EAGAIN);
		at += n > 0 ? (size_t)n : 0;
		pour(&p);
		pair_turn(pair);
	}
	UNTIL(pair, (pour(&p), pour_done(&p)));
}

START_TEST(test_large_datagrams)
{
	struct pair pair;

	pair_open_raw(&pair, 1, _i);
	large(&pair, 1, 65535);
	large(&pair, 2, 16384);
	large(&pair, 3, 16383);
	large(&pair, 4, 1 << 20);
	if (_i & MODE_BASE)
		large(&pair, 5, 5000001); /* the seed has no bound */
	else
		raw_control(&pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 4});
	if (_i & MODE_BASE)
		shutdown(pair.raw[0], SHUT_WR);
	local_expect_end(&pair, &pair.a);
	pair_close(&pair);
}
END_TEST

START_TEST(test_fin_comes_first)
{
	struct pair pair;

	pair_open_raw(&pair, 3, _i);
	raw_control(&pair, 2, &(struct control){.type = CONTROL_FIN, .serial = 2});
	raw_data(&pair, 1, 2, "second");
	local_expect_nothing(&pair, &pair.a);
	raw_data(&pair, 0, 1, "first ");
	local_expect(&pair, &pair.a, "first second");
	local_expect_end(&pair, &pair.a);
	/* Only this direction. */
	ck_assert_ptr_nonnull(pair.a.group);
	local_write(&pair.a, "back");
	UNTIL(&pair, counter_read(&pair.a.engine->counters.bytes_out) == 4);
	shutdown(pair.a.local, SHUT_WR);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_NONE);
	pair_close(&pair);
}
END_TEST

START_TEST(test_fin_zero)
{
	struct pair pair;

	pair_open_raw(&pair, 1, _i);
	raw_control(&pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 0});
	local_expect_end(&pair, &pair.a);
	shutdown(pair.a.local, SHUT_WR);
	ck_assert_uint_eq(raw_expect(&pair, 0, CONTROL_FIN).serial, 0);
	raw_expect(&pair, 0, CONTROL_DETACH);
	raw_control(&pair, 0, &(struct control){.type = CONTROL_DETACH});
	UNTIL(&pair, pair.a.idle == 1);
	pair_close(&pair);
}
END_TEST

/* Reset names what comes before it, on whichever stripe that is. */
START_TEST(test_reset_waits_for_data)
{
	const struct control reset = {.type = CONTROL_RESET, .reset = {REASON_RESET, 3}};
	struct pair pair;

	pair_open_raw(&pair, 3, _i);
	raw_control(&pair, 0, &reset);
	raw_data(&pair, 2, 3, "three");
	raw_data(&pair, 1, 1, "one");
	local_expect(&pair, &pair.a, "one");
	local_expect_nothing(&pair, &pair.a);
	/* Our own data isn't wanted any more. */
	local_write(&pair.a, "unwanted");
	pair_settle(&pair);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_out), 0);
	raw_data(&pair, 0, 2, "two");
	local_expect(&pair, &pair.a, "twothree");
	local_expect_reset(&pair, &pair.a);
	ck_assert_int_eq(pair.a.reason, REASON_RESET);
	for (unsigned i = 0; i < 3; i++) {
		raw_expect(&pair, i, CONTROL_DETACH);
		raw_control(&pair, i, &(struct control){.type = CONTROL_DETACH});
	}
	UNTIL(&pair, pair.a.idle == 3);
	pair_close(&pair);
}
END_TEST

START_TEST(test_reset_after_fin)
{
	struct pair pair;

	for (int delivered = 0; delivered < 2; delivered++) {
		pair_open_raw(&pair, 2, _i);
		raw_control(&pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 1});
		if (delivered) {
			raw_data(&pair, 1, 1, "x");
			local_expect(&pair, &pair.a, "x");
			local_expect_end(&pair, &pair.a);
		}
		raw_control(&pair, 0, &(struct control){.type = CONTROL_RESET, .reset = {REASON_RESET, 1}});
		pair_settle(&pair);
		if (delivered) {
			UNTIL(&pair, sock_error(pair.a.local) == EPIPE);
		} else {
			raw_data(&pair, 1, 1, "x");
			local_expect(&pair, &pair.a, "x");
			local_expect_reset(&pair, &pair.a);
		}
		UNTIL(&pair, pair.a.group == NULL);
		pair_close(&pair);
	}
}
END_TEST

/* Extended stripes have no business to end while they're bound; in the base protocol only between datagrams. */
START_TEST(test_end_of_a_stripe)
{
	static const struct {
		size_t length;
		const char *bytes, *delivered;
	} cuts[] = {
		{1, "\0", ""}, {7, "\0\0\0\1\0\0\0", ""}, {8, "\0\0\0\1\0\0\0\5", ""}, {10, "\0\0\0\1\0\0\0\5ab", "ab"},
		{8, "\0\0\0\2\0\0\0\5", ""}, {13, "\0\0\0\1\0\0\0\3abc\0\0", "abc"},
	};
	struct pair pair;

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		pair_open_raw(&pair, 2, _i);
		raw_write(&pair, 0, cuts[i].bytes, cuts[i].length);
		pair_settle(&pair);
		shutdown(pair.raw[0], SHUT_WR);
		if (i == 4)
			/* It's parked: the end shows only when it's read on. */
			raw_data(&pair, 1, 1, "");
		local_expect(&pair, &pair.a, cuts[i].delivered);
		local_expect_reset(&pair, &pair.a);
		pair_close(&pair);
	}
	if (_i & MODE_BASE)
		return;
	pair_open_raw(&pair, 2, _i);
	raw_data(&pair, 0, 1, "whole");
	pair_settle(&pair);
	shutdown(pair.raw[0], SHUT_WR);
	local_expect(&pair, &pair.a, "whole");
	local_expect_reset(&pair, &pair.a);
	pair_close(&pair);
}
END_TEST

START_TEST(test_base_ends)
{
	struct pair pair;
	int mode = _i | MODE_BASE;

	/* Only when all have ended. */
	pair_open_raw(&pair, 3, mode);
	raw_data(&pair, 0, 2, "b");
	shutdown(pair.raw[0], SHUT_WR);
	shutdown(pair.raw[1], SHUT_WR);
	local_expect_nothing(&pair, &pair.a);
	raw_data(&pair, 2, 1, "a");
	raw_data(&pair, 2, 3, "c");
	local_expect(&pair, &pair.a, "abc");
	local_expect_nothing(&pair, &pair.a);
	shutdown(pair.raw[2], SHUT_WR);
	local_expect_end(&pair, &pair.a);
	local_write(&pair.a, "back");
	UNTIL(&pair, counter_read(&pair.a.engine->counters.bytes_out) == 4);
	close_socket(&pair.a.local);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_NONE);
	pair_close(&pair);

	/* A serial is missing. */
	pair_open_raw(&pair, 3, mode);
	raw_data(&pair, 0, 1, "a");
	raw_data(&pair, 1, 3, "c");
	for (unsigned i = 0; i < 3; i++)
		shutdown(pair.raw[i], SHUT_WR);
	local_expect(&pair, &pair.a, "a");
	local_expect_reset(&pair, &pair.a);
	ck_assert_int_eq(pair.a.reason, REASON_PROTOCOL);
	pair_close(&pair);

	/* A reset of any stripe. */
	pair_open_raw(&pair, 3, mode);
	raw_data(&pair, 0, 1, "a");
	local_expect(&pair, &pair.a, "a");
	reset_socket(&pair.raw[2]);
	local_expect_reset(&pair, &pair.a);
	pair_close(&pair);

	/* More are to come. */
	pair_connect(&pair, 2, mode, true);
	end_open_group(&pair.a, mode);
	pair.a.group->joining = 2;
	pair.a.group->joining--;
	end_bind(&pair.a, 0);
	shutdown(pair.raw[0], SHUT_WR);
	local_expect_nothing(&pair, &pair.a);
	raw_data(&pair, 1, 1, "a");
	pair.a.group->joining--;
	end_bind(&pair.a, 1);
	local_expect(&pair, &pair.a, "a");
	shutdown(pair.raw[1], SHUT_WR);
	local_expect_end(&pair, &pair.a);
	pair_close(&pair);
}
END_TEST

/* Data comes before there's a server to give it to. */
START_TEST(test_early_data)
{
	struct pair pair;
	struct end other = {0};

	pair_connect(&pair, 2, _i, true);
	end_open_group(&pair.a, _i);
	/* Take the local socket away again, as if it weren't connected yet. */
	other.group = pair.a.group;
	ev_io_stop(pair.a.engine->loop, &other.group->local_rd);
	hangup_remove(pair.a.engine->hangup, other.group->local);
	int fd = other.group->local;
	other.group->local = -1;
	end_bind(&pair.a, 0);
	end_bind(&pair.a, 1);
	raw_data(&pair, 0, 1, "early ");
	raw_data(&pair, 1, 2, "bird");
	if (!(_i & MODE_BASE))
		raw_control(&pair, 0, &(struct control){.type = CONTROL_FIN, .serial = 2});
	local_expect_nothing(&pair, &pair.a);
	group_set_local(pair.a.group, fd);
	local_expect(&pair, &pair.a, "early bird");
	if (!(_i & MODE_BASE))
		local_expect_end(&pair, &pair.a);
	pair_close(&pair);
}
END_TEST

/* One turn of the loop moves a bounded amount, whatever waits. */
START_TEST(test_budget)
{
	uint8_t header[DATAGRAM_HEADER];
	struct pair pair;
	uint32_t serial = 1;
	uint64_t before;

	pair_open_raw(&pair, 2, _i);
	pair_settle(&pair);
	for (; serial <= 5000; serial++) {
		datagram_encode(header, serial, 0);
		ck_assert_int_eq(send(pair.raw[0], header, sizeof(header), MSG_DONTWAIT), sizeof(header));
	}
	for (unsigned i = 0; i < 5; i++) {
		before = counter_read(&pair.a.engine->counters.datagrams_in);
		pair_turn(&pair);
		ck_assert_uint_lt(counter_read(&pair.a.engine->counters.datagrams_in) - before, 1000);
	}
	UNTIL(&pair, counter_read(&pair.a.engine->counters.datagrams_in) == 5000);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_nonsense, MODES_ALL},
		{test_any_order, MODES_ALL},
		{test_pieces, MODES_ALL},
		{test_large_datagrams, MODES_ALL},
		{test_fin_comes_first, MODES_EXTENDED},
		{test_fin_zero, MODES_EXTENDED},
		{test_reset_waits_for_data, MODES_EXTENDED},
		{test_reset_after_fin, MODES_EXTENDED},
		{test_end_of_a_stripe, MODES_ALL},
		{test_base_ends, MODES_EXTENDED},
		{test_early_data, MODES_ALL},
		{test_budget, MODES_ALL},
		{NULL, 0},
	};

	return run_looped("merge", tests);
}
