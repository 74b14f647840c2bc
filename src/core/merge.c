/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <sys/socket.h>

#include "core/gather.h"
#include "core/group.h"
#include "core/merge.h"

/* Payload bytes that one flow may move before the others of its loop get their turn. */
#define MERGE_BUDGET (512 * 1024)

/* Pieces in which a large datagram is passed on as it comes, unless they are larger than need be. */
#define PARTS 4
#define PART_MAX 16384

/* What a step costs at least: small datagrams take time, too. */
#define STEP_COST 4096

void merge_init(struct group *group)
{
	group->merge.due = SERIAL_FIRST;
}

void merge_stop(struct group *group)
{
	struct merge *merge = &group->merge;

	merge->stopped = true;
	if (group->local >= 0)
		ev_io_stop(group->engine->loop, &group->local_wr);
	if (merge->current != NULL)
		ev_io_stop(group->engine->loop, &merge->current->rd);
}

/* All serials have been delivered whole to the end that was named. */
static bool complete(const struct merge *merge)
{
	if (!merge->ending)
		return false;
	return merge->final == 0 ? merge->delivered == 0
				 : merge->delivered > 0 && serial_previous(merge->due) == merge->final;
}

bool merge_is_late(const struct merge *merge, uint32_t serial)
{
	uint32_t behind = serial_distance(serial, merge->due);

	return behind > 0 && behind < SERIAL_WINDOW && behind <= merge->delivered;
}

bool merge_is_past(const struct merge *merge, uint32_t serial, uint32_t count)
{
	return !merge_is_late(merge, serial) && serial_distance(merge->due, serial) >= count;
}

/* How many are still to come, if this is the last. */
static uint32_t to_come(const struct merge *merge, uint32_t final)
{
	return final == 0 ? 0 : serial_distance(merge->due, serial_next(final));
}

/* On one stripe serials rise. In the extended protocol the same may come on several. */
static bool serial_makes_sense(const struct group *group, const struct stripe_in *in)
{
	const struct merge *merge = &group->merge;
	uint32_t serial = in->datagram.serial;
	uint32_t ahead = serial_distance(merge->due, serial);

	if (!serial_rises(in->last, serial))
		return false;
	if (merge_is_late(merge, serial))
		return !group->base;
	if (ahead >= SERIAL_WINDOW || complete(merge))
		return false;
	return !merge->ending || ahead < to_come(merge, merge->final);
}

bool merge_complete(const struct group *group)
{
	const struct merge *merge = &group->merge;

	if (complete(merge))
		return true;
	for (uint32_t serial = merge->due; gather_find(group, serial) != NULL; serial = serial_next(serial)) {
		if (merge->ending && serial == merge->final)
			return true;
	}
	return false;
}

static struct stripe *find_parked(const struct group *group, uint32_t serial)
{
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (stripe->in.parked && stripe->in.datagram.serial == serial)
			return stripe;
	}
	return NULL;
}

/* Another stripe has the same datagram. False if it must not be so. */
static bool repeats(struct group *group, const struct stripe *stripe, const struct stripe *other)
{
	if (group->base || stripe->in.datagram.size != other->in.datagram.size)
		return false;
	group->merge.repeated = true;
	return true;
}

bool merge_arrived(struct group *group, struct stripe *stripe)
{
	struct merge *merge = &group->merge;
	struct stripe_in *in = &stripe->in;
	const struct gather_piece *piece;
	const struct stripe *other;

	if (!in->known && !serial_makes_sense(group, in))
		return false;
	in->known = true;
	in->last = in->datagram.serial;
	in->late = merge_is_late(merge, in->last);
	if (in->late) {
		merge->repeated = true;
		return true;
	}
	piece = gather_find(group, in->last);
	if (piece != NULL) {
		in->late = true;
		return piece->size == in->datagram.size;
	}
	other = in->last == merge->due ? merge->current : find_parked(group, in->last);
	if (other != NULL && !repeats(group, stripe, other))
		return false;
	if (in->kept && other == NULL && in->left == in->datagram.size && gather_begin(stripe))
		return true;
	if (in->last == merge->due) {
		merge->current = stripe;
		return true;
	}
	stripe_park(stripe);
	merge_stripe_ended(group);
	return true;
}

