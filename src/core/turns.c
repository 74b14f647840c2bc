/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <uthash.h>

#include "base/clock.h"
#include "core/group.h"
#include "core/turns.h"

/* Bytes: what goes in any case after a rest, so that nothing small waits; and when a flow is bulk. */
#define TURN_FIRST 4096
#define TURN_LAST (256 * 1024)

/* Seconds that a flow waits at most, and that a turn lasts: the peer may have stopped reading. */
#define TURN_TIME 1.

/* Seconds between looks while some wait, and after which what was learnt of the way is old. */
#define TICK 0.005
#define FORGET_TIME 10.

/* By peers' addresses. If two share one they wait for each other, for as long as that takes. */
#define LANES 64

/* A queue is what round trips are longer by than the shortest, beyond noise: a part of it, and microseconds. With none at all the way holds far more. */
#define QUEUE_SHARE 8
#define NOISE 1500
#define NONE_SHARE 50
#define NONE_NOISE 500

/* Parts by which the limit grows in a round trip, and shrinks at a look. */
#define GROWTH 8
#define SHRINKING 64

struct turns {
	struct lane lanes[LANES];
};

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents);

struct turns *turns_new(struct engine *engine)
{
	struct turns *turns = calloc(1, sizeof(*turns));

	if (turns == NULL)
		return NULL;
	for (struct lane *lane = turns->lanes; lane < turns->lanes + LANES; lane++) {
		lane->engine = engine;
		lane->limit = LANE_LIMIT;
		TAILQ_INIT(&lane->waiting);
		TAILQ_INIT(&lane->having);
		ev_timer_init(&lane->tick, on_tick, 0., TICK);
		lane->tick.data = lane;
	}
	return turns;
}

void turns_free(struct turns *turns)
{
	free(turns);
}

static struct group *group_of(struct turn *turn)
{
	return (struct group *)((char *)turn - offsetof(struct group, turn));
}

static void leave(struct turn *turn, enum turn_state state)
{
	if (turn->state == TURN_WAITING)
		TAILQ_REMOVE(&turn->lane->waiting, turn, link);
	else if (turn->state == TURN_HAS)
		TAILQ_REMOVE(&turn->lane->having, turn, link);
	turn->state = state;
}

/* What it sends next begins anew: something small, perhaps, for which somebody waits. */
static void rest(struct turn *turn)
{
	leave(turn, TURN_NONE);
	turn->from = group_of(turn)->moved;
}

static void give(struct turn *turn)
{
	leave(turn, TURN_HAS);
	turn->since = ev_now(turn->lane->engine->loop);
	TAILQ_INSERT_TAIL(&turn->lane->having, turn, link);
}

static void wait_for(struct turn *turn)
{
	struct lane *lane = turn->lane;
	struct ev_loop *loop = lane->engine->loop;

	turn->state = TURN_WAITING;
	turn->since = ev_now(loop);
	if (TAILQ_EMPTY(&lane->waiting)) {
		/* What is under way now tells of the way in a round trip. */
		lane->grown_at = ev_now(loop);
		ev_timer_again(loop, &lane->tick);
	}
	TAILQ_INSERT_TAIL(&lane->waiting, turn, link);
}

void turns_stop(struct group *group)
{
	leave(&group->turn, TURN_OVER);
}

void lane_learn(struct lane *lane, const struct lane_sample *sample, ev_tstamp now)
{
	uint32_t queue = sample->rtt > sample->rtt_min ? sample->rtt - sample->rtt_min : 0;

	lane->flying = sample->flying;
	lane->looked_at = now;
	if (sample->rtt == 0)
		return;
	if (queue > sample->rtt_min / QUEUE_SHARE + NOISE) {
		lane->limit -= lane->limit / SHRINKING;
		lane->limit = lane->limit > LANE_LIMIT ? lane->limit : LANE_LIMIT;
	} else if (!TAILQ_EMPTY(&lane->waiting) && clock_is_past(lane->grown_at, sample->rtt / 1e6, now)) {
		lane->limit += queue > sample->rtt_min / NONE_SHARE + NONE_NOISE ? lane->limit / GROWTH : lane->limit;
		lane->grown_at = now;
	}
}

/* Sums over the stripes on which something has arrived. */
struct sums {
	uint64_t rtt, rtt_min;
	unsigned stripes;
};

