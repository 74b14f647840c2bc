/* SPDX-License-Identifier: ISC */
#include "net/hold.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/core/pair.h"

/* Every test runs with pipes (1) and without (0): its _i. */
#define WAYS 2
#define BUFFERS 3

static const uint8_t prefix[HOLD_PREFIX] = "PREFIX8";

struct bench {
	struct ev_loop *loop;
	struct hold_pool *pool;
	struct counters counters;
	int in[2], out[2]; /* [0] is the test's end, [1] that of the hold */
};

static void open_bench(struct bench *bench, unsigned pipes, bool local)
{
	const struct hold_counters counters = {
		.pipes = &bench->counters.pipes_now,
		.pipes_busy = &bench->counters.pipes_busy_now,
		.buffers = &bench->counters.buffers_now,
		.buffers_busy = &bench->counters.buffers_busy_now,
		.spliced = &bench->counters.bytes_spliced,
	};

	signal(SIGPIPE, SIG_IGN);
	memset(bench, 0, sizeof(*bench));
	bench->loop = ev_loop_new(EVFLAG_NOENV);
	ck_assert_ptr_nonnull(bench->loop);
	bench->pool = hold_pool_new(bench->loop, pipes, BUFFERS, &counters);
	ck_assert_ptr_nonnull(bench->pool);
	if (local) {
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, bench->in), 0);
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, bench->out), 0);
	} else {
		tcp_pair(bench->in);
		tcp_pair(bench->out);
	}
}

static void close_bench(struct bench *bench)
{
	ck_assert_uint_eq(counter_read(&bench->counters.pipes_busy_now), 0);
	ck_assert_uint_eq(counter_read(&bench->counters.buffers_busy_now), 0);
	hold_pool_free(bench->pool);
	ev_loop_destroy(bench->loop);
	for (int i = 0; i < 2; i++) {
		close_socket(&bench->in[i]);
		close_socket(&bench->out[i]);
	}
}

static void give(struct bench *bench, const void *bytes, size_t n)
{
	ck_assert_int_eq(send(bench->in[0], bytes, n, MSG_NOSIGNAL), (int)n);
}

/* Loopback delivers within the call of the sender, most of the time. */
static ssize_t fill(struct bench *bench, struct hold *hold, size_t max, bool splice)
{
	ssize_t n;

	do
		n = hold_fill(bench->pool, hold, bench->in[1], max, splice);
	while (n < 0 && errno == EAGAIN);
	return n;
}

static void expect(struct bench *bench, const void *bytes, size_t n)
{
	uint8_t got[1024];
	size_t have = 0;
	ssize_t r;

	ck_assert_uint_le(n, sizeof(got));
	while (have < n) {
		r = recv(bench->out[0], got + have, n - have, 0);
		ck_assert(r > 0 || (r < 0 && errno == EAGAIN));
		have += r > 0 ? (size_t)r : 0;
	}
	ck_assert_mem_eq(got, bytes, n);
	ck_assert_int_eq(recv(bench->out[0], got, 1, MSG_DONTWAIT), -1);
	ck_assert_int_eq(errno, EAGAIN);
}

START_TEST(test_fill_and_drain)
{
	struct bench bench;
	struct hold hold = {0};

	for (int local = 0; local < 2; local++) {
		open_bench(&bench, 4, local);
		give(&bench, "hello", 5);
		ck_assert_int_eq(fill(&bench, &hold, 100, _i), 5);
		ck_assert(!hold_empty(&hold));
		ck_assert((hold.buffer != NULL) == !_i);
		ck_assert_uint_eq(counter_read(&bench.counters.pipes_busy_now), _i);
		ck_assert_uint_eq(counter_read(&bench.counters.buffers_busy_now), !_i);
		ck_assert_uint_eq(counter_read(&bench.counters.bytes_spliced), _i ? 5 : 0);
		ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
		ck_assert(hold_empty(&hold));
		expect(&bench, "hello", 5);
		/* What is empty has given back what it borrowed. */
		ck_assert_uint_eq(counter_read(&bench.counters.pipes_now), _i);
		ck_assert_uint_eq(counter_read(&bench.counters.pipes_busy_now), 0);
		ck_assert_uint_eq(counter_read(&bench.counters.buffers_now), !_i);
		close_bench(&bench);
	}
}
END_TEST