/* Half-closes the local socket when its last byte has gone. */
static void end_reached(struct group *group)
{
	struct merge *merge = &group->merge;

	if (merge->done || merge->stopped || group->local < 0 || !hold_empty(&merge->hold))
		return;
	merge->done = true;
	/* When the other direction has ended, too, the socket is closed: mostly at once. */
	if (!merge->reset && (!group->spread.done || group_is_unconfirmed(group)))
		shutdown(group->local, SHUT_WR);
	group_check_done(group);
}

/* Nothing that has come, or begun to, is past what is still to come. */
static bool can_end(const struct group *group, uint32_t left)
{
	const struct merge *merge = &group->merge;
	const struct stripe *stripe;

	if (left >= SERIAL_WINDOW || (merge->current != NULL && left == 0) || gather_is_past(group, left))
		return false;
	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		bool has_data = stripe->in.parked || (stripe->in.piece != NULL && !stripe->in.parity);

		if (has_data && merge_is_past(merge, stripe->in.datagram.serial, left))
			return false;
	}
	return true;
}

bool merge_end(struct group *group, uint32_t final, bool reset)
{
	struct merge *merge = &group->merge;

	if (merge->ending && (!reset || merge->reset || final != merge->final))
		return false;
	if (!merge->ending && ((final == 0 && merge->delivered > 0) || !can_end(group, to_come(merge, final))))
		return false;
	merge->ending = true;
	merge->final = final;
	if (reset && merge->done) {
		merge->reset = true;
		group_check_done(group);
		return true;
	}
	merge->reset = reset;
	if (reset && group->local < 0) {
		group_end(group, GROUP_RESET, group->reset_reason);
		return true;
	}
	if (complete(merge))
		end_reached(group);
	return true;
}

void merge_stripe_ended(struct group *group)
{
	struct merge *merge = &group->merge;
	struct stripe *stripe;
	bool any_parked = false, any_ended = false;

	if (!group->base || group->joining > 0 || merge->current != NULL)
		return;
	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!stripe->in.parked && !stripe->in.eof)
			return;
		any_parked = any_parked || stripe->in.parked;
		any_ended = any_ended || stripe->in.eof;
	}
	if (!any_ended)
		return;
	/* Every stripe has ended or waits for a serial that none can bring any more. */
	if (any_parked)
		group_end(group, GROUP_ABORT, REASON_PROTOCOL);
	else if (!merge->ending)
		merge_end(group, merge->delivered > 0 ? serial_previous(merge->due) : 0, false);
}

/* It has the due datagram, or what has come of it. */
static bool has_due(const struct stripe_in *in)
{
	return in->parsed && in->known && !in->parked && !in->late && in->piece == NULL;
}

/* What other stripes still have, or will have, of the datagram that's done is dropped. */
static void drop_rivals(struct group *group)
{
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!has_due(&stripe->in))
			continue;
		stripe->in.late = true;
		stripe_await(stripe, 1);
		stripe_watch(stripe);
	}
}

/* The next is due. */
static void unpark(struct group *group)
{
	struct merge *merge = &group->merge;
	struct stripe *stripe;

	while ((stripe = find_parked(group, merge->due)) != NULL) {
		stripe->in.parked = false;
		merge->current = stripe;
		if (!merge->repeated)
			break;
		stripe_watch(stripe);
	}
}

/* The due datagram was delivered whole. */
static void serial_done(struct group *group)
{
	struct merge *merge = &group->merge;

	merge->current = NULL;
	merge->delivered++;
	merge->passed = 0;
	if (merge->repeated)
		drop_rivals(group);
	merge->due = serial_next(merge->due);
	counter_add(&group->engine->counters.datagrams_in, 1);
	unpark(group);
}

static void datagram_done(struct group *group, struct stripe *stripe)
{
	stripe_await(stripe, 1);
	stripe->in.parsed = false;
	serial_done(group);
	/* Its next header: it may be due itself, or end the flow. */
	stripe_read(stripe);
}

