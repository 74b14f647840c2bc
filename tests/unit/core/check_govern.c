/* SPDX-License-Identifier: ISC */
#include "core/govern.h"

#include <string.h>

#include "tests/unit/core/pair.h"

/*
 * A path that the rules govern, as a fluid: what is sent waits in the bottleneck's queue, leaves it at the path's rate and is acknowledged a round
 * trip later. Another flow's bytes may stand in the queue, too. The clock is the test's.
 */
#define STEP 0.001 /* seconds */
#define STEPS_MAX 2000

struct path {
	struct govern govern;
	double rate, rtt, buffer; /* bytes a second, seconds, bytes */
	double others;		  /* bytes in the queue that aren't ours */
	double now, queue, flying, delivered, dropped, srtt;
	double under_way[STEPS_MAX]; /* by the step in which it's acknowledged, in a ring */
	unsigned step;
	double longest; /* queue, bytes, ever */
	double queued;	/* bytes times steps */
	bool talk, lossy;
};

static void open_path(struct path *path, double mbit, double rtt)
{
	memset(path, 0, sizeof(*path));
	path->rate = mbit * 125000.;
	path->rtt = rtt;
	path->buffer = path->rate * (rtt > 0.05 ? rtt : 0.05);
	path->now = 1000.;
	path->srtt = rtt;
	govern_begin(&path->govern, path->now);
}

static void look(struct path *path)
{
	const struct govern_sample sample = {
		.moved = (uint64_t)path->delivered + 300000,
		.delivered = (uint64_t)path->delivered,
		.flying = (uint64_t)path->flying,
		.rtt = (uint32_t)(path->srtt * 1e6),
		.rtt_ever = (uint32_t)(path->rtt * 1e6),
		.stripes = 8,
		.talk = path->talk,
		.lossy = path->lossy,
	};

	path->govern.limited = true;
	govern_learn(&path->govern, &sample, path->now);
}

static void send_bytes(struct path *path)
{
	/* BBR by itself has no more under way than twice what the path holds. */
	double n = path->govern.free ? 2 * path->rate * path->rtt - path->flying : path->govern.room;

	if (n <= 0.)
		return;
	govern_spend(&path->govern, (size_t)n);
	path->flying += n;
	path->queue += n;
	if (path->queue + path->others > path->buffer) {
		double lost = path->queue + path->others - path->buffer;

		path->queue -= lost;
		path->dropped += lost;
		path->flying -= lost;
	}
}

/* One step. Returns the bytes that were acknowledged in it. */
static double turn(struct path *path, bool tick)
{
	unsigned later = (path->step + (unsigned)(path->rtt / STEP)) % STEPS_MAX;
	double share = path->queue / (path->queue + path->others + 1e-9), out, arrived;

	path->now += STEP;
	if (tick) {
		look(path);
		send_bytes(path);
	}
	out = path->rate * STEP * share;
	out = out < path->queue ? out : path->queue;
	path->queue -= out;
	path->under_way[later] += out;
	arrived = path->under_way[path->step % STEPS_MAX];
	path->under_way[path->step % STEPS_MAX] = 0.;
	path->step = (path->step + 1) % STEPS_MAX;
	path->delivered += arrived;
	path->flying -= arrived;
	path->srtt += (path->rtt + (path->queue + path->others) / path->rate - path->srtt) / 8.;
	path->longest = path->queue > path->longest ? path->queue : path->longest;
	path->queued += path->queue;
	return arrived;
}

/* Runs for some time and returns the share of the rate that was delivered in it. */
static double run(struct path *path, double seconds)
{
	unsigned steps = (unsigned)(seconds / STEP);
	double arrived = 0.;

	path->longest = path->queued = 0.;
	for (unsigned i = 0; i < steps; i++)
		arrived += turn(path, i % 4 == 0);
	return arrived / (path->rate * seconds);
}

static const double rtts[] = {0.01, 0.03, 0.1, 0.3, 0.6};
#define RTTS (int)(sizeof(rtts) / sizeof(rtts[0]))