START_TEST(test_max_is_kept)
{
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 4, false);
	give(&bench, "abcdef", 6);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(fill(&bench, &hold, 2, _i), 2);
		ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
	}
	expect(&bench, "abcdef", 6);
	close_bench(&bench);
}
END_TEST

/* A socket that has nothing, has ended, or has failed: nothing stays borrowed. */
START_TEST(test_nothing_to_fill)
{
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 4, false);
	ck_assert_int_eq(hold_fill(bench.pool, &hold, bench.in[1], 100, _i), -1);
	ck_assert_int_eq(errno, EAGAIN);
	ck_assert(hold_empty(&hold));
	ck_assert(!(hold.buffer != NULL));
	shutdown(bench.in[0], SHUT_WR);
	ck_assert_int_eq(fill(&bench, &hold, 100, _i), 0);
	ck_assert_uint_eq(counter_read(&bench.counters.pipes_busy_now), 0);
	ck_assert_uint_eq(counter_read(&bench.counters.buffers_busy_now), 0);
	close_bench(&bench);

	open_bench(&bench, 4, false);
	reset_socket(&bench.in[0]);
	ck_assert_int_eq(fill(&bench, &hold, 100, _i), -1);
	ck_assert_int_eq(errno, ECONNRESET);
	close_bench(&bench);
}
END_TEST

/* What came before a reset can still be read. */
START_TEST(test_bytes_before_reset)
{
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 4, false);
	give(&bench, "last words", 10);
	reset_socket(&bench.in[0]);
	ck_assert_int_eq(fill(&bench, &hold, 100, _i), 10);
	ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
	expect(&bench, "last words", 10);
	ck_assert_int_eq(fill(&bench, &hold, 100, _i), -1);
	ck_assert_int_eq(errno, ECONNRESET);
	close_bench(&bench);
}
END_TEST

START_TEST(test_prefix)
{
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 4, false);
	give(&bench, "payload", 7);
	ck_assert_int_eq(fill(&bench, &hold, 100, _i), 7);
	hold_put_prefix(&hold, prefix);
	ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
	expect(&bench, "PREFIX8\0payload", 15);
	/* Of nothing. */
	hold_put_prefix(&hold, prefix);
	ck_assert(!hold_empty(&hold));
	ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
	expect(&bench, prefix, HOLD_PREFIX);
	close_bench(&bench);
}
END_TEST

