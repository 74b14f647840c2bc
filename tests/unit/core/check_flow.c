/* SPDX-License-Identifier: ISC */
/* Whole flows between two engines, in every mode. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/pair.h"

/* Pours both ways until both have ended. */
static void pour_both(struct pair *pair, struct pour *up, struct pour *down)
{
	pair_start_clock(pair);
	while (!pour_done(up) || !pour_done(down)) {
		ck_assert_msg(!pair_is_late(pair), "up %zu of %zu, down %zu of %zu", up->got, up->size, down->got, down->size);
		pour(up);
		pour(down);
		pair_turn(pair);
	}
}

static void wait_for_end(struct pair *pair)
{
	unsigned count = pair->count;

	UNTIL(pair, pair->a.group == NULL && pair->b.group == NULL);
	ck_assert_int_eq(pair->a.reason, REASON_NONE);
	ck_assert_int_eq(pair->b.reason, REASON_NONE);
	if (pair->mode & MODE_BASE)
		UNTIL(pair, pair->a.closed == count && pair->b.closed == count);
	else
		UNTIL(pair, pair->a.idle == count && pair->b.idle == count);
	ck_assert_uint_eq(pair->a.idle + pair->a.closed, count);
	ck_assert_uint_eq(pair->b.idle + pair->b.closed, count);
}

static void run_flow(struct pair *pair, size_t up_size, size_t down_size)
{
	struct pour up = {.from = pair->a.local, .to = pair->b.local, .size = up_size, .seed = 1};
	struct pour down = {.from = pair->b.local, .to = pair->a.local, .size = down_size, .seed = 2};
	uint64_t moved = counter_read(&pair->a.engine->counters.bytes_out);

	pour_both(pair, &up, &down);
	ck_assert(!up.reset && !down.reset);
	wait_for_end(pair);
	ck_assert_uint_eq(counter_read(&pair->a.engine->counters.bytes_out) - moved, up_size);
}

START_TEST(test_sizes)
{
	static const size_t sizes[] = {0, 1, 7, 4095, 4096, 65535, 65536, 65537, (1 << 20) - 1, (1 << 20) + 1};
	static const unsigned counts[] = {1, 2, 8};
	const size_t n = sizeof(sizes) / sizeof(sizes[0]);
	struct pair pair;

	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
		for (size_t i = 0; i < n; i++) {
			pair_open(&pair, counts[c], _i);
			run_flow(&pair, sizes[i], sizes[(i * 3 + c) % n]);
			pair_close(&pair);
		}
	}
}
END_TEST

START_TEST(test_large)
{
	struct pair pair;

	pair_open(&pair, 8, _i);
	run_flow(&pair, 20 << 20, 20 << 20);
	ck_assert((counter_read(&pair.a.engine->counters.bytes_spliced) > 0) == !!(_i & MODE_SPLICE));
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_in), 20 << 20);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_in),
			  counter_read(&pair.b.engine->counters.datagrams_out));
	pair_close(&pair);
}
END_TEST

/* Each byte has to be there before the next is sent. */
START_TEST(test_byte_by_byte)
{
	struct pair pair;
	char byte;

	pair_open(&pair, 3, _i);
	for (int i = 0; i < 300; i++) {
		local_write(&pair.a, "x");
		UNTIL(&pair, recv(pair.b.local, &byte, 1, MSG_DONTWAIT) == 1);
		local_write(&pair.b, "y");
		UNTIL(&pair, recv(pair.a.local, &byte, 1, MSG_DONTWAIT) == 1);
	}
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_out), 300);
	run_flow(&pair, 0, 0);
	pair_close(&pair);
}
END_TEST

/* Sockets and stripes that take next to nothing: every write is cut short somewhere else. */
START_TEST(test_small_socket_buffers)
{
	const int tiny = 1;
	struct pair pair;

	pair_open(&pair, 3, _i);
	for (unsigned i = 0; i < 3; i++) {
		setsockopt(pair.a.stripes[i]->fd, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof(tiny));
		setsockopt(pair.b.stripes[i]->fd, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof(tiny));
	}
	setsockopt(pair.a.group->local, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof(tiny));
	setsockopt(pair.b.group->local, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof(tiny));
	run_flow(&pair, 1000003, 300007);
	pair_close(&pair);
}
END_TEST

