/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <string.h>

#include "core/govern.h"
#include "core/group.h"
#include "core/loss.h"

/* A flow that has moved less than this isn't governed, and has no struct govern. Bytes. */
#define GOVERN_AT (256 * 1024)

/* A flow that has moved so much settles its stripes: BBR would let their first windows, and what these have grown to after a round trip, go slowly. */
#define SETTLE_AT (512 * 1024)

/* Seconds: the shortest round. */
#define ROUND_MIN 0.025

/*
 * Seconds after which a flow that sends nothing is no longer looked at, or seldom, if it has something to send: a window that opens wakes nobody else. And
 * after which what was learnt of the path is old.
 */
#define REST_TIME 1.
#define TICK_SELDOM 0.1
#define FORGET_TIME 10.

/* What may be under way, as a multiple of the rate times the shortest round trip. */
#define FLYING_STARTUP 2.
#define FLYING 1.35

/*
 * How fast bytes are given to stripes, as a multiple of the rate. In the first round of each cycle it's more, to see whether the path carries more; that
 * shows in this round or in the second, and if it does the cycle begins anew. In the others it's less as long as there's a queue: that is what round trips are
 * longer than the shortest by, beyond what is only noise (a share of the shortest, and within bounds of microseconds). Without one it's a hundredth more,
 * since what is measured is more often too little than too much. From the second success on each doubles what the next one sends more, up to what BBR
 * sends: the rate is far from what the path carries when startup was misled, or when the path has got faster.
 */
#define CYCLE 8
#define PACE_PROBE 1.08
#define PACE_PROBE_MAX 1.25
#define PACE_CRUISE 1.01
#define PACE_MIN 0.75
#define NOISE_SHARE 50
#define NOISE_MIN 1500.
#define NOISE_MAX 5000.

/*
 * The same beside flows for which somebody may wait: they find the queue empty, and the link isn't quite full; less so where packets get lost, since what
 * TCP sends again comes on top, and what is measured is less even. On shorter paths, of so many microseconds, what is noise there is most of the queue.
 */
#define POLITE_RTT 50000
#define PACE_PROBE_POLITE 1.04
#define PACE_CRUISE_POLITE 0.98
#define PACE_CRUISE_POLITE_LOSSY 0.94

/* And what is given to stripes at once, which is a queue for a moment, is less, as long as there are so few stripes that to look at them costs little. */
#define TICK_POLITE (GOVERN_TICK / 4)
#define TICK_POLITE_STRIPES 48

/* The part of what is sent more in probing that must show for the rate to have grown. */
#define GROWN 0.375

/* Seconds for which what wasn't used of the pace is kept: looks come late on a busy machine, and the rate would sink by what wasn't sent. */
#define PACE_KEPT 0.03

/* A queue of this share of the shortest round trip is long, and only so many rounds count then. */
#define QUEUE_LONG 0.25
#define ROUNDS_LONG 3

/*
 * Startup is over when the rate hasn't grown by a quarter in a round that ends with a long queue; or, as in BBR, in three. A queue alone says little: the
 * first round trips are of few stripes, and may be of a bad moment.
 */
#define FLAT_ROUNDS 3

/*
 * A queue that is long at the ends of so many rounds though no more is under way than should be, but for what datagrams are too large by, isn't the
 * flow's own: then the stripes are left to compete, each by BBR's own rules, until the queue has gone or for so many seconds.
 */
#define SLOW_ROUNDS 10
#define FREE_TIME 10.

/* Seconds after which the shortest round trip is forgotten, half of them at least: paths change. */
#define RTT_MEMORY 30.

/* Never less than this, so that acknowledgements keep coming. Bytes. */
#define ROOM_MIN (16. * 1448)

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents);

void govern_stop(struct group *group)
{
	if (group->govern == NULL)
		return;
	ev_timer_stop(group->engine->loop, &group->govern->tick);
	free(group->govern);
	group->govern = NULL;
}

static bool queue_is_long(const struct govern *govern)
{
	return govern->rtt > govern->rtt_min * (1 + QUEUE_LONG) + NOISE_MIN;
}