static void shrink(struct bench *bench)
{
	const int tiny = 1, small = 65536;

	setsockopt(bench->out[1], SOL_SOCKET, SO_SNDBUF, &tiny, sizeof(tiny));
	setsockopt(bench->out[0], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
}

/* Fills the outgoing socket to the last byte. Returns how many it took. */
static size_t stuff(struct bench *bench)
{
	size_t total = 0;

	while (send(bench->out[1], "#", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
		total++;
	ck_assert_int_eq(errno, EAGAIN);
	return total;
}

/* The header and the payload leave in as many pieces as the socket likes. */
START_TEST(test_partial_drains)
{
	struct bench bench;
	struct hold hold = {0};
	size_t length = 50000, stuffed, got = 0, put = 0;
	const uint8_t *bytes = pattern(1, 0, &length);
	unsigned waits = 0;
	uint8_t piece[61];
	ssize_t n;
	int result;

	for (int local = 0; local < 2; local++) {
		got = put = waits = 0;
		open_bench(&bench, 4, local);
		shrink(&bench);
		stuffed = stuff(&bench);
		while (put < length) {
			n = send(bench.in[0], bytes + put, length - put, 0);
			put += n > 0 ? (size_t)n : 0;
			if (!hold_empty(&hold))
				continue;
			n = fill(&bench, &hold, length, _i);
			ck_assert_int_gt(n, 0);
			hold_put_prefix(&hold, prefix);
			ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 0);
			put = length; /* one hold is enough */
			length = (size_t)n;
		}
		while (got < stuffed + HOLD_PREFIX + length) {
			result = hold_drain(bench.pool, &hold, bench.out[1]);
			ck_assert_int_ge(result, 0);
			waits += result == 0;
			n = recv(bench.out[0], piece, sizeof(piece), MSG_DONTWAIT);
			for (ssize_t i = 0; i < n; i++, got++) {
				if (got < stuffed)
					continue;
				ck_assert_uint_eq(piece[i], got < stuffed + HOLD_PREFIX
								    ? prefix[got - stuffed]
								    : bytes[got - stuffed - HOLD_PREFIX]);
			}
		}
		ck_assert_uint_ge(waits, 1);
		ck_assert(hold_empty(&hold));
		close_bench(&bench);
		length = 50000;
	}
}
END_TEST

START_TEST(test_drain_into_closed)
{
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 4, false);
	give(&bench, "lost", 4);
	ck_assert_int_eq(fill(&bench, &hold, 100, _i), 4);
	reset_socket(&bench.out[0]);
	ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), -1);
	ck_assert(errno == ECONNRESET || errno == EPIPE);
	ck_assert(!hold_empty(&hold));
	hold_discard(bench.pool, &hold);
	ck_assert(hold_empty(&hold));
	close_bench(&bench);
}
END_TEST

/* A pipe with bytes in it must not come back to the next who asks. */
START_TEST(test_discard)
{
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 1, false);
	for (int i = 0; i < 3; i++) {
		give(&bench, "old", 3);
		ck_assert_int_eq(fill(&bench, &hold, 100, _i), 3);
		hold_put_prefix(&hold, prefix);
		hold_discard(bench.pool, &hold);
		ck_assert(hold_empty(&hold));
		ck_assert_uint_eq(counter_read(&bench.counters.pipes_now), 0);
		give(&bench, "new", 3);
		ck_assert_int_eq(fill(&bench, &hold, 100, _i), 3);
		ck_assert((hold.buffer != NULL) == !_i);
		ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
		expect(&bench, "new", 3);
		hold_discard(bench.pool, &hold); /* harmless */
		/* Only a prefix is left. */
		hold_put_prefix(&hold, prefix);
		hold_discard(bench.pool, &hold);
		ck_assert(hold_empty(&hold));
		give(&bench, "cut", 3); /* so that the next round has no pipe either */
		ck_assert_int_eq(fill(&bench, &hold, 100, _i), 3);
		hold_discard(bench.pool, &hold);
	}
	close_bench(&bench);
}
END_TEST

/* Part of the payload has left the pipe when it's discarded. */
START_TEST(test_discard_half)
{
	struct bench bench;
	struct hold hold = {0};
	size_t before;

	open_bench(&bench, 1, false);
	shrink(&bench);
	do {
		give(&bench, "some bytes, and some more", 25);
		ck_assert_int_gt(fill(&bench, &hold, 100, _i), 0);
		before = hold.length;
	} while (hold_drain(bench.pool, &hold, bench.out[1]) == 1);
	ck_assert_uint_gt(hold.length, 0);
	ck_assert_uint_le(hold.length, before);
	hold_discard(bench.pool, &hold);
	ck_assert_uint_eq(counter_read(&bench.counters.pipes_now), 0);
	close_bench(&bench);
}
END_TEST