/* A reader that takes its time stops the sender, and nothing is lost. */
START_TEST(test_slow_reader)
{
	struct pour up = {.size = 24 << 20, .seed = 3, .lazy = true};
	struct pour down = {.seed = 4};
	struct pair pair;
	size_t before;
	unsigned still = 0;
	int small = 65536;

	pair_open(&pair, 4, _i);
	/* Else the kernel's own buffers, which grow to tens of megabytes, may take all of it. */
	setsockopt(pair.a.group->local, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	for (unsigned i = 0; i < 4; i++)
		setsockopt(pair.b.stripes[i]->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	up.from = down.to = pair.a.local;
	up.to = down.from = pair.b.local;
	while (still < 200) {
		before = up.sent;
		pour(&up);
		pair_turn(&pair);
		still = up.sent == before ? still + 1 : 0;
	}
	ck_assert_uint_lt(up.sent, up.size);
	up.lazy = false;
	pour_both(&pair, &up, &down);
	wait_for_end(&pair);
	pair_close(&pair);
}
END_TEST

static void wrap(struct pair *pair)
{
	pair->a.group->spread.next = pair->a.group->merge.due = 0xfffffffe;
	pair->b.group->spread.next = pair->b.group->merge.due = 0xfffffffe;
}

START_TEST(test_serials_wrap)
{
	static const unsigned datagrams[] = {0, 1, 2, 3, 4};
	struct pair pair;

	for (size_t i = 0; i < sizeof(datagrams) / sizeof(datagrams[0]); i++) {
		pair_open(&pair, 2, _i);
		wrap(&pair);
		/* Each write must make a datagram of its own. */
		for (unsigned n = 0; n < datagrams[i]; n++) {
			local_write(&pair.a, "up");
			local_expect(&pair, &pair.b, "up");
			local_write(&pair.b, "down");
			local_expect(&pair, &pair.a, "down");
		}
		ck_assert_uint_eq(counter_read(&pair.a.engine->counters.datagrams_out), datagrams[i]);
		run_flow(&pair, 0, 0);
		pair_close(&pair);
	}
	pair_open(&pair, 8, _i);
	wrap(&pair);
	run_flow(&pair, 3 << 20, 3 << 20);
	pair_close(&pair);
}
END_TEST

/* One direction ends; the other goes on for as long as it likes. */
START_TEST(test_half_close)
{
	struct pour up = {.size = 100000, .seed = 5}, down = {.size = 10 << 20, .seed = 6};
	struct pair pair;

	for (int turned = 0; turned < 2; turned++) {
		struct end *near, *far;

		pair_open(&pair, 4, _i);
		near = turned ? &pair.b : &pair.a;
		far = turned ? &pair.a : &pair.b;
		up = (struct pour){.from = near->local, .to = far->local, .size = 100000, .seed = 5};
		UNTIL(&pair, (pour(&up), pour_done(&up)));
		ck_assert(pair.a.group != NULL && pair.b.group != NULL);
		down = (struct pour){.from = far->local, .to = near->local, .size = 10 << 20, .seed = 6};
		UNTIL(&pair, (pour(&down), pour_done(&down)));
		wait_for_end(&pair);
		ck_assert_uint_eq(counter_read(&pair.a.engine->counters.flows_finished), 1);
		pair_close(&pair);
	}
}
END_TEST

/* What was sent before a reset arrives, then the reset. */
static void reset_after(struct pair *pair, size_t size, bool half_closed)
{
	struct pour up = {.from = pair->a.local, .to = pair->b.local, .size = size, .seed = 7, .keep = true};
	struct pour rest;

	UNTIL(pair, (pour(&up), up.sent == size));
	if (half_closed)
		shutdown(pair->a.local, SHUT_WR);
	UNTIL(pair, (pour(&up), up.got == size));
	if (half_closed)
		local_expect_end(pair, &pair->b);
	reset_socket(&pair->a.local);
	rest = (struct pour){.from = -1, .to = pair->b.local, .size = size, .sent = size, .got = size};
	if (half_closed)
		/* The end was read already: now only writing tells. */
		UNTIL(pair, sock_error(pair->b.local) == EPIPE);
	else
		UNTIL(pair, (pour(&rest), rest.ended));
	ck_assert(half_closed || rest.reset);
	UNTIL(pair, pair->a.group == NULL && pair->b.group == NULL);
	ck_assert_int_ne(pair->a.reason, REASON_NONE);
	ck_assert_int_ne(pair->b.reason, REASON_NONE);
}

START_TEST(test_reset)
{
	static const size_t sizes[] = {0, 1, 100000, 1 << 20};
	struct pair pair;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		pair_open(&pair, 3, _i);
		reset_after(&pair, sizes[i], false);
		if (!(_i & MODE_BASE)) {
			/* The stripes are as good as new. */
			UNTIL(&pair, pair.a.idle == 3 && pair.b.idle == 3);
			ck_assert_uint_eq(pair.a.closed + pair.b.closed, 0);
			ck_assert_int_eq(pair.a.reason, REASON_RESET);
			ck_assert_int_eq(pair.b.reason, REASON_RESET);
		}
		pair_close(&pair);
	}
}
END_TEST

/* Fin, then Reset. */
START_TEST(test_reset_after_half_close)
{
	struct pair pair;

	pair_open(&pair, 3, _i);
	reset_after(&pair, 50000, true);
	pair_close(&pair);
}
END_TEST

/* Data that still is on its way when the client resets comes before the reset, where the protocol can say so. */
START_TEST(test_reset_behind_data)
{
	struct pour up = {.size = 300000, .seed = 8, .keep = true, .lazy = true};
	struct pair pair;

	pair_open(&pair, 3, _i);
	up.from = pair.a.local;
	up.to = pair.b.local;
	UNTIL(&pair, (pour(&up), up.sent == up.size));
	UNTIL(&pair, pair.a.group->local >= 0 && counter_read(&pair.a.engine->counters.bytes_out) == up.size);
	reset_socket(&pair.a.local);
	up.from = -1;
	up.lazy = false;
	UNTIL(&pair, (pour(&up), up.ended));
	ck_assert(up.reset);
	ck_assert_uint_eq(up.got, up.size);
	UNTIL(&pair, pair.a.group == NULL && pair.b.group == NULL);
	pair_close(&pair);
}
END_TEST

/* Nobody reads, all is full, and no watcher asks for anything: a reset is heard nevertheless, within the protocol's time. */
static void fill_up(struct pair *pair, struct pour *up)
{
	unsigned still = 0;
	size_t before;

	up->from = pair->a.local;
	up->to = pair->b.local;
	while (still < 300) {
		before = up->sent;
		pour(up);
		pair_turn(pair);
		still = up->sent == before ? still + 1 : 0;
	}
}

START_TEST(test_reset_while_full)
{
	struct pour up = {.size = 1 << 30, .seed = 9, .keep = true, .lazy = true};
	struct pair pair;

	pair_open(&pair, 2, _i);
	fill_up(&pair, &up);
	reset_socket(&pair.a.local);
	UNTIL(&pair, pair.a.group == NULL && pair.b.group == NULL);
	up.from = -1;
	up.lazy = false;
	UNTIL(&pair, (pour(&up), up.ended));
	ck_assert(up.reset);
	pair_close(&pair);

	pair_open(&pair, 2, _i);
	up = (struct pour){.size = 1 << 30, .seed = 9, .keep = true, .lazy = true};
	fill_up(&pair, &up);
	reset_socket(&pair.b.local);
	UNTIL(&pair, pair.a.group == NULL && pair.b.group == NULL);
	local_expect_reset(&pair, &pair.a);
	pair_close(&pair);
}
END_TEST

START_TEST(test_both_reset_at_once)
{
	struct pair pair;

	pair_open(&pair, 3, _i);
	local_write(&pair.a, "hello");
	local_expect(&pair, &pair.b, "hello");
	reset_socket(&pair.a.local);
	reset_socket(&pair.b.local);
	UNTIL(&pair, pair.a.group == NULL && pair.b.group == NULL);
	if (!(_i & MODE_BASE))
		UNTIL(&pair, pair.a.idle == 3 && pair.b.idle == 3);
	pair_close(&pair);
}
END_TEST

/* Stripes go from flow to flow, in both directions, and serials begin anew. */
START_TEST(test_reuse)
{
	struct pair pair;

	pair_open(&pair, 3, _i);
	for (unsigned round = 1; round <= 5; round++) {
		if (round == 3)
			reset_after(&pair, 70000, false);
		else
			run_flow(&pair, 200000 * round, 100000);
		UNTIL(&pair, pair.a.idle == 3 && pair.b.idle == 3);
		pair.a.idle = pair.b.idle = 0;
		close_socket(&pair.a.local);
		close_socket(&pair.b.local);
		end_open_group(&pair.a, _i);
		end_open_group(&pair.b, _i);
		for (unsigned i = 0; i < 3; i++) {
			end_bind(&pair.a, i);
			end_bind(&pair.b, i);
		}
	}
	run_flow(&pair, 1, 2);
	pair_close(&pair);
}
END_TEST

/* Stripes come and go while data flows. */
START_TEST(test_stripes_join_and_leave)
{
	struct pour up = {.size = 8 << 20, .seed = 1, .keep = true};
	struct pour down = {.size = 8 << 20, .seed = 2, .keep = true};
	struct pair pair;
	size_t next = 1 << 20;
	unsigned joined = 1, left = 0;

	pair_connect(&pair, 4, _i, false);
	end_open_group(&pair.a, _i);
	end_open_group(&pair.b, _i);
	end_bind(&pair.a, 0);
	end_bind(&pair.b, 0);
	up.from = down.to = pair.a.local;
	up.to = down.from = pair.b.local;
	pair_start_clock(&pair);
	while (!pour_done(&up) || !pour_done(&down)) {
		ck_assert(!pair_is_late(&pair));
		pour(&up);
		pour(&down);
		pair_turn(&pair);
		if (up.got < next)
			continue;
		next += 1 << 20;
		if (joined < 4) {
			end_bind(&pair.a, joined);
			end_bind(&pair.b, joined++);
		} else if (left < 2) {
			stripe_detach(pair.a.stripes[left++]);
		}
	}
	ck_assert_uint_eq(left, 2);
	UNTIL(&pair, pair.a.idle == 2 && pair.b.idle == 2);
	ck_assert_uint_eq(pair.a.group->stripe_count, 2);
	run_flow(&pair, 1000, 1000);
	pair_close(&pair);
}
END_TEST

/* A stripe dies under a flow: both ends hear of it as a reset, never as an end. */
/* Windows were full for so long that the governor takes the flow for one that rests: but it has something to send, and nobody else would be woken. */
START_TEST(test_blocked_for_long)
{
	struct pair pair;
	struct group *group;
	struct pour bulk = {.size = 400000, .keep = true};

	pair_open(&pair, 1, _i);
	group = pair.a.group;
	strcpy(group->engine->settings.congestion, "bbr");
	bulk.from = pair.a.local;
	bulk.to = pair.b.local;
	pair_start_clock(&pair);
	while (bulk.got < bulk.size) {
		ck_assert(!pair_is_late(&pair));
		pour(&bulk);
		pair_turn(&pair);
	}
	ck_assert_ptr_nonnull(group->govern);
	ck_assert(group->govern->on);
	group_stop_reading(group);
	group->govern->used_at -= 5.;
	local_write(&pair.a, "at last");
	local_expect(&pair, &pair.b, "at last");
	/* With nothing more to send it does rest. */
	group->govern->used_at -= 5.;
	UNTIL(&pair, !group->govern->on);
	pair_close(&pair);
}
END_TEST

START_TEST(test_stripe_lost)
{
	struct pour up = {.size = 1 << 30, .seed = 1, .keep = true};
	struct pair pair;

	pair_open(&pair, 3, _i);
	up.from = pair.a.local;
	up.to = pair.b.local;
	UNTIL(&pair, (pour(&up), up.got > 1 << 20));
	stripe_close(pair.a.stripes[1], false, "the test says so");
	ck_assert_ptr_null(pair.a.group);
	ck_assert_int_eq(pair.a.reason, REASON_STRIPE_LOST);
	up.from = -1;
	UNTIL(&pair, (pour(&up), up.ended));
	ck_assert(up.reset);
	local_expect_reset(&pair, &pair.a);
	UNTIL(&pair, pair.b.closed == 3);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.stripes_lost), 1);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_sizes, MODES_ALL},
		{test_large, MODES_ALL},
		{test_byte_by_byte, MODES_ALL},
		{test_small_socket_buffers, MODES_ALL},
		{test_slow_reader, MODES_ALL},
		{test_serials_wrap, MODES_ALL},
		{test_half_close, MODES_ALL},
		{test_reset, MODES_ALL},
		{test_reset_after_half_close, MODES_ALL},
		{test_reset_behind_data, MODES_EXTENDED},
		{test_reset_while_full, MODES_ALL},
		{test_both_reset_at_once, MODES_ALL},
		{test_reuse, MODES_EXTENDED},
		{test_stripes_join_and_leave, MODES_EXTENDED},
		{test_blocked_for_long, MODES_EXTENDED},
		{test_stripe_lost, MODES_ALL},
		{NULL, 0},
	};

	return run_looped("flow", tests);
}
