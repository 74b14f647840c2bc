/* SPDX-License-Identifier: ISC */
#include "core/group.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/core/pair.h"

/* How many of a worker's copy buffers there are: core/engine.c. */
#define BUFFERS 1024

START_TEST(test_ends_are_counted)
{
	static const enum group_end ends[] = {GROUP_FINISH, GROUP_REFUSE, GROUP_RESET, GROUP_ABORT};
	struct counters *counters;
	struct pair pair;

	for (unsigned i = 0; i < 4; i++) {
		pair_open_raw(&pair, 2, _i);
		counters = &pair.a.engine->counters;
		ck_assert_uint_eq(counter_read(&counters->flows_now), 1);
		ck_assert_uint_eq(counter_read(&counters->stripes_now), 2);
		ck_assert_uint_eq(counter_read(&counters->stripes_total), 2);
		ck_assert_uint_eq(counter_read(&counters->stripes_idle_now), 0);
		group_end(pair.a.group, ends[i], REASON_FORBIDDEN);
		ck_assert_uint_eq(pair.a.ended, 1);
		ck_assert_int_eq(pair.a.reason, REASON_FORBIDDEN);
		ck_assert_uint_eq(counter_read(&counters->flows_now), 0);
		ck_assert_uint_eq(counter_read(&counters->flows_finished), ends[i] == GROUP_FINISH);
		ck_assert_uint_eq(counter_read(&counters->flows_refused), ends[i] == GROUP_REFUSE);
		ck_assert_uint_eq(counter_read(&counters->flows_reset), i >= 2);
		if (ends[i] == GROUP_FINISH)
			local_expect_end(&pair, &pair.a);
		else
			local_expect_reset(&pair, &pair.a);
		if (ends[i] == GROUP_ABORT || _i & MODE_BASE) {
			ck_assert_uint_eq(pair.a.closed, 2);
			ck_assert(raw_ended_by_reset(&pair, 0) == (ends[i] != GROUP_FINISH));
		} else {
			raw_expect(&pair, 0, CONTROL_DETACH);
			ck_assert_ptr_nonnull(pair.a.stripes[0]);
		}
		pair_close(&pair);
	}
}
END_TEST

/* A group that never had a stripe, or a server. */
START_TEST(test_nothing_there_yet)
{
	struct pair pair;

	pair_connect(&pair, 1, _i, true);
	end_open_group(&pair.a, _i);
	local_write(&pair.a, "hello");
	pair_settle(&pair);
	reset_socket(&pair.a.local);
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_int_eq(pair.a.reason, REASON_RESET);
	pair_close(&pair);

	pair_connect(&pair, 1, _i, true);
	end_open_group(&pair.a, _i);
	shutdown(pair.a.local, SHUT_WR);
	pair_settle(&pair);
	ck_assert_ptr_nonnull(pair.a.group);
	end_bind(&pair.a, 0);
	if (_i & MODE_BASE)
		ck_assert(!raw_ended_by_reset(&pair, 0));
	else
		ck_assert_uint_eq(raw_expect(&pair, 0, CONTROL_FIN).serial, 0);
	pair_close(&pair);
}
END_TEST

/* A stripe that is dead when it's bound ends its flow in an orderly way. */
START_TEST(test_bind_a_dead_stripe)
{
	const struct control join = {.type = CONTROL_JOIN};
	struct pair pair;

	for (int first = 0; first < 2; first++) {
		pair_connect(&pair, 2, _i, true);
		end_open_group(&pair.a, _i);
		end_bind(&pair.a, 1);
		reset_socket(&pair.raw[0]);
		group_add(pair.a.group, pair.a.stripes[0], first ? &join : NULL);
		UNTIL(&pair, pair.a.group == NULL);
		local_expect_reset(&pair, &pair.a);
		ck_assert_uint_eq(pair.a.closed, 2);
		pair_close(&pair);
	}
}
END_TEST