/* What is behind the payload is read along only if all of the payload was passed. */
START_TEST(test_pass)
{
	struct bench bench;
	uint8_t bytes[16];
	struct hold_ahead ahead = {.bytes = bytes, .size = sizeof(bytes)};
	size_t n;

	(void)_i;
	open_bench(&bench, 4, false);
	ck_assert_int_eq(hold_pass(bench.pool, bench.in[1], bench.out[1], 7, &n, &ahead, 8, false), HOLD_FROM_EMPTY);
	ck_assert_uint_eq(n + ahead.n, 0);
	give(&bench, "payloadHEADER", 13);
	ck_assert_int_eq(hold_pass(bench.pool, bench.in[1], bench.out[1], 7, &n, &ahead, 8, false), HOLD_PASSED);
	ck_assert_uint_eq(n, 7);
	ck_assert_uint_eq(ahead.n, 6);
	ck_assert_mem_eq(ahead.bytes, "HEADER", 6);
	expect(&bench, "payload", 7);
	ahead.n = 0;
	give(&bench, "part", 4);
	ck_assert_int_eq(hold_pass(bench.pool, bench.in[1], bench.out[1], 7, &n, &ahead, 8, false), HOLD_FROM_EMPTY);
	ck_assert_uint_eq(n, 4);
	ck_assert_uint_eq(ahead.n, 0);
	expect(&bench, "part", 4);
	close_bench(&bench);
}
END_TEST

/* What was read ahead goes first, alone or with what the socket has. */
START_TEST(test_pass_ahead)
{
	struct bench bench;
	uint8_t bytes[16] = "..aheadNEXT";
	struct hold_ahead ahead = {.bytes = bytes, .start = 2, .n = 9, .size = sizeof(bytes)};
	size_t n;

	(void)_i;
	open_bench(&bench, 4, false);
	ck_assert_int_eq(hold_pass(bench.pool, bench.in[1], bench.out[1], 5, &n, &ahead, 8, false), HOLD_PASSED);
	ck_assert_uint_eq(n, 5);
	ck_assert_uint_eq(ahead.n, 4);
	ck_assert_mem_eq(ahead.bytes + ahead.start, "NEXT", 4);
	expect(&bench, "ahead", 5);
	/* Nothing more has come: what is there goes all the same. */
	ck_assert_int_eq(hold_pass(bench.pool, bench.in[1], bench.out[1], 10, &n, &ahead, 8, false), HOLD_FROM_EMPTY);
	ck_assert_uint_eq(n, 4);
	ck_assert_uint_eq(ahead.n, 0);
	expect(&bench, "NEXT", 4);
	memcpy(bytes, "first", 5);
	ahead.start = 0;
	ahead.n = 5;
	give(&bench, "then, and a tail that is too long", 33);
	ck_assert_int_eq(hold_pass(bench.pool, bench.in[1], bench.out[1], 9, &n, &ahead, 100, false), HOLD_PASSED);
	ck_assert_uint_eq(n, 9);
	ck_assert_uint_eq(ahead.n, sizeof(bytes));
	ck_assert_mem_eq(ahead.bytes + ahead.start, ", and a tail tha", sizeof(bytes));
	expect(&bench, "firstthen", 9);
	close_socket(&bench.in[0]);
	ahead.n = 1;
	do
		ck_assert_int_le(hold_pass(bench.pool, bench.in[1], bench.out[1], 100, &n, &ahead, 8, false), HOLD_FROM_ENDED);
	while (n > 0);
	close_bench(&bench);
}
END_TEST

/* No more than a buffer at once; what follows then is payload, not a header. */
START_TEST(test_pass_large)
{
	static uint8_t big[HOLD_BUFFER + HOLD_AHEAD + 100];
	struct bench bench;
	uint8_t bytes[HOLD_AHEAD];
	struct hold_ahead ahead = {.bytes = bytes, .size = sizeof(bytes)};
	size_t n;
	ssize_t sent = 0, part;

	(void)_i;
	open_bench(&bench, 4, false);
	while ((part = send(bench.in[0], big, sizeof(big), MSG_DONTWAIT)) > 0)
		sent += part;
	ck_assert_int_gt(sent, HOLD_BUFFER + HOLD_AHEAD);
	ck_assert_int_le(hold_pass(bench.pool, bench.in[1], bench.out[1], HOLD_BUFFER + 1, &n, &ahead, HOLD_AHEAD, false),
			 HOLD_TO_FULL);
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_le(n, HOLD_BUFFER);
	ck_assert_uint_eq(ahead.n, 0);
	close_bench(&bench);
}
END_TEST

