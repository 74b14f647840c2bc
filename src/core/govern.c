/* SPDX-License-Identifier: ISC */
#include <string.h>

#include "core/govern.h"
#include "core/group.h"

/* A flow that has moved less than this isn't governed. Bytes. */
#define GOVERN_AT (256 * 1024)

/* Seconds between ticks, and the shortest round. */
#define TICK 0.004
#define ROUND_MIN 0.025

/* Microseconds. On shorter paths there's no time to look in between, and little that a queue could add. */
#define RTT_GOVERNED 5000

/* Seconds after which a flow that sends nothing is no longer looked at, and after which what was learnt of the path is old. */
#define REST_TIME 1.
#define FORGET_TIME 10.

/* What may be under way, as a multiple of the rate times the shortest round trip. */
#define FLYING_STARTUP 2.
#define FLYING 1.35

/*
 * How fast bytes are given to stripes, as a multiple of the rate: it follows the queue, which is what round trips are longer than the shortest by, and
 * which should be a sixteenth of that, within bounds (microseconds). For one round of each cycle it's more, to see whether the path carries more.
 */
#define PACE_PROBE 1.125
#define PACE_MIN 0.75
#define PACE_SLOPE 0.5
#define CYCLE 8
#define QUEUE_SHARE 16
#define QUEUE_MIN 1500.
#define QUEUE_MAX 10000.

/* Seconds for which what wasn't used of the pace is kept. */
#define PACE_KEPT 0.01

/* Startup is over when a round ends with a queue of this share of the shortest round trip; or, as in BBR, when the rate hasn't grown by a quarter in three. */
#define STARTUP_QUEUE 0.25
#define FLAT_ROUNDS 3

/* Never less than this, so that acknowledgements keep coming. Bytes. */
#define ROOM_MIN (16. * 1448)

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents);

void govern_init(struct group *group)
{
	struct govern *govern = &group->govern;

	ev_timer_init(&govern->tick, on_tick, 0., 0.);
	govern->tick.data = group;
	govern->startup = true;
}

void govern_stop(struct group *group)
{
	ev_timer_stop(group->engine->loop, &group->govern.tick);
}

static double best_rate(const struct govern *govern)
{
	double best = 0.;

	for (unsigned i = 0; i < GOVERN_ROUNDS; i++)
		best = govern->rates[i] > best ? govern->rates[i] : best;
	return best;
}

struct totals {
	uint64_t delivered;
	uint64_t flying;
	uint32_t rtt_min; /* ever; UINT32_MAX: unknown */
	uint32_t rtt;	  /* now, of stripes on which something was delivered since the last look; UINT32_MAX: of none */
};

static struct totals add_up(struct group *group)
{
	struct totals totals = {.rtt_min = UINT32_MAX, .rtt = UINT32_MAX};
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		struct stripe_out *out = &stripe->out;
		uint64_t before = out->path.delivered;

		stripe_look(stripe, 0.);
		/* What it delivered for another flow doesn't count. */
		if (out->counted && out->path.delivered > before) {
			group->govern.delivered_sum += out->path.delivered - before;
			totals.rtt = out->path.rtt < totals.rtt ? out->path.rtt : totals.rtt;
		}
		out->counted = true;
		totals.flying += out->path.flying + out->path.unsent;
		totals.rtt_min = out->path.rtt_min < totals.rtt_min ? out->path.rtt_min : totals.rtt_min;
	}
	totals.delivered = group->govern.delivered_sum;
	return totals;
}

static bool queue_is_long(const struct govern *govern)
{
	return govern->rtt > govern->rtt_min * (1 + STARTUP_QUEUE) + QUEUE_MIN;
}

static void end_round(struct govern *govern, uint64_t delivered, ev_tstamp now)
{
	double rate = (double)(delivered - govern->delivered) / (now - govern->round_at);
	bool limited = govern->limited;

	govern->delivered = delivered;
	govern->round_at = now;
	govern->limited = false;
	/* A flow that had nothing to send says nothing of what the path carries, unless it's more than was known. */
	if (!limited && rate <= best_rate(govern))
		return;
	govern->round++;
	govern->rates[govern->round % GOVERN_ROUNDS] = rate;
	if (!govern->startup)
		return;
	if (rate > govern->plateau * 1.25) {
		govern->plateau = rate;
		govern->flat = 0;
	} else {
		govern->flat++;
	}
	govern->startup = govern->flat < FLAT_ROUNDS && !queue_is_long(govern);
}