START_TEST(test_grow)
{
	struct pair pair;
	struct pour up = {.size = 300000, .keep = true}, down = {.size = 300000, .keep = true};

	pair_open(&pair, 2, _i);
	pair.a.group->grow_at = 100000;
	pair.b.group->grow_at = 500000;
	up.from = down.to = pair.a.local;
	up.to = down.from = pair.b.local;
	UNTIL(&pair, (pour(&up), pour_done(&up)));
	ck_assert_uint_eq(pair.a.grown, 1);
	ck_assert_uint_eq(pair.b.grown, 0);
	UNTIL(&pair, (pour(&down), pour_done(&down)));
	ck_assert_uint_eq(pair.a.grown, 1);
	ck_assert_uint_eq(pair.b.grown, 1);
	ck_assert_uint_eq(pair.a.group->moved, 600000);
	pair_close(&pair);
}
END_TEST

/* Flows that were opened, or moved something, in this half second or the last one, and are still there. The loop's time stands still here. */
START_TEST(test_busy)
{
	uint64_t span[17] = {0}, again = 0;
	struct engine *engine;
	struct pair pair;

	(void)_i;
	pair_connect(&pair, 1, 0, true);
	engine = pair.a.engine;
	for (unsigned i = 0; i < 17; i++) {
		ck_assert(!engine_is_crowded(engine));
		engine_note_busy(engine, &span[i]);
		engine_note_busy(engine, &span[i]);
	}
	ck_assert(engine_is_crowded(engine));
	engine_note_over(engine, span[0]);
	ck_assert(!engine_is_crowded(engine));
	engine_note_busy(engine, &again);
	ck_assert(engine_is_crowded(engine));
	/* Half a second later. */
	engine->span--;
	ck_assert(engine_is_crowded(engine));
	engine_note_busy(engine, &again);
	again = 0;
	engine_note_busy(engine, &again);
	ck_assert(engine_is_crowded(engine));
	engine_note_over(engine, engine->span - 1);
	ck_assert(!engine_is_crowded(engine));
	/* Long after. */
	end_crowd(&pair.a, 100);
	engine->span -= 2;
	ck_assert(!engine_is_crowded(engine));
	pair_close(&pair);
}
END_TEST

/* Open flows that are silent are no crowd. */
START_TEST(test_silent_crowd)
{
	struct pair pair;

	(void)_i;
	pair_open(&pair, 1, 0);
	counter_add(&pair.a.engine->counters.flows_now, 100);
	ck_assert(!engine_is_crowded(pair.a.engine));
	counter_sub(&pair.a.engine->counters.flows_now, 100);
	ck_assert_uint_eq(pair.a.engine->busy, 1);
	pair.a.group->busy = pair.a.engine->span -= 4;
	local_write(&pair.a, "again");
	local_expect(&pair, &pair.b, "again");
	ck_assert_uint_eq(pair.a.engine->busy, 1);
	group_end(pair.a.group, GROUP_ABORT, REASON_SHUTDOWN);
	ck_assert_uint_eq(pair.a.engine->busy, 0);
	pair_close(&pair);
}
END_TEST

/* Where there are many flows stripes of a long path don't begin with what isn't asked for. */
START_TEST(test_crowd)
{
	struct pair pair;

	(void)_i;
	for (unsigned others = 0; others < 100; others += 50) {
		pair_connect(&pair, 1, 0, true);
		end_open_group(&pair.a, 0);
		pair.a.stripes[0]->out.path.rtt_min = 100000;
		pair.a.stripes[0]->out.path_at = ev_now(pair.a.engine->loop);
		end_crowd(&pair.a, others);
		end_bind(&pair.a, 0);
		ck_assert(pair.a.stripes[0]->out.settled == (others > 0));
		pair_close(&pair);
	}
}
END_TEST