/* A reader that has stopped costs nothing: the bytes stay where they were. */
START_TEST(test_pass_full)
{
	struct bench bench;
	uint8_t bytes[16] = "ahead";
	struct hold_ahead ahead = {.bytes = bytes, .n = 5, .size = sizeof(bytes)};
	enum hold_passed passed;
	size_t n, total = 0, given = 5;

	(void)_i;
	open_bench(&bench, 4, false);
	shrink(&bench);
	do {
		give(&bench, "some bytes, and some more", 25);
		given += 25;
		passed = hold_pass(bench.pool, bench.in[1], bench.out[1], 1000, &n, &ahead, 0, false);
		total += n;
	} while (passed == HOLD_PASSED || passed == HOLD_FROM_EMPTY);
	ck_assert_int_eq(passed, HOLD_TO_FULL);
	ck_assert_uint_lt(total, given);
	memcpy(bytes, "stays", 5);
	ahead.start = 0;
	ahead.n = 5;
	while (hold_pass(bench.pool, bench.in[1], bench.out[1], 5, &n, &ahead, 0, false) != HOLD_TO_FULL)
		ahead = (struct hold_ahead){.bytes = bytes, .n = 5, .size = sizeof(bytes)};
	ck_assert_uint_eq(n, 0);
	ck_assert_uint_eq(ahead.n, 5);
	ck_assert_uint_eq(counter_read(&bench.counters.buffers_now), 0);
	close_bench(&bench);
}
END_TEST

/* Bytes around a hold's leave in their order, in one call where they can. */
START_TEST(test_wrapped)
{
	static const uint8_t around[] = "beforebehind";
	struct hold_wrap wrap = {around, 6, 6};
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 4, false);
	give(&bench, "hold", 4);
	ck_assert_int_eq(fill(&bench, &hold, 100, _i), 4);
	hold_put_prefix(&hold, prefix);
	ck_assert_int_eq(hold_drain_wrapped(bench.pool, &hold, bench.out[1], &wrap), 1);
	ck_assert_uint_eq(wrap.before + wrap.behind, 0);
	expect(&bench, "beforePREFIX8\0holdbehind", 24);
	/* An empty hold is no hindrance. */
	wrap = (struct hold_wrap){around, 0, 6};
	ck_assert_int_eq(hold_drain_wrapped(bench.pool, &hold, bench.out[1], &wrap), 1);
	expect(&bench, "before", 6);
	close_bench(&bench);
}
END_TEST

/* Piece by piece into a socket that is nearly full: nothing is lost, doubled or out of order. */
START_TEST(test_wrapped_partial)
{
	static uint8_t around[300], bytes[12000], got[sizeof(around) + HOLD_PREFIX + sizeof(bytes)];
	struct hold_wrap wrap = {around, 100, 200};
	struct bench bench;
	struct hold hold = {0};
	size_t stuffed = 0, length, have = 0, skip;
	ssize_t n;
	int result;

	open_bench(&bench, 4, false);
	shrink(&bench);
	for (size_t i = 0; i < sizeof(around); i++)
		around[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7);
	while ((n = send(bench.out[1], bytes, 500, MSG_DONTWAIT)) > 0)
		stuffed += (size_t)n;
	give(&bench, bytes, sizeof(bytes));
	length = (size_t)fill(&bench, &hold, sizeof(bytes), _i);
	hold_put_prefix(&hold, prefix);
	ck_assert_int_eq(hold_drain_wrapped(bench.pool, &hold, bench.out[1], &wrap), 0);
	for (skip = stuffed; have < 300 + HOLD_PREFIX + length;) {
		n = recv(bench.out[0], got + have, skip > 0 && skip < 77 ? skip : 77, MSG_DONTWAIT);
		if (n > 0 && skip > 0)
			skip -= (size_t)n;
		else if (n > 0)
			have += (size_t)n;
		result = hold_drain_wrapped(bench.pool, &hold, bench.out[1], &wrap);
		ck_assert_int_ge(result, 0);
		ck_assert((result == 1) == (hold_empty(&hold) && wrap.before + wrap.behind == 0));
	}
	ck_assert_mem_eq(got, around, 100);
	ck_assert_mem_eq(got + 100, prefix, HOLD_PREFIX);
	ck_assert_mem_eq(got + 100 + HOLD_PREFIX, bytes, length);
	ck_assert_mem_eq(got + 100 + HOLD_PREFIX + length, around + 100, 200);
	close_bench(&bench);
}
END_TEST