/* The local socket takes no more now. */
static void wait_for_local(struct group *group)
{
	ev_io_start(group->engine->loop, &group->local_wr);
	if (group->merge.current != NULL)
		ev_io_stop(group->engine->loop, &group->merge.current->rd);
}

/* The current stripe has nothing more for now: another may have more of the same datagram. */
static void await_rivals(struct group *group)
{
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (stripe == group->merge.current || !has_due(&stripe->in))
			continue;
		ev_io_start(stripe->engine->loop, &stripe->rd);
		if (stripe->in.ahead.n > 0)
			ev_feed_event(stripe->engine->loop, &stripe->rd, EV_READ);
	}
}

/*
 * Our datagrams are as large as what their stripe sends in a few milliseconds (choose_size()), so a part of one isn't long in coming; being woken for
 * each packet of it would cost more than all the rest.
 */
static void await_payload(struct stripe *stripe)
{
	uint32_t part = stripe->in.datagram.size / PARTS;

	if (stripe->base || stripe->in.datagram.size < STRIPE_BULK)
		part = 1;
	else if (part > PART_MAX)
		part = PART_MAX;
	stripe_await(stripe, part < stripe->in.left ? part : stripe->in.left);
	ev_io_start(stripe->engine->loop, &stripe->rd);
	if (stripe->group->merge.repeated)
		await_rivals(stripe->group);
}

/* The payload that is left, and behind it the end of the direction, have been read ahead. */
static bool end_is_next(const struct merge *merge, const struct stripe_in *in)
{
	size_t n = in->ahead.n > in->left ? in->ahead.n - in->left : 0;
	struct datagram datagram;
	struct control control;
	const uint8_t *next;

	if (n < DATAGRAM_HEADER)
		return false;
	next = in->ahead.bytes + in->ahead.start + in->left;
	datagram = datagram_decode(next);
	return datagram.serial == SERIAL_CONTROL && datagram.size <= n - DATAGRAM_HEADER &&
	       control_decode(&control, next + DATAGRAM_HEADER, datagram.size) == CONTROL_OK &&
	       control.type == CONTROL_FIN && control.serial == merge->due;
}

/* Passes payload on by copying. False if there's nothing to go on with. */
static bool copy_payload(struct group *group, struct stripe *stripe, size_t *n)
{
	struct stripe_in *in = &stripe->in;
	enum hold_passed passed;
	int error;

	stripe_borrow_ahead(stripe);
	passed = hold_pass(group->engine->pool, stripe->fd, group->local, in->left, n, &in->ahead,
			   in->bulk ? DATAGRAM_HEADER : HOLD_AHEAD, !group->base && end_is_next(&group->merge, in));
	error = errno;
	stripe_release_ahead(stripe);
	in->left -= (uint32_t)*n;
	group->merge.passed += (uint32_t)*n;
	counter_add(&group->engine->counters.bytes_in, *n);
	switch (passed) {
	case HOLD_PASSED:
		return true;
	case HOLD_FROM_EMPTY:
		await_payload(stripe);
		break;
	case HOLD_FROM_ENDED:
		stripe_close(stripe, false, "ended inside a datagram");
		break;
	case HOLD_FROM_FAILED:
		stripe_close(stripe, false, "reset by the peer");
		break;
	case HOLD_TO_FULL:
		wait_for_local(group);
		break;
	case HOLD_TO_FAILED:
		group_local_failed(group, error);
		break;
	}
	return false;
}

/* True if the local socket has taken all that the hold had. */
static bool deliver(struct group *group)
{
	int result = hold_drain(group->engine->pool, &group->merge.hold, group->local);

	if (result == 0)
		wait_for_local(group);
	else if (result < 0)
		group_local_failed(group, errno);
	return result == 1;
}