/* Without buffers nothing can be read from the client, and what comes for it passes all the same. */
START_TEST(test_out_of_buffers)
{
	static struct hold holds[BUFFERS];
	struct pour up = {.size = 1 << 20, .seed = 1}, down = {.size = 1 << 20, .seed = 2};
	struct pair pair;
	int fds[2];

	pair_open(&pair, 2, _i & ~MODE_SPLICE);
	tcp_pair(fds);
	for (unsigned i = 0; i < BUFFERS; i++) {
		ck_assert_int_eq(send(fds[0], "x", 1, 0), 1);
		while (hold_fill(pair.a.engine->pool, &holds[i], fds[1], 1, false) != 1)
			ck_assert_int_eq(errno, EAGAIN);
	}
	up.from = down.to = pair.a.local;
	up.to = down.from = pair.b.local;
	for (unsigned i = 0; i < 200; i++) {
		pour(&up);
		pour(&down);
		pair_turn(&pair);
	}
	ck_assert_uint_eq(up.got, 0);
	ck_assert(pair.a.group->spread.waiter.waiting);
	UNTIL(&pair, (pour(&down), pour_done(&down)));
	for (unsigned i = 0; i < BUFFERS; i++)
		hold_discard(pair.a.engine->pool, &holds[i]);
	UNTIL(&pair, (pour(&up), pour_done(&up)));
	pair_close(&pair);

	/* One that waits may be ended. */
	pair_open(&pair, 2, _i & ~MODE_SPLICE);
	for (unsigned i = 0; i < BUFFERS; i++) {
		ck_assert_int_eq(send(fds[0], "x", 1, 0), 1);
		while (hold_fill(pair.a.engine->pool, &holds[i], fds[1], 1, false) != 1)
			ck_assert_int_eq(errno, EAGAIN);
	}
	local_write(&pair.a, "up");
	local_write(&pair.b, "down");
	UNTIL(&pair, pair.a.group->spread.waiter.waiting);
	reset_socket(&pair.b.local);
	UNTIL(&pair, pair.b.group == NULL);
	for (unsigned i = 0; i < BUFFERS; i++)
		hold_discard(pair.a.engine->pool, &holds[i]);
	UNTIL(&pair, pair.a.group == NULL);
	pair_close(&pair);
	close_socket(&fds[0]);
	close_socket(&fds[1]);
}
END_TEST

/* One flow moves all it can; another, in the same loop, moves beside it. */
START_TEST(test_fairness)
{
	struct pour busy = {.size = 1 << 30, .seed = 1, .keep = true};
	struct pair pair;
	struct end other_a = {.local = -1}, other_b = {.local = -1};
	unsigned turns = 0;
	char byte;

	pair_connect(&pair, 4, _i, false);
	end_open_group(&pair.a, _i);
	end_open_group(&pair.b, _i);
	other_a.engine = pair.a.engine;
	other_b.engine = pair.b.engine;
	end_open_group(&other_a, _i);
	end_open_group(&other_b, _i);
	for (unsigned i = 0; i < 3; i++) {
		end_bind(&pair.a, i);
		end_bind(&pair.b, i);
	}
	group_add(other_a.group, pair.a.stripes[3], NULL);
	group_add(other_b.group, pair.b.stripes[3], NULL);
	busy.from = pair.a.local;
	busy.to = pair.b.local;
	UNTIL(&pair, (pour(&busy), busy.got > 1 << 20));
	for (unsigned i = 0; i < 20 || busy.got <= 2 << 20; i++) {
		local_write(&other_a, "x");
		for (turns = 0; recv(other_b.local, &byte, 1, MSG_DONTWAIT) != 1; turns++) {
			ck_assert_uint_lt(turns, 50);
			pour(&busy);
			pair_turn(&pair);
		}
	}
	group_end(other_a.group, GROUP_ABORT, REASON_SHUTDOWN);
	UNTIL(&pair, other_b.group == NULL);
	close_socket(&other_a.local);
	close_socket(&other_b.local);
	pair.a.ended++; /* the other's is counted by the engine */
	pair.b.ended++;
	pair_close(&pair);
}
END_TEST

/* What the kernel still holds of a client that has gone is bounded by the protocol's two seconds. */
START_TEST(test_reset_that_nobody_takes)
{
	struct pour up = {.size = 1 << 30, .keep = true};
	struct pair pair;
	unsigned still = 0;
	size_t before;

	pair_open_raw(&pair, 2, _i);
	up.from = pair.a.local;
	up.to = -1;
	while (still < 300) {
		before = up.sent;
		pour(&up);
		pair_turn(&pair);
		still = up.sent == before ? still + 1 : 0;
	}
	reset_socket(&pair.a.local);
	UNTIL(&pair, pair.a.group == NULL);
	for (unsigned i = 0; i < 2; i++)
		ck_assert(raw_ended_by_reset(&pair, i));
	pair_close(&pair);
}
END_TEST

