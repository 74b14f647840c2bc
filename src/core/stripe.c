/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "core/group.h"
#include "core/stripe.h"

/* What the queue of controls keeps free of Pongs, so that a peer that only pings can't crowd out the rest. */
#define CONTROL_QUEUE_RESERVE 128

/* Seconds for which its path is believed to be as it was when it leaves a flow. */
#define WORN_AGE 0.02

/* Counts the stripe in, or out, by its state. */
static void count_state(struct stripe *stripe, int change)
{
	struct engine *engine = stripe->engine;

	if (stripe->state == STRIPE_IDLE)
		counter_add(&engine->counters.stripes_idle_now, (uint64_t)change);
	if (stripe->state == STRIPE_LEAVING)
		engine->leaving += (unsigned)change;
}

void stripe_set_state(struct stripe *stripe, enum stripe_state state)
{
	count_state(stripe, -1);
	stripe->state = state;
	count_state(stripe, 1);
}

static void read_anew(struct stripe *stripe)
{
	stripe->in.drained = false;
	stripe_read(stripe);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	(void)loop;
	(void)revents;
	read_anew(io->data);
}

static void on_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct stripe *stripe = io->data;

	(void)revents;
	if (!stripe_flush(stripe))
		return;
	ev_io_stop(loop, &stripe->wr);
	stripe->out.writable = true;
	if (stripe->state == STRIPE_BOUND) {
		spread_say_end(stripe->group);
		if (stripe->state == STRIPE_BOUND)
			spread_pump(stripe->group);
	}
}

static void on_leave_timeout(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	stripe_close(timer->data, false, "the peer did not let go of it in time");
}

static void on_failed(struct hangup_watch *watch)
{
	struct stripe *stripe = (struct stripe *)((char *)watch - offsetof(struct stripe, hangup));

	stripe_close(stripe, false, "reset by the peer");
}

static void on_again(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	read_anew(timer->data);
}

static void flush_later(struct stripe *stripe)
{
	if (stripe->out.pending)
		return;
	stripe->out.pending = true;
	TAILQ_INSERT_TAIL(&stripe->engine->unflushed, stripe, flush_link);
}

static void flush_no_more(struct stripe *stripe)
{
	if (!stripe->out.pending)
		return;
	stripe->out.pending = false;
	TAILQ_REMOVE(&stripe->engine->unflushed, stripe, flush_link);
}

/* Sends what is waiting. Returns 1 when nothing is left, 0 when the socket is full, -1 with errno set. */
static int push(struct stripe *stripe)
{
	struct stripe_out *out = &stripe->out;
	struct hold_wrap wrap = {out->controls, out->before, (size_t)(out->queued - out->before)};
	int result = hold_drain_wrapped(stripe->engine->pool, &out->datagram, stripe->fd, &wrap);

	out->before = (uint16_t)wrap.before;
	out->queued = (uint16_t)(wrap.before + wrap.behind);
	if (out->queued > 0) {
		memmove(out->controls, wrap.bytes, out->queued);
	} else {
		free(out->controls);
		out->controls = NULL;
	}
	return result;
}

static int watch(struct stripe *stripe)
{
	if (hangup_add(stripe->engine->hangup, stripe->fd, &stripe->hangup) < 0)
		return -1;
	ev_io_start(stripe->engine->loop, &stripe->rd);
	counter_add(&stripe->engine->counters.stripes_now, 1);
	TAILQ_INSERT_TAIL(&stripe->engine->stripes, stripe, engine_link);
	count_state(stripe, 1);
	return 0;
}

static void unwatch(struct stripe *stripe)
{
	ev_io_stop(stripe->engine->loop, &stripe->rd);
	ev_io_stop(stripe->engine->loop, &stripe->wr);
	ev_timer_stop(stripe->engine->loop, &stripe->leave_timer);
	ev_timer_stop(stripe->engine->loop, &stripe->again);
	counter_sub(&stripe->engine->counters.stripes_now, 1);
	TAILQ_REMOVE(&stripe->engine->stripes, stripe, engine_link);
	flush_no_more(stripe);
	count_state(stripe, -1);
}

struct stripe *stripe_new(struct engine *engine, int fd, bool base, const struct stripe_ops *ops, void *owner)
{
	struct stripe *stripe = calloc(1, sizeof(*stripe));

	if (stripe == NULL)
		return NULL;
	stripe->engine = engine;
	stripe->ops = ops;
	stripe->owner = owner;
	stripe->fd = fd;
	stripe->base = base;
	stripe->state = STRIPE_IDLE;
	stripe->out.writable = true;
	stripe->hangup.failed = on_failed;
	ev_io_init(&stripe->rd, on_readable, fd, EV_READ);
	ev_io_init(&stripe->wr, on_writable, fd, EV_WRITE);
	ev_timer_init(&stripe->leave_timer, on_leave_timeout, 0., 0.);
	ev_timer_init(&stripe->again, on_again, 0., 0.);
	stripe->rd.data = stripe->wr.data = stripe->leave_timer.data = stripe->again.data = stripe;
	if (watch(stripe) < 0) {
		free(stripe);
		return NULL;
	}
	counter_add(&engine->counters.stripes_total, 1);
	return stripe;
}

