/* SPDX-License-Identifier: ISC */
#include "core/gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/pair.h"
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

	open_pair(&pair, 2, _i);
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
	/* A copy, of which it doesn't say that it's kept. */
	raw_data(&pair, 1, 9, "i");
	local_expect_nothing(&pair, &pair.a);
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
		pair->a.stripes[0]->parity = false;
		raw_header(pair, 0, 2, 100 | DATAGRAM_KEPT);
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
	raw_control(&pair, 3, &(struct control){.type = CONTROL_RESET, .reset = {.reason = REASON_RESET}});
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

/* A client that doesn't read has little in memory; and later all that was sent. */
START_TEST(test_slow_reader)
{
	static uint8_t bytes[DATAGRAM_KEPT_MAX], got[DATAGRAM_KEPT_MAX];
	struct pair pair;
	size_t had, done;
	uint32_t sent = 0;

	open_pair(&pair, 2, _i);
	do {
		raw_header(&pair, 0, ++sent, sizeof(bytes) | DATAGRAM_KEPT);
		memset(bytes, (int)sent, sizeof(bytes));
		raw_write(&pair, 0, bytes, sizeof(bytes));
		pair_settle(&pair);
		ck_assert_uint_lt(sent, 2000);
		ck_assert_uint_le(pair.a.engine->gathered, 2 * COVER_YOUNG);
	} while (!ev_is_active(&pair.a.group->local_wr));
	had = pair.a.engine->gathered;
	/* No more of it is read. */
	for (int i = 0; i < 8; i++) {
		raw_header(&pair, 1, ++sent, sizeof(bytes) | DATAGRAM_KEPT);
		memset(bytes, (int)sent, sizeof(bytes));
		raw_write(&pair, 1, bytes, sizeof(bytes));
		pair_settle(&pair);
	}
	ck_assert_uint_eq(pair.a.engine->gathered, had);
	for (uint32_t serial = 1; serial <= sent; serial++) {
		for (done = 0; done < sizeof(got);) {
			ssize_t n = recv(pair.a.local, got + done, sizeof(got) - done, MSG_DONTWAIT);

			ck_assert(n > 0 || errno == EAGAIN);
			done += n > 0 ? (size_t)n : 0;
			pair_turn(&pair);
		}
		ck_assert_uint_eq(got[0], serial & 0xff);
		ck_assert_mem_eq(got, got + 1, sizeof(got) - 1);
	}
	pair_close(&pair);
}
END_TEST

/* Any datagrams, kept or not, each on some of the stripes or on none, with parities; in pieces of any length, to a client that reads when it likes. */
#define DATAGRAMS 60
#define STRIPES 5
#define BLOCK 6

struct script {
	uint8_t *bytes;
	size_t length, at;
};

static size_t dice(size_t sides)
{
	return (size_t)random() % sides;
}

static void append(struct script *script, const void *bytes, size_t n)
{
	memcpy(script->bytes + script->length, bytes, n);
	script->length += n;
}

static void append_header(struct script *script, uint32_t serial, size_t size, uint32_t flags)
{
	uint8_t header[DATAGRAM_HEADER];

	datagram_encode(header, serial, (uint32_t)size | flags);
	append(script, header, sizeof(header));
}

/* A block's datagrams: of these as many are left out as there are parities. */
static void append_block(struct script scripts[STRIPES], uint32_t first, size_t *offset)
{
	static uint8_t pieces[BLOCK][PARITY_PREFIX + 3000], made[BLOCK][PARITY_PREFIX + 3000];
	struct parity parity = {.first = first, .set = {(1 << BLOCK) - 1}, .blocks = 1};
	unsigned lost = (unsigned)dice(3), index[2] = {(unsigned)dice(BLOCK), (unsigned)dice(BLOCK)};
	uint8_t header[PARITY_HEADER], *out[BLOCK];
	const uint8_t *in[BLOCK];
	size_t length = PARITY_PREFIX + 3000, size, n;

	memset(pieces, 0, sizeof(pieces));
	for (unsigned i = 0; i < BLOCK; i++) {
		size_t one = dice(STRIPES);

		size = 1 + dice(dice(2) ? 20 : 3000);
		for (size_t done = 0; done < size; done += n) {
			const uint8_t *bytes = pattern(1, *offset + done, (n = size - done, &n));

			memcpy(pieces[i] + PARITY_PREFIX + done, bytes, n);
		}
		*offset += size;
		parity_seal(pieces[i], (uint32_t)size);
		in[i] = pieces[i];
		out[i] = made[i];
		for (unsigned s = 0; s < STRIPES; s++) {
			if ((lost > 0 && i == index[0]) || (lost > 1 && i == index[1]) || (s != one && dice(4) != 0))
				continue;
			append_header(&scripts[s], first + i, size, DATAGRAM_KEPT);
			append(&scripts[s], pieces[i] + PARITY_PREFIX, size);
		}
	}
	parity_make(BLOCK, BLOCK, length, in, out);
	for (unsigned i = 0; i < lost; i++) {
		struct script *script = &scripts[dice(STRIPES)];

		parity.index = (uint8_t)(3 * i + dice(3));
		parity_encode(header, &parity);
		append_header(script, first, PARITY_HEADER + length, DATAGRAM_PARITY);
		append(script, header, sizeof(header));
		append(script, made[parity.index], length);
	}
}

static void write_some(struct pair *pair, unsigned stripe, struct script *script)
{
	size_t left = script->length - script->at, n = 1 + dice(dice(2) ? 30 : 5000);
	ssize_t sent = send(pair->raw[stripe], script->bytes + script->at, n < left ? n : left, MSG_DONTWAIT | MSG_NOSIGNAL);

	ck_assert(sent >= 0 || errno == EAGAIN);
	script->at += sent > 0 ? (size_t)sent : 0;
}

START_TEST(test_any)
{
	struct script scripts[STRIPES];
	struct pour out;
	struct pair pair;
	bool going;

	for (unsigned round = 0; round < 12; round++) {
		srandom(round + 1);
		open_pair(&pair, STRIPES, _i);
		out = (struct pour){.from = -1, .to = pair.a.local, .seed = 1, .keep = true};
		for (unsigned i = 0; i < STRIPES; i++)
			scripts[i] = (struct script){.bytes = malloc(2 * DATAGRAMS * 4000)};
		for (uint32_t first = 1; first <= DATAGRAMS; first += BLOCK)
			append_block(scripts, first, &out.size);
		out.sent = out.size;
		pair_start_clock(&pair);
		for (going = true; going;) {
			ck_assert_msg(!pair_is_late(&pair), "round %u: %zu of %zu", round, out.got, out.size);
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
		for (unsigned i = 0; i < STRIPES; i++)
			free(scripts[i].bytes);
		ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_in), DATAGRAMS);
		pair_close(&pair);
	}
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
		{test_nonsense, 7},
		{test_ends, MODES_EXTENDED},
		{test_forgotten, MODES_EXTENDED},
		{test_slow_reader, MODES_EXTENDED},
		{test_any, MODES_EXTENDED},
		{NULL, 0},
	};

	return run_looped("gather", tests);
}
