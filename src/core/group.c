/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "core/gather.h"
#include "core/group.h"

/* From a reset of the local socket until the stripes must be free of it, as doc/protocol.md says of Reset. Seconds. */
#define RESET_TIME 2.

/* How often to look whether the local socket has acknowledged all that comes before a reset. No event tells. Seconds. */
#define ACKNOWLEDGED_POLL 0.002

/* Seconds for which it's known how far away the peer is. */
#define PATH_AGE_CROWD 60.

static void on_local_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	(void)loop;
	(void)revents;
	spread_pump(io->data);
}

static void on_local_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct group *group = io->data;

	(void)revents;
	ev_io_stop(loop, &group->local_wr);
	merge_pump(group);
}

static void on_local_error(struct hangup_watch *watch)
{
	struct group *group = (struct group *)((char *)watch - offsetof(struct group, hangup));

	group_local_failed(group, ECONNRESET);
}

/*
 * The local socket has failed, and what it had to give could not be passed on in time; or it hasn't taken in time what came before Reset; or it is to be reset
 * when it's ready.
 */
static void on_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct group *group = timer->data;

	(void)loop;
	(void)revents;
	if (!group->resetting)
		group_end(group, GROUP_ABORT, REASON_RESET);
	else if (sock_unacknowledged(group->local) <= 0 || clock_monotonic() >= group->deadline)
		group_end(group, GROUP_RESET, group->reset_reason);
}

static void set_timer(struct group *group, ev_tstamp after, ev_tstamp repeat)
{
	ev_timer_stop(group->engine->loop, &group->timer);
	ev_timer_set(&group->timer, after, repeat);
	ev_timer_start(group->engine->loop, &group->timer);
}

struct group *group_new(struct engine *engine, bool base, const struct group_ops *ops, void *owner)
{
	struct group *group = calloc(1, sizeof(*group));

	if (group == NULL)
		return NULL;
	group->engine = engine;
	group->ops = ops;
	group->owner = owner;
	group->base = base;
	group->local = -1;
	group->grow_at = UINT64_MAX;
	group->hangup.failed = on_local_error;
	TAILQ_INIT(&group->stripes);
	ev_timer_init(&group->timer, on_timer, 0., 0.);
	group->timer.data = group;
	spread_init(group);
	merge_init(group);
	counter_add(&engine->counters.flows_now, 1);
	engine_note_busy(engine, &group->busy);
	return group;
}

void group_set_local(struct group *group, int fd)
{
	group->local = fd;
	ev_io_init(&group->local_rd, on_local_readable, fd, EV_READ);
	ev_io_init(&group->local_wr, on_local_writable, fd, EV_WRITE);
	group->local_rd.data = group->local_wr.data = group;
	ev_io_start(group->engine->loop, &group->local_rd);
	merge_pump(group);
}

void group_stop_reading(struct group *group)
{
	ev_io_stop(group->engine->loop, &group->local_rd);
	if (group->watched || group->ended || group->local < 0)
		return;
	group->watched = true;
	if (hangup_add(group->engine->hangup, group->local, &group->hangup) == 0)
		return;
	log_warn("watching a flow");
	group_end(group, GROUP_ABORT, REASON_INTERNAL);
}

/* Which stripes there are decides which of them may take data: they are tried again. */
static void read_on(struct group *group)
{
	if (group->local >= 0 && !group->spread.eof && !group->spread.stopped)
		ev_io_start(group->engine->loop, &group->local_rd);
}

void group_add(struct group *group, struct stripe *stripe, const struct control *first)
{
	stripe_set_state(stripe, STRIPE_BOUND);
	stripe->group = group;
	stripe->in.parked = false;
	stripe->out.counted = stripe->out.carried = stripe->out.used = false;
	stripe->out.last = 0;
	/* What was known of it is of when it last carried something, and that has mostly arrived, or it wouldn't be idle. */
	stripe->out.path.flying = stripe->out.path.unsent = 0;
	TAILQ_INSERT_TAIL(&group->stripes, stripe, group_link);
	group->stripe_count++;
	/* Reno would be long in recovering from what their first windows lose. */
	if (engine_is_crowded(group->engine)) {
		stripe_look(stripe, PATH_AGE_CROWD);
		stripe_settle(stripe);
	}
	if (first != NULL)
		stripe_send(stripe, first);
	spread_say_end(group);
	if (group->ended || stripe->closed)
		return;
	read_on(group);
	stripe_watch(stripe);
}

void group_confirm(struct group *group, struct stripe *stripe)
{
	if (!stripe->out.asked)
		return;
	stripe->out.asked = stripe->out.waits = false;
	spread_say_end(group);
	if (!group->ended)
		spread_pump(group);
	group_check_done(group);
}

