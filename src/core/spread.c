/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <sys/socket.h>

#include "core/choose.h"
#include "core/group.h"
#include "core/spread.h"

/* Payload bytes that one flow may move before the others of its loop get their turn. */
#define SPREAD_BUDGET (512 * 1024)

/* From here up a read counts as bulk: the next goes through a pipe, and the stripe's path is looked at after it. */
#define BULK_SIZE 16384
#define LOOK_SIZE 4096
#define PATH_AGE 0.1 /* seconds */

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

uint32_t spread_last(const struct group *group)
{
	return group->spread.any ? serial_previous(group->spread.next) : 0;
}

void spread_stop(struct group *group)
{
	group->spread.stopped = true;
	hold_unwait(group->engine->pool, &group->spread.waiter);
	if (group->local >= 0)
		ev_io_stop(group->engine->loop, &group->local_rd);
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

static struct stripe *stripe_that_talks(struct group *group)
{
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!stripe->detach_sent && !stripe->out.waits)
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
	ev_io_stop(group->engine->loop, &group->local_rd);
	spread_say_end(group);
}

/* The local socket gave nothing: 0 is its end, else errno says why. */
static void read_failed(struct group *group, ssize_t n)
{
	if (n < 0 && errno == EAGAIN) {
		/* Twice in a row, though the socket was readable: splice(2) stops at urgent data, recv(2) does not. */
		if (group->spread.dry)
			group->spread.bulk = false;
		group->spread.dry = true;
		ev_io_start(group->engine->loop, &group->local_rd);
	} else if (n < 0 && errno == ENOBUFS) {
		ev_io_stop(group->engine->loop, &group->local_rd);
		hold_wait(group->engine->pool, &group->spread.waiter);
	} else {
		/*
		 * A reset that a write, or poll(2), was told of first reads as an end here: local_failed knows better, and
		 * says Reset in place of Fin.
		 */
		if (n < 0 && !group->local_failed) {
			group->spread.eof = true;
			group_local_failed(group, errno);
			return;
		}
		end_reached(group);
	}
}

/* Moves one datagram into the stripe. Returns its size, or 0 if the local socket gave none. */
static size_t pull(struct group *group, struct stripe *stripe)
{
	struct spread *spread = &group->spread;
	struct engine *engine = group->engine;
	uint8_t header[DATAGRAM_HEADER];
	ssize_t n;

	n = hold_fill(engine->pool, &stripe->out.datagram, group->local, choose_size(stripe), spread->bulk);
	if (n <= 0) {
		read_failed(group, n);
		return 0;
	}
	spread->bulk = n >= BULK_SIZE;
	spread->dry = false;
	datagram_encode(header, spread->next, (uint32_t)n);
	hold_put_prefix(&stripe->out.datagram, header);
	spread->next = serial_next(spread->next);
	spread->any = true;
	spread->last = stripe;
	stripe->out.carried = true;
	counter_add(&engine->counters.datagrams_out, 1);
	counter_add(&engine->counters.bytes_out, (uint64_t)n);
	if (stripe_flush(stripe) && n >= LOOK_SIZE)
		stripe_look(stripe, 0.);
	return (size_t)n;
}

void spread_pump(struct group *group)
{
	struct spread *spread = &group->spread;
	size_t budget = SPREAD_BUDGET;
	struct stripe *stripe;
	size_t n;

	while (!group->ended && !spread->eof && !spread->stopped && group->local >= 0) {
		stripe = govern_room(group) > 0 ? choose_stripe(group) : NULL;
		if (stripe == NULL) {
			govern_blocked(group);
			ev_io_stop(group->engine->loop, &group->local_rd);
			return;
		}
		if (budget == 0) {
			ev_io_start(group->engine->loop, &group->local_rd);
			return;
		}
		stripe_look(stripe, PATH_AGE);
		if (!stripe_can_take(stripe))
			continue;
		n = pull(group, stripe);
		if (n == 0)
			return;
		govern_take(group, n);
		budget -= n < budget ? n : budget;
		if (!group->ended)
			group_count(group, n);
	}
}