void stripe_hold(struct stripe *stripe)
{
	stripe_set_state(stripe, STRIPE_HELD);
}

void stripe_give_up(struct stripe *stripe)
{
	unwatch(stripe);
	hangup_remove(stripe->engine->hangup, stripe->fd);
}

static void free_buffers(struct stripe *stripe)
{
	free(stripe->in.ahead.bytes);
	free(stripe->out.controls);
	stripe->in.ahead = (struct hold_ahead){0};
	stripe->out.controls = NULL;
	stripe->out.queued = stripe->out.before = 0;
}

void stripe_throw_away(struct stripe *stripe)
{
	sock_abort(stripe->fd);
	free_buffers(stripe);
	free(stripe);
}

int stripe_adopt(struct stripe *stripe, struct engine *engine, void *owner)
{
	int saved;

	stripe->engine = engine;
	stripe->owner = owner;
	/* So the loop tells epoll of the descriptor, though it may have watched another of this number just now. */
	ev_io_set(&stripe->rd, stripe->fd, EV_READ);
	ev_io_set(&stripe->wr, stripe->fd, EV_WRITE);
	if (watch(stripe) == 0) {
		if (!stripe->out.writable)
			ev_io_start(engine->loop, &stripe->wr);
		else if (stripe->out.queued > 0)
			flush_later(stripe);
		return 0;
	}
	saved = errno;
	stripe_throw_away(stripe);
	errno = saved;
	return -1;
}

void stripe_drop(struct stripe *stripe, bool clean)
{
	if (stripe->closed)
		return;
	stripe->closed = true;
	if (clean)
		push(stripe);
	unwatch(stripe);
	hold_discard(stripe->engine->pool, &stripe->out.datagram);
	if (clean)
		close(stripe->fd);
	else
		sock_abort(stripe->fd);
	free_buffers(stripe);
	engine_bury(stripe->engine, &stripe->grave);
}

void stripe_close(struct stripe *stripe, bool clean, const char *why)
{
	if (stripe->closed)
		return;
	if (stripe->state == STRIPE_BOUND) {
		struct group *group = stripe->group;
		/* If the peer had bound it, it hears of the loss itself, and ends the group. */
		bool missed = !stripe->out.asked || stripe->out.carried || stripe->in.last != 0;

		log_debug("flow %u: stripe lost: %s", group->number, why);
		counter_add(&stripe->engine->counters.stripes_lost, 1);
		group_remove(group, stripe);
		stripe_set_state(stripe, STRIPE_LEAVING);
		stripe_close(stripe, clean, why);
		if (!missed)
			group_check_done(group);
		else if (group->ops->lost == NULL || !group->ops->lost(group, stripe))
			group_end(group, GROUP_ABORT, REASON_STRIPE_LOST);
		return;
	}
	stripe_drop(stripe, clean);
	stripe->ops->closed(stripe, why);
}

bool stripe_refuse_control(struct stripe *stripe, const struct control *control)
{
	(void)stripe;
	(void)control;
	return false;
}

void stripe_end_idle(struct stripe *stripe)
{
	stripe_close(stripe, true, "base stripes have no second flow");
}

void stripe_close_all(struct engine *engine)
{
	struct stripe *stripe;

	while ((stripe = TAILQ_FIRST(&engine->stripes)) != NULL)
		stripe_close(stripe, false, "this end is being stopped");
}

/* Sending */

bool stripe_works(const struct stripe *stripe)
{
	return !stripe->out.waits && !stripe->closed && !stripe->detach_sent && !stripe->detach_received && !stripe->out.shut;
}

bool stripe_can_take(const struct stripe *stripe)
{
	return stripe_works(stripe) && stripe->out.writable && hold_empty(&stripe->out.datagram);
}

static void put_header(struct stripe *stripe, uint32_t serial, uint32_t size)
{
	uint8_t header[DATAGRAM_HEADER];

	datagram_encode(header, serial, size);
	hold_put_prefix(&stripe->out.datagram, header);
	stripe->out.before = stripe->out.queued;
	stripe->out.used = true;
}

void stripe_start(struct stripe *stripe, uint32_t serial, uint32_t size, bool kept)
{
	put_header(stripe, serial, kept ? size | DATAGRAM_KEPT : size);
	stripe->out.last = serial;
}

void stripe_start_parity(struct stripe *stripe, uint32_t serial, uint32_t size)
{
	put_header(stripe, serial, size | DATAGRAM_PARITY);
}

