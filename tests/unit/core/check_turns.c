/* SPDX-License-Identifier: ISC */
#include "core/turns.h"

#include <string.h>

#include "tests/unit/core/pair.h"

#define KB 1024

/* A look at a way of 100 ms. */
static void learn(struct lane *lane, size_t flying, uint32_t rtt, ev_tstamp now)
{
	lane_learn(lane, &(struct lane_sample){.flying = flying, .rtt = rtt, .rtt_min = 100000}, now);
}

START_TEST(test_limit)
{
	struct lane lane = {.limit = LANE_LIMIT, .grown_at = 1000.};
	struct turn turn;
	size_t before;

	TAILQ_INIT(&lane.waiting);
	TAILQ_INSERT_TAIL(&lane.waiting, &turn, link);

	/* Nothing was acknowledged. */
	learn(&lane, 600 * KB, 0, 1001.);
	ck_assert_uint_eq(lane.flying, 600 * KB);
	ck_assert_uint_eq(lane.limit, LANE_LIMIT);
	/* No queue at all, but what has grown the limit must have had its round trip. */
	learn(&lane, 600 * KB, 100000, 1001.);
	ck_assert_uint_eq(lane.limit, 2 * LANE_LIMIT);
	learn(&lane, 1200 * KB, 100000, 1001.09);
	ck_assert_uint_eq(lane.limit, 2 * LANE_LIMIT);
	/* It isn't the limit that holds flows up. */
	TAILQ_REMOVE(&lane.waiting, &turn, link);
	learn(&lane, 900 * KB, 100000, 1002.);
	ck_assert_uint_eq(lane.limit, 2 * LANE_LIMIT);
	TAILQ_INSERT_TAIL(&lane.waiting, &turn, link);
	/* A short queue, as there is one where the way is just full. */
	learn(&lane, 1200 * KB, 110000, 1002.);
	ck_assert_uint_gt(lane.limit, 2 * LANE_LIMIT);
	ck_assert_uint_lt(lane.limit, 2 * LANE_LIMIT + LANE_LIMIT / 2);
	/* A long one. */
	before = lane.limit;
	learn(&lane, 1500 * KB, 130000, 1003.);
	ck_assert_uint_lt(lane.limit, before);
	for (unsigned i = 0; i < 1000; i++)
		learn(&lane, 1500 * KB, 130000, 1003.);
	ck_assert_uint_eq(lane.limit, LANE_LIMIT);
	/* The time of day was set back. */
	learn(&lane, 600 * KB, 100000, 3.);
	ck_assert_uint_eq(lane.limit, 2 * LANE_LIMIT);
}
END_TEST

/* A crowd, on a way of 100 ms until the stripe is next looked at, and a flow that has moved so much. */
static void pretend(struct pair *pair, uint64_t moved)
{
	struct stripe *stripe = pair->a.stripes[0];

	end_crowd(&pair->a, 100);
	stripe_look(stripe, 0.);
	stripe->out.path.rtt = stripe->out.path.rtt_min = 100000;
	pair->a.group->moved = moved;
}

static void open_crowd(struct pair *pair, uint64_t moved)
{
	pair_open_raw(pair, 1, MODE_SPLICE);
	pretend(pair, moved);
}

/* What the loop would do if it came round now: no time goes by. */
static void tick(struct pair *pair)
{
	ev_invoke(pair->a.engine->loop, &pair->a.group->turn.lane->tick, EV_TIMER);
}

/* Others have turns, and as much under way as may be, or more than that for good. The flow finds that it must wait. */
static void wait_for_others(struct pair *pair, bool for_good)
{
	struct group *group = pair->a.group;
	struct lane *lane;

	ck_assert(turns_let(group));
	lane = group->turn.lane;
	tick(pair);
	ck_assert_int_eq(group->turn.state, TURN_NONE);
	lane->flying = lane->limit = for_good ? 0 : LANE_LIMIT;
	/* After a rest something small goes at once. */
	pretend(pair, group->moved + 4095);
	ck_assert(turns_let(group));
	ck_assert_int_eq(group->turn.state, TURN_NONE);
	pretend(pair, group->moved + 1);
	local_write(&pair->a, "more");
	spread_pump(group);
	ck_assert_int_eq(group->turn.state, TURN_WAITING);
	ck_assert(spread_is_blocked(group));
	ck_assert(!turns_let(group));
}

static void expect_more(struct pair *pair)
{
	char header[DATAGRAM_HEADER], text[4];

	raw_read(pair, 0, header, sizeof(header));
	raw_read(pair, 0, text, sizeof(text));
	ck_assert_mem_eq(text, "more", sizeof(text));
}