/* Microseconds by which round trips are longer than they need be. */
static double queue(const struct govern *govern)
{
	double noise = govern->rtt_min / NOISE_SHARE;

	noise = noise < NOISE_MIN ? NOISE_MIN : noise > NOISE_MAX ? NOISE_MAX : noise;
	return govern->rtt > govern->rtt_min + noise ? govern->rtt - govern->rtt_min - noise : 0.;
}

/*
 * The mean of the two best of the last rounds, since what is measured of one has errors of some percent both ways; while it still grows, the best alone.
 * Where there is a long queue only the very last count: the path may have got slower.
 */
static double best_rate(const struct govern *govern)
{
	unsigned rounds = queue_is_long(govern) && !govern->startup ? ROUNDS_LONG : GOVERN_ROUNDS;
	double best = 0., second = 0.;

	for (unsigned i = 0; i < rounds; i++) {
		double rate = govern->rates[(govern->round + GOVERN_ROUNDS - i) % GOVERN_ROUNDS];

		if (rate > best) {
			second = best;
			best = rate;
		} else if (rate > second) {
			second = rate;
		}
	}
	return govern->startup || second == 0. ? best : (best + second) / 2;
}

static struct govern_sample add_up(struct group *group)
{
	struct govern_sample sample = {
		.moved = group->moved,
		.stripes = group->stripe_count,
		.talk = engine_has_talk(group->engine),
		.lossy = loss_is_out(group->engine),
	};
	struct govern *govern = group->govern;
	uint32_t rtt = UINT32_MAX, rtt_ever = UINT32_MAX;
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		struct stripe_out *out = &stripe->out;
		uint64_t before = out->path.delivered;

		stripe_look(stripe, 0.);
		if (group->moved >= SETTLE_AT) {
			stripe_settle(stripe);
			out->governed = true;
		}
		/* What it delivered for another flow doesn't count. */
		if (out->counted && out->path.delivered > before) {
			govern->delivered_sum += out->path.delivered - before;
			rtt = out->path.rtt < rtt ? out->path.rtt : rtt;
		}
		out->counted = true;
		sample.flying += out->path.flying + out->path.unsent;
		rtt_ever = out->path.rtt_min < rtt_ever ? out->path.rtt_min : rtt_ever;
	}
	sample.delivered = govern->delivered_sum;
	sample.rtt = rtt == UINT32_MAX ? 0 : rtt;
	sample.rtt_ever = rtt_ever == UINT32_MAX ? 0 : rtt_ever;
	return sample;
}

/* The shortest round trip of the last half minute: the shorter of two quarters', of which the older one is dropped when the newer is full. */
static void learn_rtt(struct govern *govern, const struct govern_sample *sample, ev_tstamp now)
{
	if (govern->rtt_min == 0)
		govern->rtt_lows[0] = govern->rtt_lows[1] = sample->rtt_ever;
	if (sample->rtt != 0)
		govern->rtt = sample->rtt;
	if (now - govern->rtt_at > RTT_MEMORY / 2) {
		govern->rtt_lows[1] = govern->rtt_lows[0];
		govern->rtt_lows[0] = UINT32_MAX;
		govern->rtt_at = now;
	}
	if (govern->rtt != 0 && govern->rtt < govern->rtt_lows[0])
		govern->rtt_lows[0] = govern->rtt;
	govern->rtt_min = govern->rtt_lows[0] < govern->rtt_lows[1] ? govern->rtt_lows[0] : govern->rtt_lows[1];
}

static double probe(const struct govern *govern)
{
	double factor = govern->polite ? PACE_PROBE_POLITE : PACE_PROBE;

	for (unsigned i = 1; i < govern->successes && factor < PACE_PROBE_MAX; i++)
		factor += factor - 1;
	return factor < PACE_PROBE_MAX ? factor : PACE_PROBE_MAX;
}

static double cruise(const struct govern *govern, bool lossy)
{
	if (!govern->polite)
		return PACE_CRUISE;
	return lossy ? PACE_CRUISE_POLITE_LOSSY : PACE_CRUISE_POLITE;
}

/* As a multiple of the rate. */
static double pace(const struct govern *govern, bool lossy)
{
	double factor = cruise(govern, lossy) - queue(govern) / govern->rtt_min;

	if (govern->phase == 0)
		return probe(govern);
	return factor > PACE_MIN ? factor : PACE_MIN;
}