bool stripe_flush(struct stripe *stripe)
{
	int result = push(stripe);

	flush_no_more(stripe);
	if (result < 0) {
		stripe_close(stripe, false, strerror(errno));
		return false;
	}
	if (result == 0) {
		stripe->out.writable = false;
		ev_io_start(stripe->engine->loop, &stripe->wr);
		return false;
	}
	return true;
}

bool stripe_queue(struct stripe *stripe, const struct control *control)
{
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];
	struct stripe_out *out = &stripe->out;
	size_t length = control_encode(bytes, control);
	size_t room = STRIPE_CONTROL_QUEUE - out->queued;

	if (length + (control->type == CONTROL_PONG ? CONTROL_QUEUE_RESERVE : 0) > room)
		return false;
	if (out->controls == NULL && (out->controls = malloc(STRIPE_CONTROL_QUEUE)) == NULL)
		return false;
	memcpy(out->controls + out->queued, bytes, length);
	out->queued += (uint16_t)length;
	return true;
}

void stripe_send(struct stripe *stripe, const struct control *control)
{
	if (stripe->closed)
		return;
	if (stripe_queue(stripe, control) || (stripe_flush(stripe) && stripe_queue(stripe, control)))
		flush_later(stripe);
	else if (control->type != CONTROL_PONG)
		stripe_close(stripe, false, "the peer does not read");
}

/* Leaving a group */

static void become_idle(struct stripe *stripe)
{
	ev_timer_stop(stripe->engine->loop, &stripe->leave_timer);
	stripe_set_state(stripe, STRIPE_IDLE);
	stripe->detach_sent = stripe->detach_received = false;
	stripe->in.last = 0;
	stripe->group = NULL;
	stripe->ops->idle(stripe);
}

static void say_worn(struct stripe *stripe)
{
	stripe_look(stripe, WORN_AGE);
	if (!stripe_is_worn(stripe))
		return;
	stripe->worn = true;
	stripe_send(stripe, &(struct control){.type = CONTROL_WORN});
}

static void send_detach(struct stripe *stripe)
{
	if (stripe->detach_sent)
		return;
	stripe->detach_sent = true;
	if (stripe->out.used)
		say_worn(stripe);
	stripe_send(stripe, &(struct control){.type = CONTROL_DETACH});
}

void stripe_detach(struct stripe *stripe)
{
	send_detach(stripe);
}

void stripe_leave(struct stripe *stripe, ev_tstamp timeout)
{
	if (stripe->base) {
		stripe_set_state(stripe, STRIPE_LEAVING);
		stripe_close(stripe, true, "its flow has ended");
		return;
	}
	stripe_set_state(stripe, STRIPE_LEAVING);
	stripe->group = NULL;
	stripe->in.parked = false;
	stripe_await(stripe, 1);
	if (timeout > 0.) {
		ev_timer_set(&stripe->leave_timer, timeout, 0.);
		ev_timer_start(stripe->engine->loop, &stripe->leave_timer);
	}
	send_detach(stripe);
	if (stripe->closed)
		return;
	if (stripe->detach_received) {
		become_idle(stripe);
		return;
	}
	stripe_watch(stripe);
}

void stripe_watch(struct stripe *stripe)
{
	ev_io_start(stripe->engine->loop, &stripe->rd);
	if (stripe->in.parsed || stripe->in.ahead.n > 0)
		ev_feed_event(stripe->engine->loop, &stripe->rd, EV_READ);
}

bool stripe_take_detach(struct stripe *stripe)
{
	struct group *group = stripe->group;

	if (stripe->state == STRIPE_IDLE)
		return false;
	stripe->detach_received = stripe->unheard = true;
	if (stripe->state == STRIPE_BOUND && !stripe->detach_sent && group->ops->parting != NULL)
		group->ops->parting(group);
	send_detach(stripe);
	if (stripe->closed)
		return true;
	if (stripe->state == STRIPE_BOUND) {
		group_remove(group, stripe);
		become_idle(stripe);
		group_check_done(group);
	} else {
		become_idle(stripe);
	}
	return true;
}

/* Not ev_feed_event(): what is fed in a callback is called before the loop polls, or calls anything else. */
void stripe_read_later(struct stripe *stripe)
{
	if (ev_is_active(&stripe->again))
		return;
	ev_timer_set(&stripe->again, 0., 0.);
	ev_timer_start(stripe->engine->loop, &stripe->again);
}

void stripe_await(struct stripe *stripe, uint32_t bytes)
{
	bytes = bytes > 1 ? bytes : 0;
	if (bytes == stripe->in.wanted)
		return;
	stripe->in.wanted = bytes;
	sock_set_wanted(stripe->fd, bytes > 0 ? bytes : 1);
}

void stripe_park(struct stripe *stripe)
{
	stripe->in.parked = true;
	stripe->in.drained = false;
	ev_io_stop(stripe->engine->loop, &stripe->rd);
}