START_TEST(test_top_up)
{
	struct bench bench;
	struct hold hold = {0};

	open_bench(&bench, 4, false);
	give(&bench, "one", 3);
	ck_assert_int_eq(fill(&bench, &hold, 5, _i), 3);
	if (_i) {
		ck_assert_int_eq(hold_top_up(&hold, bench.in[1], 5), -1);
		ck_assert_int_eq(errno, ENOBUFS);
		hold_discard(bench.pool, &hold);
		close_bench(&bench);
		return;
	}
	ck_assert_int_eq(hold_top_up(&hold, bench.in[1], 5), -1);
	ck_assert_int_eq(errno, EAGAIN);
	give(&bench, "two", 3);
	while (hold_top_up(&hold, bench.in[1], 5) != 2)
		ck_assert_int_eq(errno, EAGAIN);
	ck_assert_int_eq(hold_top_up(&hold, bench.in[1], 5), -1);
	ck_assert_int_eq(errno, ENOBUFS);
	shutdown(bench.in[0], SHUT_WR);
	while (hold_top_up(&hold, bench.in[1], 100) != 0)
		;
	ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
	expect(&bench, "onetwo", 6);
	close_bench(&bench);
}
END_TEST

/* A copy takes no more than the buffer and a header behind it. */
START_TEST(test_largest_copy)
{
	static uint8_t big[HOLD_BUFFER + HOLD_PREFIX + 100];
	struct bench bench;
	struct hold hold = {0};
	size_t n;

	(void)_i;
	open_bench(&bench, 0, true);
	while (send(bench.in[0], big, sizeof(big), MSG_DONTWAIT) > 0)
		;
	n = (size_t)fill(&bench, &hold, sizeof(big), true);
	ck_assert_uint_le(n, HOLD_BUFFER + HOLD_PREFIX);
	ck_assert_uint_ge(n, HOLD_BUFFER);
	hold_put_prefix(&hold, prefix);
	ck_assert_uint_eq(hold.length, n + HOLD_PREFIX);
	hold_discard(bench.pool, &hold);
	ck_assert_uint_eq(counter_read(&bench.counters.pipes_now), 0);
	ck_assert_uint_eq(counter_read(&bench.counters.bytes_spliced), 0);
	close_bench(&bench);
}
END_TEST

struct waiter {
	struct hold_waiter waiter;
	unsigned *turn;
	unsigned called_at;
};

static void on_ready(struct hold_waiter *waiter)
{
	struct waiter *w = (struct waiter *)waiter;

	ck_assert(!waiter->waiting);
	w->called_at = ++*w->turn;
}