/* Bytes that may be under way. */
static double most_flying(const struct govern *govern, const struct govern_sample *sample)
{
	double round = govern->rtt_min / 1e6 * (govern->startup ? FLYING_STARTUP : FLYING);
	/* What arrives until the next tick makes room that we don't see before. */
	double bytes = best_rate(govern) * (round + GOVERN_TICK) + sample->stripes * 1448.;

	if (govern->startup && bytes < 2. * (double)sample->moved)
		bytes = 2. * (double)sample->moved;
	if (govern->startup && queue_is_long(govern) && bytes > (double)sample->flying)
		bytes = (double)sample->flying;
	return bytes < ROOM_MIN ? ROOM_MIN : bytes;
}

static void judge_slowness(struct govern *govern, const struct govern_sample *sample, ev_tstamp now)
{
	if (!queue_is_long(govern))
		govern->slow = 0;
	else if ((double)sample->flying <= most_flying(govern, sample) + ROOM_MIN && ++govern->slow == SLOW_ROUNDS)
		govern->free_until = now + FREE_TIME;
}

static void judge_probe(struct govern *govern, double rate, double before)
{
	bool grown = (govern->phase == 1 || govern->phase == 2) && rate > before * (1 + (probe(govern) - 1) * GROWN);

	/* That's no error of measurement. */
	if (grown)
		govern->rates[(govern->round - 1) % GOVERN_ROUNDS] = rate;
	if (grown && queue(govern) == 0.) {
		govern->phase = 0;
		govern->successes++;
	} else if (grown || govern->phase == 2) {
		govern->successes = 0;
	}
}

static void judge_startup(struct govern *govern, double rate)
{
	if (govern->plateau == 0. || rate > govern->plateau * 1.25) {
		govern->plateau = rate;
		govern->flat = 0;
	} else {
		govern->flat++;
	}
	govern->startup = govern->flat < FLAT_ROUNDS && (govern->flat == 0 || !queue_is_long(govern));
}

static void learn_rate(struct govern *govern, double rate, double before)
{
	govern->rates[++govern->round % GOVERN_ROUNDS] = rate;
	govern->phase = (govern->phase + 1) % CYCLE;
	judge_probe(govern, rate, before);
	if (govern->startup)
		judge_startup(govern, rate);
}

static void end_round(struct govern *govern, const struct govern_sample *sample, ev_tstamp now)
{
	double rate = (double)(sample->delivered - govern->delivered) / (now - govern->round_at);
	double before = best_rate(govern);
	bool limited = govern->limited || govern->denied;

	govern->delivered = sample->delivered;
	govern->round_at = now;
	govern->limited = false;
	if (limited)
		govern->limited_at = now;
	/* A flow that had nothing to send says nothing of what the path carries, unless it's more than was known. */
	if (!limited && rate <= before)
		return;
	/* Nor does one of which nothing has arrived: its peer may have stopped reading, and zeros would be what it goes on with. */
	if (rate > 0.)
		learn_rate(govern, rate, before);
	if (!govern->startup)
		judge_slowness(govern, sample, now);
}

static bool is_free(struct govern *govern, ev_tstamp now)
{
	if (govern->rtt_min < STRIPE_RTT_SHORT)
		return true;
	if (now < govern->free_until && queue_is_long(govern))
		return true;
	if (govern->free_until != 0.)
		govern->slow = 0;
	govern->free_until = 0.;
	return false;
}

void govern_learn(struct govern *govern, const struct govern_sample *sample, ev_tstamp now)
{
	double rate;

	/* It's the time of day, which may be set back. */
	if (now < govern->looked_at)
		govern->looked_at = govern->round_at = govern->rtt_at = govern->limited_at = now;
	learn_rtt(govern, sample, now);
	govern->polite = sample->talk && govern->rtt_min >= POLITE_RTT;
	if (now - govern->round_at >= (govern->rtt_min > ROUND_MIN * 1e6 ? govern->rtt_min / 1e6 : ROUND_MIN))
		end_round(govern, sample, now);
	govern->free = is_free(govern, now);
	rate = govern->free ? 0. : best_rate(govern) * pace(govern, sample->lossy);
	govern->paced += rate * (now - govern->looked_at);
	if (govern->paced > rate * PACE_KEPT || govern->free)
		govern->paced = rate * PACE_KEPT;
	govern->looked_at = now;
	govern->room = most_flying(govern, sample) - (double)sample->flying;
	if (!govern->startup && govern->room > govern->paced)
		govern->room = govern->paced;
}