/* The path is full, and its queue is short. */
START_TEST(test_full_and_short)
{
	struct path path;

	open_path(&path, 100., rtts[_i]);
	run(&path, 30 * rtts[_i] + 1.);
	ck_assert(!path.govern.startup);
	ck_assert_double_gt(run(&path, 60 * rtts[_i]), 0.97);
	ck_assert_double_lt(path.longest / path.rate, 0.3 * rtts[_i] + 0.01);
	path.dropped = 0.;
	run(&path, 5.);
	ck_assert_double_eq(path.dropped, 0.);
}
END_TEST

/*
 * Where somebody talks the queue is shorter if the path is long, more so where packets get lost, and the path hardly less full. That it has got faster is
 * noticed all the same.
 */
START_TEST(test_polite)
{
	struct path path;
	double share, queued;

	open_path(&path, 100., rtts[_i]);
	run(&path, 30 * rtts[_i] + 1.);
	share = run(&path, 60 * rtts[_i]);
	queued = path.queued;
	path.talk = true;
	run(&path, 10 * rtts[_i] + 1.);
	ck_assert_double_gt(run(&path, 60 * rtts[_i]), share - 0.03);
	if (rtts[_i] > 0.05)
		ck_assert_double_lt(path.queued, queued * 0.7);
	queued = path.queued;
	path.lossy = true;
	run(&path, 10 * rtts[_i] + 1.);
	ck_assert_double_gt(run(&path, 60 * rtts[_i]), share - 0.07);
	if (rtts[_i] > 0.05)
		ck_assert_double_lt(path.queued, queued);
	path.rate *= 1.5;
	run(&path, 30 * rtts[_i] + 1.);
	ck_assert_double_gt(run(&path, 20 * rtts[_i]), 0.93);
}
END_TEST

/* It notices that the path has got faster, and slower. */
START_TEST(test_rate_changes)
{
	struct path path;

	open_path(&path, 50., rtts[_i]);
	run(&path, 30 * rtts[_i] + 1.);
	path.rate *= 2;
	run(&path, 40 * rtts[_i] + 1.);
	ck_assert_double_gt(run(&path, 20 * rtts[_i]), 0.95);
	path.rate /= 4;
	path.buffer = path.rate;
	run(&path, 40 * rtts[_i] + 1.);
	ck_assert_double_gt(run(&path, 20 * rtts[_i]), 0.95);
	ck_assert_double_lt(path.longest / path.rate, 0.5 * rtts[_i] + 0.02);
}
END_TEST

/* Round trips that look long at first, as one may that was measured in a bad moment, don't keep the flow from its speed. */
START_TEST(test_misled)
{
	struct path path;

	open_path(&path, 100., rtts[_i]);
	path.talk = path.lossy = true;
	for (double until = path.now + rtts[_i] + 0.05; path.now < until;) {
		path.srtt = 2.5 * rtts[_i];
		turn(&path, true);
	}
	run(&path, 12 * rtts[_i] + 0.5);
	ck_assert_double_gt(run(&path, 20 * rtts[_i]), 0.93);
}
END_TEST

/* A rate that's far too low, whatever the reason, is left behind in seconds. */
START_TEST(test_climb)
{
	struct path path;

	open_path(&path, 10., rtts[_i]);
	path.talk = path.lossy = true;
	run(&path, 30 * rtts[_i] + 1.);
	path.rate *= 10;
	path.buffer *= 10;
	run(&path, 50 * rtts[_i] + 1.);
	ck_assert_double_gt(run(&path, 20 * rtts[_i]), 0.93);
	ck_assert_double_lt(path.longest / path.rate, 0.35 * rtts[_i] + 0.01);
}
END_TEST

/* The way gets longer: that's no queue, whatever it looks like. */
START_TEST(test_longer_way)
{
	struct path path;

	open_path(&path, 100., 0.05);
	run(&path, 3.);
	path.rtt = 0.1;
	run(&path, 40.);
	ck_assert_double_gt(run(&path, 10.), 0.9);
}
END_TEST

