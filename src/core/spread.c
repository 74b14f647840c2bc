/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <sys/socket.h>

#include "core/choose.h"
#include "core/group.h"
#include "core/spread.h"

/* Payload bytes that one flow may move before the others of its loop get their turn. */
#define SPREAD_BUDGET (512 * 1024)

/* After a datagram of this size, or of all that the stripe should take, its path is looked at. */
#define LOOK_SIZE 4096
#define PATH_AGE 0.1	   /* seconds */
#define PATH_AGE_ALONE 1. /* where there's no choice */

static void on_buffers(struct hold_waiter *waiter)
{
	struct spread *spread = (struct spread *)((char *)waiter - offsetof(struct spread, waiter));

	spread_pump((struct group *)((char *)spread - offsetof(struct group, spread)));
}

void spread_init(struct group *group)
{
	group->spread.next = SERIAL_FIRST;
	group->spread.waiter.ready = on_buffers;
}

bool spread_is_blocked(const struct group *group)
{
	return !group->spread.eof && !group->spread.stopped && !ev_is_active(&group->local_rd);
}

uint32_t spread_last(const struct group *group)
{
	return group->spread.any ? serial_previous(group->spread.next) : 0;
}

void spread_stop(struct group *group)
{
	group->spread.stopped = true;
	turns_stop(group);
	hold_unwait(group->engine->pool, &group->spread.waiter);
	cover_stop(group);
	group_stop_reading(group);
}

/* Base protocol: the end is the end of every stripe, each after its last datagram. */
static void shut_stripes(struct group *group)
{
	struct stripe *stripe;
	bool all = !TAILQ_EMPTY(&group->stripes);

	if (group->joining > 0)
		return;
	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!stripe->out.shut && hold_empty(&stripe->out.datagram)) {
			shutdown(stripe->fd, SHUT_WR);
			stripe->out.shut = true;
		}
		all = all && stripe->out.shut;
	}
	if (all) {
		group->spread.done = true;
		group_check_done(group);
	}
}

/* The one that took the last datagram, if it can: then the end leaves along with it. */
static struct stripe *stripe_that_talks(struct group *group)
{
	struct stripe *stripe = group->spread.last;

	if (stripe != NULL && !stripe->detach_sent && !stripe->out.waits)
		return stripe;
	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!stripe->detach_sent && !stripe->out.asked)
			return stripe;
	}
	return NULL;
}

void spread_say_end(struct group *group)
{
	struct spread *spread = &group->spread;
	struct stripe *stripe;

	if (group->ended || !spread->eof || spread->stopped)
		return;
	if (group->base) {
		if (group->local_failed)
			group_end(group, GROUP_ABORT, REASON_RESET);
		else
			shut_stripes(group);
		return;
	}
	if (spread->done && !group->local_failed)
		return;
	/* Reset is the end of the group. */
	if (group->local_failed && group_is_unconfirmed(group))
		return;
	stripe = stripe_that_talks(group);
	if (stripe == NULL)
		return;
	spread->done = true;
	if (group->local_failed) {
		stripe_send(stripe, &(struct control){.type = CONTROL_RESET,
						      .reset = {.reason = REASON_RESET, .serial = spread_last(group)}});
		group_end(group, GROUP_RESET, REASON_RESET);
	} else {
		stripe_send(stripe, &(struct control){.type = CONTROL_FIN, .serial = spread_last(group)});
		group_check_done(group);
	}
}

static void end_reached(struct group *group)
{
	group->spread.eof = true;
	cover_end(group);
	spread_say_end(group);
	group_stop_reading(group);
}

/* The local socket gave nothing: 0 is its end, else error says why. */
static void read_failed(struct group *group, ssize_t n, int error)
{
	if (n < 0 && error == EAGAIN) {
		/* Twice in a row, though the socket was readable: splice(2) stops at urgent data, recv(2) does not. */
		if (group->spread.dry)
			group->spread.bulk = false;
		group->spread.dry = true;
		ev_io_start(group->engine->loop, &group->local_rd);
	} else if (n < 0 && error == ENOBUFS) {
		hold_wait(group->engine->pool, &group->spread.waiter);
		group_stop_reading(group);
	} else {
		/*
		 * A reset that a write, or poll(2), was told of first reads as an end here: local_failed knows better, and
		 * says Reset in place of Fin.
		 */
		if (n < 0 && !group->local_failed) {
			group->spread.eof = true;
			group_local_failed(group, error);
			return;
		}
		end_reached(group);
	}
}