/* When the pipes are out, buffers are used; when these are out too, one waits. */
START_TEST(test_exhaustion)
{
	struct bench bench;
	struct hold holds[BUFFERS + 2] = {0}, more = {0};
	unsigned turn = 0;
	struct waiter waiters[4] = {0};
	unsigned pipes = _i ? 2 : 0;

	open_bench(&bench, pipes, true);
	for (unsigned i = 0; i < BUFFERS + pipes; i++) {
		give(&bench, "x", 1);
		ck_assert_int_eq(fill(&bench, &holds[i], 1, true), 1);
		ck_assert((holds[i].buffer != NULL) == (i >= pipes));
	}
	give(&bench, "y", 1);
	ck_assert_int_eq(hold_fill(bench.pool, &more, bench.in[1], 1, true), -1);
	ck_assert_int_eq(errno, ENOBUFS);
	ck_assert(hold_empty(&more));
	for (int i = 0; i < 4; i++) {
		waiters[i].waiter.ready = on_ready;
		waiters[i].turn = &turn;
		hold_wait(bench.pool, &waiters[i].waiter);
		hold_wait(bench.pool, &waiters[i].waiter); /* harmless */
	}
	hold_unwait(bench.pool, &waiters[1].waiter);
	hold_unwait(bench.pool, &waiters[1].waiter);
	ev_run(bench.loop, EVRUN_NOWAIT);
	ck_assert_uint_eq(turn, 0);
	hold_discard(bench.pool, &holds[pipes]);
	ck_assert_uint_eq(turn, 0); /* from the loop only */
	ev_run(bench.loop, EVRUN_NOWAIT);
	/* Each is asked, in order, for none of them has taken the buffer that is free. */
	ck_assert_uint_eq(turn, 3);
	ck_assert_uint_eq(waiters[0].called_at, 1);
	ck_assert_uint_eq(waiters[1].called_at, 0);
	ck_assert_uint_eq(waiters[2].called_at, 2);
	ck_assert_uint_eq(waiters[3].called_at, 3);
	ck_assert_int_eq(hold_fill(bench.pool, &more, bench.in[1], 1, true), 1);
	hold_discard(bench.pool, &more);
	for (unsigned i = 0; i < BUFFERS + 2; i++)
		hold_discard(bench.pool, &holds[i]);
	close_bench(&bench);
}
END_TEST

/* More are made than are kept. */
START_TEST(test_idle_ones_are_bounded)
{
	enum { MANY = 40 };
	struct bench bench;
	struct hold holds[MANY] = {0};

	if (!_i)
		return;
	open_bench(&bench, MANY, true);
	for (int i = 0; i < MANY; i++) {
		give(&bench, "x", 1);
		ck_assert_int_eq(fill(&bench, &holds[i], 1, true), 1);
	}
	ck_assert_uint_eq(counter_read(&bench.counters.pipes_busy_now), MANY);
	for (int i = 0; i < MANY; i++)
		ck_assert_int_eq(hold_drain(bench.pool, &holds[i], bench.out[1]), 1);
	ck_assert_uint_lt(counter_read(&bench.counters.pipes_now), MANY);
	ck_assert_uint_gt(counter_read(&bench.counters.pipes_now), 0);
	close_bench(&bench);
}
END_TEST

/* splice(2) refuses datagram sockets with EINVAL: they are copied. */
START_TEST(test_splice_refused)
{
	struct bench bench;
	struct hold hold = {0};
	int pair[2];

	(void)_i;
	open_bench(&bench, 4, false);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
	ck_assert_int_eq(send(pair[0], "message", 7, 0), 7);
	ck_assert_int_eq(hold_fill(bench.pool, &hold, pair[1], 100, true), 7);
	ck_assert_int_eq(hold_drain(bench.pool, &hold, bench.out[1]), 1);
	expect(&bench, "message", 7);
	close(pair[0]);
	close(pair[1]);
	close_bench(&bench);
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_fill_and_drain, WAYS},
		{test_max_is_kept, WAYS},
		{test_nothing_to_fill, WAYS},
		{test_bytes_before_reset, WAYS},
		{test_prefix, WAYS},
		{test_partial_drains, WAYS},
		{test_drain_into_closed, WAYS},
		{test_discard, WAYS},
		{test_discard_half, WAYS},
		{test_wrapped, WAYS},
		{test_wrapped_partial, WAYS},
		{test_top_up, WAYS},
		{test_pass, 1},
		{test_pass_ahead, 1},
		{test_pass_large, 1},
		{test_pass_full, 1},
		{test_largest_copy, 1},
		{test_exhaustion, WAYS},
		{test_idle_ones_are_bounded, WAYS},
		{test_splice_refused, 1},
		{NULL, 0},
	};

	return run_looped("hold", tests);
}
