/* SPDX-License-Identifier: ISC */
#include "core/choose.h"

#include <string.h>

#include "tests/unit/core/pair.h"

/* A path of 100 ms and 10 MB/s with nothing under way. */
static const struct sock_path good = {.rtt = 100000, .mss = 1448, .window = 1 << 20, .pacing = 10000000};

START_TEST(test_size)
{
	struct stripe stripe = {.out.path = good};
	uint32_t last = 0, size;

	/* 80,000 bytes in the time, and of these as many as fill packets along with the header. */
	ck_assert_uint_eq(choose_size(&stripe, UINT64_MAX), 55 * 1448 - 8);
	for (uint64_t pacing = 1; pacing < UINT64_MAX / 2; pacing *= 3) {
		stripe.out.path.pacing = pacing;
		size = choose_size(&stripe, UINT64_MAX);
		ck_assert_uint_ge(size, 3 * 1448 - 8);
		ck_assert_uint_le(size, 256 * 1024);
		ck_assert_uint_eq((size + 8) % 1448, 0);
		if (pacing < UINT64_MAX / 10000)
			ck_assert_uint_ge(size, last);
		last = size;
	}
	/* The kernel doesn't know, or doesn't pace. */
	stripe.out.path.pacing = 0;
	size = choose_size(&stripe, UINT64_MAX);
	stripe.out.path.pacing = UINT64_MAX;
	ck_assert_uint_eq(choose_size(&stripe, UINT64_MAX), size);
	ck_assert_uint_ge(size, 3 * 1448 - 8);
	/* What the kernel says of packets is believed within reason. */
	stripe.out.path = good;
	stripe.out.path.mss = 0;
	ck_assert_uint_ge(choose_size(&stripe, UINT64_MAX), 79000);
	stripe.out.path.mss = UINT32_MAX;
	ck_assert_uint_ge(choose_size(&stripe, UINT64_MAX), 70000);
	ck_assert_uint_le(choose_size(&stripe, UINT64_MAX), 80000);
	/* Never more than the protocol lets us send. */
	ck_assert_uint_le(256 * 1024, DATAGRAM_MAX_EXTENDED);
}
END_TEST

START_TEST(test_unsent)
{
	struct sock_path path = good;
	uint32_t last = 0, limit;

	path.window = UINT32_MAX;
	for (path.pacing = 1; path.pacing < 1000000000000; path.pacing *= 3) {
		limit = choose_unsent(&path);
		ck_assert_uint_ge(limit, 8192);
		ck_assert_uint_le(limit, 512 * 1024);
		ck_assert_uint_ge(limit, last);
		last = limit;
	}
	ck_assert_uint_eq(last, 512 * 1024);
}
END_TEST

/* BBR keeps four packets under way while it probes for the round trip, and its pacing rate doesn't tell. */
START_TEST(test_small_window)
{
	struct stripe stripe = {.out.path = good};

	stripe.out.path.window = 4 * 1448;
	ck_assert_uint_eq(choose_size(&stripe, UINT64_MAX), 3 * 1448 - 8);
	ck_assert_uint_eq(choose_unsent(&stripe.out.path), 8192);
	ck_assert_uint_gt(choose_arrival(&stripe.out.path, 40000), choose_arrival(&good, 40000) + 500000);
	/* No more than the flow has room for. */
	ck_assert_uint_eq(choose_size(&(struct stripe){.out.path = good}, 20000), 13 * 1448 - 8);
	ck_assert_uint_eq(choose_size(&(struct stripe){.out.path = good}, 1), 3 * 1448 - 8);
}
END_TEST

START_TEST(test_arrival)
{
	struct sock_path path = good, other = good;
	uint64_t arrival = choose_arrival(&good, 4096);

	ck_assert_uint_eq(arrival, 50000);
	other.rtt = 30000;
	ck_assert_uint_lt(choose_arrival(&other, 4096), arrival);
	path.unsent = 100000;
	ck_assert_uint_eq(choose_arrival(&path, 4096), 60000);
	/* What is on its way leaves less of the window. */
	path = good;
	path.flying = path.window - 1000;
	ck_assert_uint_gt(choose_arrival(&path, 4096), arrival + 50000);
	ck_assert_uint_eq(choose_arrival(&path, 1000), arrival);
	path.flying = path.window * 2;
	ck_assert_uint_gt(choose_arrival(&path, 1000), arrival);
	other = path;
	other.pacing *= 10;
	ck_assert_uint_lt(choose_arrival(&other, 100000), choose_arrival(&path, 100000));
	/* The extremes. */
	path = (struct sock_path){.rtt = UINT32_MAX, .window = UINT32_MAX, .unsent = UINT32_MAX, .pacing = 1};
	ck_assert_uint_gt(choose_arrival(&path, UINT32_MAX), arrival);
}
END_TEST

START_TEST(test_stripe)
{
	struct pair pair;
	struct stripe **s;

	pair_open_raw(&pair, 3, 0);
	s = pair.a.stripes;
	for (unsigned i = 0; i < 3; i++)
		s[i]->out.path = good;
	pair.a.group->spread.bulk = true;
	s[1]->out.path.rtt = 20000;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[1]);
	/* A short way isn't worth a long queue. */
	s[1]->out.path.unsent = 500000;
	s[2]->out.path.rtt = 90000;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[2]);
	s[2]->out.path.stalled = true;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[0]);
	/* Rather a stalled one than none. */
	s[0]->out.writable = s[1]->out.writable = false;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[2]);
	s[2]->detach_received = true;
	ck_assert_ptr_null(choose_stripe(pair.a.group));
	s[2]->detach_received = false;
	s[2]->out.shut = true;
	ck_assert_ptr_null(choose_stripe(pair.a.group));
	s[2]->out.shut = false;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[2]);
	pair_close(&pair);
}
END_TEST

/* Small data stays where it was, unless another is much better. */
START_TEST(test_sticky)
{
	struct pair pair;
	struct stripe **s;

	pair_open_raw(&pair, 2, 0);
	s = pair.a.stripes;
	s[0]->out.path = s[1]->out.path = good;
	s[0]->out.path.rtt = 90000;
	pair.a.group->spread.last = s[1];
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[1]);
	pair.a.group->spread.bulk = true;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[0]);
	pair.a.group->spread.bulk = false;
	s[0]->out.path.rtt = 50000;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[0]);
	pair_close(&pair);
}
END_TEST

/* While a governed flow finds its speed, no stripe gets what its window doesn't let go, but one that has nothing else. */
START_TEST(test_startup)
{
	struct pair pair;
	struct stripe **s;

	pair_open_raw(&pair, 2, 0);
	s = pair.a.stripes;
	s[0]->out.path = s[1]->out.path = good;
	s[1]->out.path.rtt = 400000;
	s[0]->out.path.window = 10 * 1448;
	s[0]->out.path.flying = 8 * 1448;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[0]);
	pair_begin_startup(&pair);
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[1]);
	s[0]->out.path.flying = 7 * 1448;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[0]);
	s[0]->out.path.unsent = s[1]->out.path.flying = 1 << 20;
	ck_assert_ptr_null(choose_stripe(pair.a.group));
	s[0]->out.path = (struct sock_path){.rtt = 100000, .mss = UINT32_MAX, .window = 1448};
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[0]);
	s[0]->out.path.flying = 1448;
	ck_assert_ptr_null(choose_stripe(pair.a.group));
	pair.a.group->govern->startup = false;
	ck_assert_ptr_eq(choose_stripe(pair.a.group), s[0]);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	return RUN_TESTS("choose", test_size, test_unsent, test_small_window, test_arrival, test_stripe, test_sticky, test_startup);
}