/* A queue that another flow keeps doesn't starve it. */
START_TEST(test_crowded)
{
	struct path path;

	open_path(&path, 100., 0.05);
	path.buffer *= 4;
	run(&path, 3.);
	path.others = path.rate * 0.05;
	run(&path, 2.);
	for (int i = 0; i < 10; i++)
		ck_assert_double_gt(run(&path, 5.), 0.2);
	path.others = 0.;
	run(&path, 15.);
	ck_assert_double_gt(run(&path, 5.), 0.95);
	ck_assert_double_lt(path.longest / path.rate, 0.03);
}
END_TEST

/* Nor does one that the others' queue has brought to its slowest: that's a few packets in the air, and many rounds in which it waits to send more. */
START_TEST(test_crowded_out)
{
	struct path path;
	struct govern_sample sample = {.stripes = 8, .rtt = 200000, .rtt_ever = 10000};

	(void)_i;
	open_path(&path, 100., 0.01);
	run(&path, 1.);
	ck_assert(!path.govern.free);
	sample.moved = sample.delivered = (uint64_t)path.delivered;
	sample.flying = 20 * 1448;
	path.govern.denied = true;
	for (double until = path.now + 1.; path.now < until && !path.govern.free; path.now += GOVERN_TICK) {
		path.govern.limited = false;
		govern_learn(&path.govern, &sample, path.now);
	}
	ck_assert(path.govern.free);
}
END_TEST

/* On a short way nothing is bounded, and what isn't known bounds nothing. */
START_TEST(test_free)
{
	struct path path;

	(void)_i;
	open_path(&path, 100., 0.001);
	look(&path);
	ck_assert(path.govern.free);
	open_path(&path, 100., 0.);
	look(&path);
	ck_assert(path.govern.free);
	path.rtt = path.srtt = 0.1;
	look(&path);
	ck_assert(!path.govern.free);
	ck_assert_double_gt(path.govern.room, 0.);
}
END_TEST

/* The peer stops reading, and windows are full. What waits in one stripe's socket is all that goes at first when it reads on: that says nothing of the path. */
START_TEST(test_pause)
{
	struct path path;

	open_path(&path, 100., rtts[_i]);
	run(&path, 30 * rtts[_i] + 1.);
	for (unsigned i = 0; i < 8000; i++) {
		path.now += STEP;
		if (i % 4 == 0)
			look(&path);
	}
	memset(path.under_way, 0, sizeof(path.under_way));
	path.flying = path.queue = 12000.;
	path.srtt = rtts[_i];
	run(&path, 3 * rtts[_i] + 0.1);
	ck_assert_double_gt(run(&path, 10 * rtts[_i]), 0.9);
}
END_TEST

/* After a rest what was learnt is still good; after a long one it begins anew. */
START_TEST(test_rest)
{
	struct path path;

	(void)_i;
	open_path(&path, 100., 0.1);
	run(&path, 5.);
	path.now += 2.;
	govern_begin(&path.govern, path.now);
	ck_assert(!path.govern.startup);
	ck_assert_double_gt(run(&path, 2.), 0.85);
	path.now += 60.;
	govern_begin(&path.govern, path.now);
	ck_assert(path.govern.startup);
	ck_assert_uint_eq(path.govern.rtt_min, 0);
	run(&path, 3.);
	ck_assert_double_gt(run(&path, 3.), 0.97);
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_full_and_short, RTTS},
		{test_polite, RTTS},
		{test_rate_changes, RTTS},
		{test_misled, RTTS},
		{test_climb, RTTS},
		{test_longer_way, 1},
		{test_crowded, 1},
		{test_crowded_out, 1},
		{test_free, 1},
		{test_pause, RTTS},
		{test_rest, 1},
		{NULL, 0},
	};

	return run_looped("govern", tests);
}