/* What has come for the stripe, max at most, is a datagram now. */
static void count_datagram(struct group *group, struct stripe *stripe, size_t n, size_t max, bool keep)
{
	struct spread *spread = &group->spread;
	struct engine *engine = group->engine;

	spread->bulk = n >= STRIPE_BULK;
	spread->full = n >= max;
	spread->dry = false;
	stripe_start(stripe, spread->next, (uint32_t)n, keep);
	spread->next = serial_next(spread->next);
	spread->any = true;
	spread->last = stripe;
	stripe->out.carried = true;
	counter_add(&engine->counters.datagrams_out, 1);
	counter_add(&engine->counters.bytes_out, (uint64_t)n);
}

/*
 * Moves one datagram into the stripe. Returns its size, or 0 if the local socket gave none. Where the socket gave less than it might have, it's asked
 * again at once: if it has ended, that goes out along with the last bytes.
 */
static size_t pull(struct group *group, struct stripe *stripe, size_t max)
{
	struct hold *hold = &stripe->out.datagram;
	bool keep = cover_is_wanted(group, stripe);
	ssize_t more = 1, n;
	int error;

	if (keep) {
		max = choose_size(stripe, 1);
		max = max < DATAGRAM_KEPT_MAX ? max : DATAGRAM_KEPT_MAX;
	}
	n = hold_fill(group->engine->pool, hold, group->local, max, group->spread.bulk && !keep);
	error = errno;
	if (n <= 0) {
		read_failed(group, n, error);
		return 0;
	}
	if (hold->buffer != NULL && (size_t)n < max) {
		more = hold_top_up(hold, group->local, max);
		error = errno;
		n += more > 0 ? more : 0;
	}
	count_datagram(group, stripe, (size_t)n, max, keep);
	if ((size_t)n < max && !govern_is_bulk(group))
		engine_note_talk(group->engine);
	/* What isn't spliced is in a buffer. */
	if (keep)
		cover_keep(group, stripe, hold_bytes(hold) + DATAGRAM_HEADER, (size_t)n);
	else
		cover_stop(group);
	if (more == 0 || (more < 0 && error != ENOBUFS)) {
		group->spread.drained = true;
		read_failed(group, more, error);
	}
	if (stripe->closed || !stripe_flush(stripe))
		return (size_t)n;
	if (n >= LOOK_SIZE || (size_t)n >= max)
		stripe_look(stripe, 0.);
	/* Base protocol: a stripe ends when it has nothing more to send. */
	spread_say_end(group);
	return (size_t)n;
}

void spread_pump(struct group *group)
{
	struct spread *spread = &group->spread;
	size_t budget = SPREAD_BUDGET;
	struct stripe *stripe;
	uint64_t room;
	size_t n;

	spread->drained = false;
	while (!group->ended && !spread->eof && !spread->stopped && !spread->drained && group->local >= 0) {
		room = govern_room(group);
		stripe = room > 0 && turns_let(group) ? choose_stripe(group) : NULL;
		if (stripe == NULL) {
			govern_blocked(group);
			group_stop_reading(group);
			return;
		}
		if (budget == 0) {
			ev_io_start(group->engine->loop, &group->local_rd);
			return;
		}
		stripe_look(stripe, group->stripe_count > 1 ? PATH_AGE : PATH_AGE_ALONE);
		if (!stripe_can_take(stripe))
			continue;
		n = pull(group, stripe, choose_size(stripe, room));
		if (n == 0)
			return;
		govern_take(group, n);
		budget -= n < budget ? n : budget;
		if (!group->ended)
			group_count(group, n);
		turns_take(group, n);
	}
}