static void look(struct group *group)
{
	const struct govern_sample sample = add_up(group);

	govern_learn(group->govern, &sample, ev_time());
}

static uint64_t room_left(const struct govern *govern)
{
	if (govern->free)
		return UINT64_MAX;
	return govern->room > 0. ? (uint64_t)govern->room : 0;
}

static bool is_resting(const struct group *group)
{
	ev_tstamp since = ev_now(group->engine->loop) - group->govern->used_at;

	/* The time of day may be set back. */
	return since > REST_TIME || since < -REST_TIME;
}

static ev_tstamp tick_time(const struct group *group)
{
	if (is_resting(group))
		return TICK_SELDOM;
	return group->govern->polite && group->stripe_count <= TICK_POLITE_STRIPES ? TICK_POLITE : GOVERN_TICK;
}

static void set_tick(struct group *group)
{
	ev_timer *tick = &group->govern->tick;

	ev_timer_stop(group->engine->loop, tick);
	ev_timer_set(tick, tick_time(group), 0.);
	ev_timer_start(group->engine->loop, tick);
}

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct group *group = timer->data;
	struct govern *govern = group->govern;

	(void)loop;
	(void)revents;
	if (is_resting(group) && !spread_is_blocked(group)) {
		govern->on = false;
		return;
	}
	look(group);
	set_tick(group);
	if (room_left(govern) > 0) {
		govern->denied = false;
		spread_pump(group);
	}
}

void govern_begin(struct govern *govern, ev_tstamp now)
{
	if (now - govern->looked_at > FORGET_TIME) {
		memset(govern->rates, 0, sizeof(govern->rates));
		govern->startup = true;
		govern->plateau = 0.;
		govern->flat = govern->slow = govern->successes = 0;
		govern->rtt = govern->rtt_min = 0;
		govern->rtt_at = now;
	}
	govern->round_at = govern->looked_at = now;
	govern->delivered = govern->delivered_sum;
}

static bool begin(struct group *group)
{
	struct govern *govern = group->govern;

	if (govern == NULL) {
		govern = group->govern = calloc(1, sizeof(*govern));
		if (govern == NULL)
			return false;
		ev_timer_init(&govern->tick, on_tick, 0., 0.);
		govern->tick.data = group;
		govern->limited_at = ev_now(group->engine->loop);
	}
	govern->on = true;
	govern->used_at = ev_now(group->engine->loop);
	govern_begin(govern, ev_time());
	look(group);
	ev_timer_set(&govern->tick, GOVERN_TICK, 0.);
	ev_timer_start(group->engine->loop, &govern->tick);
	return true;
}

uint64_t govern_room(struct group *group)
{
	if (group->govern == NULL || !group->govern->on) {
		if (group->moved < GOVERN_AT || strcmp(group->engine->settings.congestion, "bbr") != 0)
			return UINT64_MAX;
		if (!begin(group))
			return UINT64_MAX;
	}
	group->govern->denied = room_left(group->govern) == 0;
	return room_left(group->govern);
}

bool govern_in_startup(const struct group *group)
{
	const struct govern *govern = group->govern;

	return govern != NULL && govern->on && govern->startup && !govern->free;
}

bool govern_is_bulk(const struct group *group)
{
	const struct govern *govern = group->govern;

	return govern != NULL && ev_now(group->engine->loop) - govern->limited_at < REST_TIME;
}

void govern_spend(struct govern *govern, size_t n)
{
	govern->room -= (double)n;
	if (!govern->startup)
		govern->paced -= (double)n;
}

void govern_take(struct group *group, size_t n)
{
	struct govern *govern = group->govern;
	bool rested;

	if (govern == NULL)
		return;
	rested = is_resting(group);
	govern_spend(govern, n);
	govern->used_at = ev_now(group->engine->loop);
	if (rested && govern->on)
		set_tick(group);
}

void govern_blocked(struct group *group)
{
	if (group->govern != NULL)
		group->govern->limited = true;
}