/* And so is a peer's Reset by what a client that doesn't read won't acknowledge. */
START_TEST(test_reset_that_nobody_reads)
{
	static char text[256 * 1024 + 1];
	const int size = 4096;
	struct pair pair;

	memset(text, 'x', sizeof(text) - 1);
	pair_open_raw(&pair, 1, _i);
	ck_assert_int_eq(setsockopt(pair.a.local, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
	raw_data(&pair, 0, 1, text);
	raw_control(&pair, 0, &(struct control){.type = CONTROL_RESET, .reset = {.reason = REASON_RESET, .serial = 1}});
	UNTIL(&pair, pair.a.group->resetting);
	ck_assert_int_gt(sock_unacknowledged(pair.a.group->local), 0);
	pair_settle(&pair);
	ck_assert_ptr_nonnull(pair.a.group);
	pair.a.group->deadline = 0.;
	UNTIL(&pair, pair.a.group == NULL);
	ck_assert_uint_eq(pair.a.reason, REASON_RESET);
	pair_close(&pair);
}
END_TEST

START_TEST(test_engine)
{
	struct engine_settings settings = {.congestion = "nonsense"};
	struct engine *engine;

	(void)_i;
	ck_assert_ptr_null(engine_new(&settings));
	ck_assert_int_eq(errno, ENOENT);
	strcpy(settings.congestion, "reno");
	engine = engine_new(&settings);
	ck_assert_str_eq(engine->settings.congestion, "reno");
	engine_free(engine);
	settings.congestion[0] = '\0';
	engine = engine_new(&settings);
	ck_assert(engine->settings.congestion[0] == '\0' || sock_has_congestion(engine->settings.congestion));
	engine_free(engine);
}
END_TEST

/* A flow that has sent all it had is heard of by all workers, for a while; one that of late had more than it might send, by none. */
static void on_no_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)timer;
	(void)revents;
}

START_TEST(test_talk)
{
	struct engine_commons commons = {0};
	const struct engine_settings settings = {.commons = &commons};
	struct engine *one = engine_new(&settings), *other = engine_new(&settings);
	struct govern governed = {.free = true, .on = true};
	struct pair pair;

	ck_assert(!engine_has_talk(other));
	engine_note_talk(one);
	ck_assert_uint_ne(commons.talked_at, 0);
	commons.talked_at = (uint64_t)(ev_now(other->loop) * 1000);
	ck_assert(engine_has_talk(other));
	commons.talked_at -= 10000;
	ck_assert(!engine_has_talk(other));
	engine_free(one);
	engine_free(other);

	pair_open(&pair, 2, _i);
	/* It's started when the flow goes on after a rest. */
	ev_timer_init(&governed.tick, on_no_tick, 0., 0.);
	pair.a.group->govern = &governed;
	governed.limited_at = ev_now(pair.a.engine->loop) + 1000.;
	local_write(&pair.a, "one of many");
	local_expect(&pair, &pair.b, "one of many");
	ck_assert_uint_eq(pair.a.engine->own.talked_at, 0);
	/* It's long since it had more to send than could be sent. */
	governed.limited_at -= 2000.;
	local_write(&pair.a, "hello");
	local_expect(&pair, &pair.b, "hello");
	ck_assert_uint_ne(pair.a.engine->own.talked_at, 0);
	pair.a.engine->own.talked_at = 0;
	ev_timer_stop(pair.a.engine->loop, &governed.tick);
	pair.a.group->govern = NULL;
	local_write(&pair.a, "again");
	local_expect(&pair, &pair.b, "again");
	ck_assert_uint_ne(pair.a.engine->own.talked_at, 0);
	ck_assert_uint_eq(pair.b.engine->own.talked_at, 0);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_ends_are_counted, MODES_ALL},
		{test_nothing_there_yet, MODES_ALL},
		{test_bind_a_dead_stripe, MODES_ALL},
		{test_grow, MODES_ALL},
		{test_busy, 1},
		{test_silent_crowd, 1},
		{test_crowd, 1},
		{test_out_of_buffers, MODES_ALL},
		{test_fairness, MODES_ALL},
		{test_reset_that_nobody_takes, MODES_EXTENDED},
		{test_reset_that_nobody_reads, MODES_EXTENDED},
		{test_engine, 1},
		{test_talk, MODES_EXTENDED},
		{NULL, 0},
	};

	return run_looped("group", tests);
}