/* Returns what a flow has under way. */
static size_t add_up(struct group *group, struct sums *sums)
{
	struct stripe *stripe;
	size_t flying = 0;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		const struct sock_path *path = &stripe->out.path;
		uint64_t before = path->delivered;

		stripe_look(stripe, 0.);
		flying += path->flying + path->unsent;
		if (path->delivered == before)
			continue;
		sums->rtt += path->rtt;
		sums->rtt_min += path->rtt_min;
		sums->stripes++;
	}
	return flying;
}

/* Looks at the flows that have turns, and ends the turns of those that have nothing more to send. */
static void look(struct lane *lane)
{
	ev_tstamp now = ev_now(lane->engine->loop);
	struct lane_sample sample = {0};
	struct turn *turn, *next;
	struct sums sums = {0};
	size_t flying;
	bool blocked;

	for (turn = TAILQ_FIRST(&lane->having); turn != NULL; turn = next) {
		next = TAILQ_NEXT(turn, link);
		blocked = spread_is_blocked(group_of(turn));
		if (clock_is_past(turn->since, TURN_TIME, now)) {
			if (blocked)
				leave(turn, TURN_OVER);
			else
				rest(turn);
			continue;
		}
		flying = add_up(group_of(turn), &sums);
		sample.flying += flying;
		if (flying == 0 && !blocked)
			rest(turn);
	}
	if (sums.stripes > 0) {
		sample.rtt = (uint32_t)(sums.rtt / sums.stripes);
		sample.rtt_min = (uint32_t)(sums.rtt_min / sums.stripes);
	}
	lane_learn(lane, &sample, now);
}

static bool has_room(const struct lane *lane)
{
	return lane->flying < lane->limit;
}

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct lane *lane = timer->data;
	struct turn *turn;

	(void)revents;
	look(lane);
	while ((turn = TAILQ_FIRST(&lane->waiting)) != NULL) {
		if (has_room(lane))
			give(turn);
		else if (clock_is_past(turn->since, TURN_TIME, ev_now(loop)))
			leave(turn, TURN_OVER);
		else
			return;
		spread_pump(group_of(turn));
	}
	ev_timer_stop(loop, timer);
}

static struct lane *lane_of(const struct group *group)
{
	unsigned hash = 0;
	union addr peer;

	if (sock_peer(TAILQ_FIRST(&group->stripes)->fd, &peer) == 0) {
		if (peer.sa.sa_family == AF_INET6)
			HASH_VALUE(&peer.in6.sin6_addr, sizeof(peer.in6.sin6_addr), hash);
		else
			HASH_VALUE(&peer.in.sin_addr, sizeof(peer.in.sin_addr), hash);
	}
	return &group->engine->turns->lanes[hash % LANES];
}

/* What is short has no queue worth the while. */
static bool needs_turn(const struct group *group)
{
	const struct stripe *stripe = TAILQ_FIRST(&group->stripes);

	return group->moved - group->turn.from >= TURN_FIRST && group->moved < TURN_LAST && stripe != NULL && stripe->out.path.rtt_min >= STRIPE_RTT_SHORT &&
	       !group->base;
}

static bool must_wait(struct lane *lane)
{
	ev_tstamp now = ev_now(lane->engine->loop);

	if (!TAILQ_EMPTY(&lane->waiting))
		return true;
	if (!engine_is_crowded(lane->engine))
		return false;
	if (clock_is_past(lane->looked_at, FORGET_TIME, now))
		lane->limit = LANE_LIMIT;
	if (!has_room(lane) && clock_is_past(lane->looked_at, TICK, now))
		look(lane);
	return !has_room(lane);
}

bool turns_let(struct group *group)
{
	struct turn *turn = &group->turn;
	struct lane *lane;

	if (turn->state != TURN_NONE || !needs_turn(group))
		return turn->state != TURN_WAITING;
	lane = turn->lane = turn->lane != NULL ? turn->lane : lane_of(group);
	if (must_wait(lane)) {
		wait_for(turn);
		return false;
	}
	give(turn);
	return true;
}

void turns_take(struct group *group, size_t n)
{
	if (group->turn.state != TURN_HAS)
		return;
	group->turn.lane->flying += n;
	if (group->moved >= TURN_LAST)
		leave(&group->turn, TURN_OVER);
}
