/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/script.h"

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

static size_t any_size(void)
{
	static const size_t most[] = {1, 20, 3000, 70000};

	return dice(most[dice(4)]);
}

static size_t some(void)
{
	return 1 + any_size();
}

/* The datagram on one stripe at least. */
static void append_anywhere(struct script scripts[STRIPES], uint32_t serial, size_t offset, size_t size)
{
	static uint8_t bytes[70000];
	size_t one = dice(STRIPES);

	script_pattern(bytes, offset, size);
	for (unsigned i = 0; i < STRIPES; i++) {
		if (i != one && dice(3) != 0)
			continue;
		script_header(&scripts[i], serial, size, 0);
		script_append(&scripts[i], bytes, size);
	}
}

START_TEST(test_any_copies)
{
	struct script scripts[STRIPES];
	struct pour out;
	struct pair pair;

	for (unsigned round = 0; round < 12; round++) {
		srandom(round + 1);
		pair_open_raw(&pair, STRIPES, _i);
		out = (struct pour){.from = -1, .to = pair.a.local, .seed = 1, .keep = true};
		for (unsigned i = 0; i < STRIPES; i++)
			script_open(&scripts[i], DATAGRAMS * (DATAGRAM_HEADER + 70000));
		for (uint32_t serial = 1; serial <= DATAGRAMS; serial++) {
			size_t size = any_size();

			append_anywhere(scripts, serial, out.size, size);
			out.size += size;
		}
		out.sent = out.size;
		scripts_play(&pair, scripts, 0, STRIPES, some, &out);
		scripts_finish(&pair, scripts, STRIPES, DATAGRAMS, &out);
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
		{NULL, 0},
	};

	return run_looped("copies", tests);
}
