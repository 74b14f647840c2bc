/* SPDX-License-Identifier: ISC */
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