void group_remove(struct group *group, struct stripe *stripe)
{
	stripe->out.asked = stripe->out.waits = false;
	gather_forget(stripe);
	TAILQ_REMOVE(&group->stripes, stripe, group_link);
	group->stripe_count--;
	stripe->group = NULL;
	if (group->merge.current == stripe)
		group->merge.current = NULL;
	if (group->spread.last == stripe)
		group->spread.last = NULL;
	read_on(group);
}

static void close_local(struct group *group, bool clean)
{
	if (group->local < 0)
		return;
	ev_io_stop(group->engine->loop, &group->local_rd);
	ev_io_stop(group->engine->loop, &group->local_wr);
	if (clean)
		close(group->local);
	else
		sock_abort(group->local);
	group->local = -1;
}

static void let_go(struct group *group, enum group_end end)
{
	bool clean = end == GROUP_FINISH;
	struct stripe *stripe;

	while ((stripe = TAILQ_FIRST(&group->stripes)) != NULL) {
		group_remove(group, stripe);
		stripe_set_state(stripe, STRIPE_LEAVING);
		if (end == GROUP_ABORT || (group->base && !clean))
			stripe_close(stripe, false, "its flow was reset");
		else
			stripe_leave(stripe, end == GROUP_RESET ? RESET_TIME : 0.);
	}
}

void group_end(struct group *group, enum group_end end, enum reason reason)
{
	struct engine *engine = group->engine;

	if (group->ended)
		return;
	group->ended = true;
	ev_timer_stop(engine->loop, &group->timer);
	close_local(group, end == GROUP_FINISH);
	spread_stop(group);
	merge_stop(group);
	gather_stop(group);
	govern_stop(group);
	hold_discard(engine->pool, &group->merge.hold);
	let_go(group, end);
	counter_sub(&engine->counters.flows_now, 1);
	engine_note_over(engine, group->busy);
	if (end == GROUP_FINISH)
		counter_add(&engine->counters.flows_finished, 1);
	else if (end == GROUP_REFUSE)
		counter_add(&engine->counters.flows_refused, 1);
	else
		counter_add(&engine->counters.flows_reset, 1);
	group->ops->ended(group, reason);
	engine_bury(engine, &group->grave);
}

void group_local_failed(struct group *group, int error)
{
	if (group->ended || group->local_failed)
		return;
	log_debug("flow %u: local connection failed, error %d", group->number, error);
	group->local_failed = true;
	merge_stop(group);
	if (group->merge.reset) {
		group_end(group, GROUP_RESET, group->reset_reason);
		return;
	}
	if (TAILQ_EMPTY(&group->stripes)) {
		group_end(group, GROUP_ABORT, REASON_RESET);
		return;
	}
	/* What the kernel still has from it comes before the reset, if the stripes take it in time. */
	set_timer(group, RESET_TIME, 0.);
	if (group->spread.eof)
		spread_say_end(group);
	else
		spread_pump(group);
}

bool group_control(struct group *group, const struct control *control)
{
	if (group->base)
		return false;
	if (control->type == CONTROL_FIN)
		return merge_end(group, control->serial, false);
	group->reset_reason = control->reset.reason;
	if (group->local_failed) {
		group_end(group, GROUP_RESET, group->reset_reason);
		return true;
	}
	spread_stop(group);
	return merge_end(group, control->reset.serial, true);
}

bool group_is_unconfirmed(const struct group *group)
{
	const struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (stripe->out.asked && stripe->out.carried)
			return true;
	}
	return false;
}

/* No stripe is left, and none is to come. */
static void check_deserted(struct group *group)
{
	if (!merge_complete(group) || !(group->spread.done || group->merge.reset)) {
		group_end(group, GROUP_ABORT, REASON_STRIPE_LOST);
		return;
	}
	/* What has come waits in memory. That the peer has given its stripes up, as it does some time after Reset, isn't heard any more. */
	if (group->merge.reset && !ev_is_active(&group->timer))
		set_timer(group, RESET_TIME, 0.);
}

void group_check_done(struct group *group)
{
	if (group->ended || group->resetting)
		return;
	if (group->merge.done && group->merge.reset) {
		group->resetting = true;
		group->deadline = clock_monotonic() + RESET_TIME;
		set_timer(group, 0., ACKNOWLEDGED_POLL);
	} else if (group->merge.done && group->spread.done) {
		if (!group_is_unconfirmed(group))
			group_end(group, GROUP_FINISH, REASON_NONE);
	} else if (group->stripe_count == 0 && group->joining == 0 && group->local >= 0) {
		check_deserted(group);
	}
}

void group_count(struct group *group, size_t n)
{
	group->moved += n;
	engine_note_busy(group->engine, &group->busy);
	if (group->moved < group->grow_at)
		return;
	group->grow_at = UINT64_MAX;
	group->ops->grow(group);
}