/* Passes payload on, through a pipe if it's much. False if there's nothing to go on with; *n bytes were moved all the same. */
static bool move_payload(struct group *group, struct stripe *stripe, size_t *n)
{
	ssize_t filled = -1;

	*n = 0;
	errno = ENOBUFS;
	if (stripe->in.left >= STRIPE_BULK && stripe->in.ahead.n == 0 && stripe->in.dry < 2)
		filled = hold_splice(group->engine->pool, &group->merge.hold, stripe->fd, stripe->in.left);
	if (filled < 0 && errno == ENOBUFS) {
		stripe->in.dry = 0;
		return copy_payload(group, stripe, n);
	}
	if (filled > 0) {
		stripe->in.dry = 0;
		*n = (size_t)filled;
		stripe->in.left -= (uint32_t)filled;
		group->merge.passed += (uint32_t)filled;
		counter_add(&group->engine->counters.bytes_in, (uint64_t)filled);
		return deliver(group);
	}
	if (filled < 0 && errno == EAGAIN) {
		/* Twice in a row, though it was readable: splice(2) stops at urgent data, recv(2) does not. */
		stripe->in.dry++;
		await_payload(stripe);
	} else
		stripe_close(stripe, false, filled == 0 ? "ended inside a datagram" : "reset by the peer");
	return false;
}

/* Drops n bytes of payload that another stripe has brought already. False if they aren't there yet. */
static bool catch_up(struct stripe *stripe, uint32_t n)
{
	int result = stripe_skip(stripe, n);

	stripe_release_ahead(stripe);
	if (result == 0)
		await_payload(stripe);
	return result == 1;
}

/* Passes on what was gathered of the due datagram, but for what a stripe has brought of it before. False if that's not to go on. */
static bool pass_gathered(struct group *group, const struct gather_piece *piece)
{
	struct merge *merge = &group->merge;
	ssize_t n;

	/* A stripe has brought more of it: that was another datagram. */
	if (piece->size < merge->passed) {
		group_end(group, GROUP_ABORT, REASON_PROTOCOL);
		return false;
	}
	n = send(group->local, piece->bytes + PARITY_PREFIX + merge->passed, piece->size - merge->passed,
		 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno == EAGAIN) {
		wait_for_local(group);
		return false;
	}
	if (n < 0) {
		group_local_failed(group, errno);
		return false;
	}
	merge->passed += (uint32_t)n;
	counter_add(&group->engine->counters.bytes_in, (uint64_t)n);
	if (merge->passed == piece->size)
		serial_done(group);
	group_count(group, (size_t)n);
	return true;
}

static void spend(size_t *budget, size_t n)
{
	if (n < STEP_COST)
		n = STEP_COST;
	*budget -= n < *budget ? n : *budget;
}

/* One step. False if there's nothing to go on with. */
static bool step(struct group *group, size_t *budget)
{
	struct merge *merge = &group->merge;
	const struct gather_piece *piece;
	struct stripe *stripe;
	uint32_t own;
	bool go_on;
	size_t n;

	if (!hold_empty(&merge->hold) && !deliver(group))
		return false;
	if (complete(merge)) {
		end_reached(group);
		return false;
	}
	piece = gather_find(group, merge->due);
	if (piece != NULL)
		return pass_gathered(group, piece);
	stripe = merge->current;
	if (stripe == NULL)
		return false;
	if (*budget == 0) {
		stripe_read_later(stripe);
		return false;
	}
	own = stripe->in.datagram.size - stripe->in.left;
	if (own < merge->passed) {
		spend(budget, 0);
		return catch_up(stripe, merge->passed - own);
	}
	if (stripe->in.left == 0) {
		spend(budget, 0);
		datagram_done(group, stripe);
		return true;
	}
	go_on = move_payload(group, stripe, &n);
	spend(budget, n);
	if (n > 0 && !group->ended)
		group_count(group, n);
	return go_on;
}

void merge_pump(struct group *group)
{
	struct merge *merge = &group->merge;
	size_t budget = MERGE_BUDGET;

	if (merge->pumping || group->ended)
		return;
	if (group->local < 0 || merge->stopped) {
		if (merge->current != NULL)
			ev_io_stop(group->engine->loop, &merge->current->rd);
		return;
	}
	merge->pumping = true;
	while (!group->ended && !merge->stopped && step(group, &budget))
		;
	merge->pumping = false;
}