/* Bytes that may be under way. */
static double most_flying(const struct group *group, double flying)
{
	const struct govern *govern = &group->govern;
	double round = govern->rtt_min / 1e6 * (govern->startup ? FLYING_STARTUP : FLYING);
	/* What arrives until the next tick makes room that we don't see before. */
	double bytes = best_rate(govern) * (round + TICK) + group->stripe_count * 1448.;

	if (govern->startup && bytes < 2. * (double)group->moved)
		bytes = 2. * (double)group->moved;
	if (govern->startup && queue_is_long(govern) && bytes > flying)
		bytes = flying;
	return bytes < ROOM_MIN ? ROOM_MIN : bytes;
}

static double pace(const struct govern *govern)
{
	double shortest = govern->rtt_min, target = shortest / QUEUE_SHARE, factor;

	if (govern->round % CYCLE == 0)
		return PACE_PROBE;
	target = target < QUEUE_MIN ? QUEUE_MIN : target > QUEUE_MAX ? QUEUE_MAX : target;
	factor = 1. + PACE_SLOPE * (target - (govern->rtt - shortest)) / shortest;
	return factor > PACE_MIN ? factor : PACE_MIN;
}

static void look(struct group *group, ev_tstamp now)
{
	struct govern *govern = &group->govern;
	struct totals totals = add_up(group);
	double rate;

	govern->free = totals.rtt_min == UINT32_MAX || totals.rtt_min < RTT_GOVERNED;
	if (govern->free)
		return;
	govern->rtt_min = totals.rtt_min;
	if (totals.rtt != UINT32_MAX)
		govern->rtt = totals.rtt;
	if (now - govern->round_at >= (govern->rtt_min > ROUND_MIN * 1e6 ? govern->rtt_min / 1e6 : ROUND_MIN))
		end_round(govern, totals.delivered, now);
	govern->room = most_flying(group, (double)totals.flying) - (double)totals.flying;
	rate = best_rate(govern) * pace(govern);
	govern->paced += rate * (now - govern->looked_at);
	if (govern->paced > rate * PACE_KEPT)
		govern->paced = rate * PACE_KEPT;
	govern->looked_at = now;
	if (!govern->startup && govern->room > govern->paced)
		govern->room = govern->paced;
}

static uint64_t room_left(const struct govern *govern)
{
	if (govern->free)
		return UINT64_MAX;
	return govern->room > 0. ? (uint64_t)govern->room : 0;
}

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct group *group = timer->data;

	(void)revents;
	/* While nothing gets through, nothing is sent either: that's no rest. */
	if (!group->govern.denied && ev_now(loop) - group->govern.used_at > REST_TIME) {
		group->govern.on = false;
		return;
	}
	look(group, ev_time());
	ev_timer_set(timer, TICK, 0.);
	ev_timer_start(loop, timer);
	if (room_left(&group->govern) > 0) {
		group->govern.denied = false;
		spread_pump(group);
	}
}

static void begin(struct group *group)
{
	struct govern *govern = &group->govern;
	ev_tstamp now = ev_now(group->engine->loop);

	if (now - govern->used_at > FORGET_TIME) {
		memset(govern->rates, 0, sizeof(govern->rates));
		govern->startup = true;
		govern->plateau = 0.;
		govern->flat = 0;
	}
	govern->on = true;
	govern->used_at = now;
	govern->round_at = govern->looked_at = ev_time();
	govern->delivered = govern->delivered_sum;
	look(group, govern->round_at);
	ev_timer_set(&govern->tick, TICK, 0.);
	ev_timer_start(group->engine->loop, &govern->tick);
}

uint64_t govern_room(struct group *group)
{
	struct govern *govern = &group->govern;

	if (!govern->on) {
		if (group->moved < GOVERN_AT || strcmp(group->engine->settings.congestion, "bbr") != 0)
			return UINT64_MAX;
		begin(group);
	}
	govern->denied = room_left(govern) == 0;
	return room_left(govern);
}

void govern_take(struct group *group, size_t n)
{
	struct govern *govern = &group->govern;

	govern->room -= (double)n;
	if (!govern->startup)
		govern->paced -= (double)n;
	govern->used_at = ev_now(group->engine->loop);
}

void govern_blocked(struct group *group)
{
	group->govern.limited = true;
}
