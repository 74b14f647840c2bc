/* SPDX-License-Identifier: ISC */
#include <string.h>

#include "core/govern.h"
#include "core/group.h"

/* A flow that has moved less than this isn't governed. Bytes. */
#define GOVERN_AT (256 * 1024)

/* Seconds between ticks: an eighth of the round trip, within bounds. */
#define TICK_MIN 0.004
#define TICK_MAX 0.025

/* Microseconds. On shorter paths there's no time to look in between, and little that a queue could add. */
#define RTT_GOVERNED 5000

/* Seconds after which a flow that sends nothing is no longer looked at, and after which what was learnt of the path is old. */
#define REST_TIME 1.
#define FORGET_TIME 10.

/* What may be under way, in percent of the rate times the shortest round trip. */
#define GAIN_STARTUP 200
#define GAIN_CRUISE 120
#define GAIN_PROBE 150
#define CYCLE 8

/* Startup is over when the rate hasn't grown by a quarter in three rounds, as in BBR. */
#define FLAT_ROUNDS 3

/* Never less than this, so that acknowledgements keep coming. Bytes. */
#define ROOM_MIN (16 * 1448)

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

static uint64_t best_rate(const struct govern *govern)
{
	uint64_t best = 0;

	for (unsigned i = 0; i < GOVERN_ROUNDS; i++)
		best = govern->rates[i] > best ? govern->rates[i] : best;
	return best;
}

struct totals {
	uint64_t delivered;
	uint64_t flying;
	uint32_t rtt_min;
};

static struct totals add_up(struct group *group)
{
	struct totals totals = {.rtt_min = UINT32_MAX};
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		struct stripe_out *out = &stripe->out;
		uint64_t before = out->path.delivered;

		stripe_look(stripe, 0.);
		/* What it delivered for another flow doesn't count. */
		if (out->counted && out->path.delivered > before)
			group->govern.delivered_sum += out->path.delivered - before;
		out->counted = true;
		totals.flying += out->path.flying + out->path.unsent;
		if (out->path.rtt_min < totals.rtt_min)
			totals.rtt_min = out->path.rtt_min;
	}
	totals.delivered = group->govern.delivered_sum;
	return totals;
}

static void end_round(struct govern *govern, uint64_t delivered, ev_tstamp now)
{
	uint64_t rate = (uint64_t)((double)(delivered - govern->delivered) / (now - govern->round_at));

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
	if (rate > govern->plateau + govern->plateau / 4) {
		govern->plateau = rate;
		govern->flat = 0;
	} else if (++govern->flat >= FLAT_ROUNDS) {
		govern->startup = false;
	}
}

static unsigned gain(const struct govern *govern)
{
	if (govern->startup)
		return GAIN_STARTUP;
	return govern->round % CYCLE == 0 ? GAIN_PROBE : GAIN_CRUISE;
}

static ev_tstamp tick_time(const struct govern *govern)
{
	ev_tstamp time = govern->rtt_min / 8e6;

	return time < TICK_MIN ? TICK_MIN : time > TICK_MAX ? TICK_MAX : time;
}

static void look(struct group *group, ev_tstamp now)
{
	struct govern *govern = &group->govern;
	struct totals totals = add_up(group);
	ev_tstamp rtt;
	uint64_t limit;

	if (totals.rtt_min == UINT32_MAX) {
		govern->room = UINT64_MAX;
		return;
	}
	govern->rtt_min = totals.rtt_min;
	rtt = totals.rtt_min / 1e6;
	if (now - govern->round_at >= (rtt > TICK_MAX ? rtt : TICK_MAX))
		end_round(govern, totals.delivered, now);
	/* What arrives until the next tick makes room that we don't see before. */
	limit = (uint64_t)((double)best_rate(govern) * (rtt * gain(govern) / 100. + tick_time(govern)));
	limit += (uint64_t)group->stripe_count * 1448;
	if (govern->startup && limit < 2 * group->moved)
		limit = 2 * group->moved;
	if (limit < ROOM_MIN)
		limit = ROOM_MIN;
	if (totals.rtt_min < RTT_GOVERNED)
		limit = UINT64_MAX;
	govern->room = limit > totals.flying ? limit - totals.flying : 0;
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
	look(group, ev_now(loop));
	ev_timer_set(timer, tick_time(&group->govern), 0.);
	ev_timer_start(loop, timer);
	if (group->govern.room > 0) {
		group->govern.denied = false;
		spread_pump(group);
	}
}

uint64_t govern_room(struct group *group)
{
	struct govern *govern = &group->govern;

	if (govern->on) {
		govern->denied = govern->room == 0;
		return govern->room;
	}
	if (group->moved < GOVERN_AT || strcmp(group->engine->settings.congestion, "bbr") != 0)
		return UINT64_MAX;
	if (ev_now(group->engine->loop) - govern->used_at > FORGET_TIME) {
		memset(govern->rates, 0, sizeof(govern->rates));
		govern->startup = true;
		govern->plateau = 0;
		govern->flat = 0;
	}
	govern->on = true;
	govern->used_at = govern->round_at = ev_now(group->engine->loop);
	govern->delivered = govern->delivered_sum;
	look(group, govern->round_at);
	ev_timer_set(&govern->tick, tick_time(govern), 0.);
	ev_timer_start(group->engine->loop, &govern->tick);
	govern->denied = govern->room == 0;
	return govern->room;
}

void govern_take(struct group *group, size_t n)
{
	struct govern *govern = &group->govern;

	govern->room -= n < govern->room ? n : govern->room;
	govern->used_at = ev_now(group->engine->loop);
}

void govern_blocked(struct group *group)
{
	group->govern.limited = true;
}