START_TEST(test_needs_none)
{
	struct pair pair;
	struct group *group;

	open_crowd(&pair, 4095);
	group = pair.a.group;
	ck_assert(turns_let(group));
	ck_assert_int_eq(group->turn.state, TURN_NONE);
	group->moved = 256 * KB;
	ck_assert(turns_let(group));
	ck_assert_int_eq(group->turn.state, TURN_NONE);
	pretend(&pair, 4096);
	pair.a.stripes[0]->out.path.rtt_min = 1000;
	ck_assert(turns_let(group));
	ck_assert_int_eq(group->turn.state, TURN_NONE);
	pretend(&pair, 4096);
	ck_assert(turns_let(group));
	ck_assert_int_eq(group->turn.state, TURN_HAS);
	pair_close(&pair);
}
END_TEST

/* What the others had under way has arrived: the lane looks by itself. */
START_TEST(test_waits)
{
	struct pair pair;

	open_crowd(&pair, 10000);
	wait_for_others(&pair, false);
	expect_more(&pair);
	ck_assert_int_ne(pair.a.group->turn.state, TURN_WAITING);
	ck_assert(TAILQ_EMPTY(&pair.a.group->turn.lane->waiting));
	ck_assert(!ev_is_active(&pair.a.group->turn.lane->tick));
	pair_close(&pair);
}
END_TEST

START_TEST(test_waits_no_longer)
{
	struct pair pair;
	struct turn *turn;

	open_crowd(&pair, 10000);
	turn = &pair.a.group->turn;
	wait_for_others(&pair, true);
	tick(&pair);
	ck_assert_int_eq(turn->state, TURN_WAITING);
	turn->since -= 1.;
	tick(&pair);
	ck_assert_int_eq(turn->state, TURN_OVER);
	expect_more(&pair);
	pair_close(&pair);
}
END_TEST

/* Whoever comes while others wait waits behind them, though the crowd has gone; without a crowd nobody waits. */
START_TEST(test_order)
{
	struct pair pair;
	struct turn first = {.state = TURN_WAITING}, *turn;

	open_crowd(&pair, 10000);
	turn = &pair.a.group->turn;
	wait_for_others(&pair, true);
	turns_stop(pair.a.group);
	ck_assert(TAILQ_EMPTY(&turn->lane->waiting));
	turn->state = TURN_NONE;
	pretend(&pair, 20000);
	end_crowd(&pair.a, 0);
	TAILQ_INSERT_TAIL(&turn->lane->waiting, &first, link);
	ck_assert(!turns_let(pair.a.group));
	ck_assert_ptr_eq(TAILQ_FIRST(&turn->lane->waiting), &first);
	ck_assert_ptr_eq(TAILQ_NEXT(&first, link), turn);
	TAILQ_REMOVE(&turn->lane->waiting, &first, link);
	turns_stop(pair.a.group);
	turn->state = TURN_NONE;
	ck_assert(turns_let(pair.a.group));
	ck_assert_int_eq(turn->state, TURN_HAS);
	pair_close(&pair);
}
END_TEST

START_TEST(test_turn_ends)
{
	struct pair pair;
	struct group *group;

	open_crowd(&pair, 10000);
	group = pair.a.group;
	ck_assert(turns_let(group));
	turns_take(group, 1000);
	ck_assert_uint_eq(group->turn.lane->flying, 1000);
	/* It still has something to send. */
	group_stop_reading(group);
	tick(&pair);
	ck_assert_int_eq(group->turn.state, TURN_HAS);
	/* But for a peer that doesn't read, too, others can't wait for ever. */
	group->turn.since -= 1.;
	tick(&pair);
	ck_assert_int_eq(group->turn.state, TURN_OVER);
	ck_assert_uint_eq(group->turn.lane->flying, 0);
	ck_assert(turns_let(group));
	/* One that has become bulk. */
	group->turn.state = TURN_NONE;
	pretend(&pair, 10000);
	ck_assert(turns_let(group));
	group->moved = 256 * KB;
	turns_take(group, 1000);
	ck_assert_int_eq(group->turn.state, TURN_OVER);
	pair_close(&pair);
}
END_TEST

/* Flows end while they wait, and while they have a turn. */
START_TEST(test_ends_meanwhile)
{
	struct pair pair;
	struct lane *lane;

	open_crowd(&pair, 10000);
	wait_for_others(&pair, true);
	lane = pair.a.group->turn.lane;
	group_end(pair.a.group, GROUP_ABORT, REASON_SHUTDOWN);
	ck_assert(TAILQ_EMPTY(&lane->waiting));
	pair_close(&pair);

	open_crowd(&pair, 10000);
	ck_assert(turns_let(pair.a.group));
	lane = pair.a.group->turn.lane;
	ck_assert(!TAILQ_EMPTY(&lane->having));
	group_end(pair.a.group, GROUP_ABORT, REASON_SHUTDOWN);
	ck_assert(TAILQ_EMPTY(&lane->having));
	pair_close(&pair);
}
END_TEST

int main(void)
{
	return RUN_TESTS("turns", test_limit, test_needs_none, test_waits, test_waits_no_longer, test_order, test_turn_ends, test_ends_meanwhile);
}
