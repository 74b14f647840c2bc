/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "role/supply.h"

#define DIALS_MAX 1024

/* Seconds. An idle stripe is given up well before the relay's own limit, so that the two ends don't part while it's being used. */
#define TICK 1.
#define IDLE_MAX 300.
#define PING_INTERVAL 20.
#define BACKOFF_FIRST 1.
#define BACKOFF_MAX 10.
#define COMPLAINT_INTERVAL 60.

struct dial_entry {
	struct supply *supply;
	struct dial *dial;
	uint64_t number;
	TAILQ_ENTRY(dial_entry) link;
};

struct supply {
	struct engine *engine;
	struct dial_plan plan;
	const struct stripe_ops *ops;
	void *owner;
	unsigned min, max;
	struct stripe_list idle; /* the warmest first */
	unsigned ready;
	TAILQ_HEAD(, dial_entry) dials; /* the oldest first */
	unsigned dialling;
	uint64_t begun;	   /* dials, so far */
	uint64_t answered; /* those that had been begun when the relay last answered */
	TAILQ_HEAD(, supply_wish) wishes;
	unsigned missing; /* of all wishes */
	ev_timer tick;
	ev_timer pause; /* runs until the relay is tried again; the time of day may be set back meanwhile */
	ev_tstamp ticked_at, backoff, complained_at;
	bool stopped;
};

static void dialled(void *arg, struct dial *dial, int fd, const struct dial_result *result, const char *why);

static void complain(struct supply *supply, const char *why)
{
	ev_tstamp now = ev_now(supply->engine->loop);
	char text[ADDR_TEXT];

	counter_add(&supply->engine->counters.stripes_failed, 1);
	/* Dials that were begun together fail together: that counts once. */
	if (!ev_is_active(&supply->pause)) {
		supply->backoff = supply->backoff == 0. ? BACKOFF_FIRST : supply->backoff * 2.;
		if (supply->backoff > BACKOFF_MAX)
			supply->backoff = BACKOFF_MAX;
		ev_timer_set(&supply->pause, supply->backoff, 0.);
		ev_timer_start(supply->engine->loop, &supply->pause);
	}
	if (supply->complained_at != 0. && !clock_is_past(supply->complained_at, COMPLAINT_INTERVAL, now))
		return;
	supply->complained_at = now;
	log_warnx("relay %s: %s", addr_format(supply->plan.relay, text), why);
}

static void content(struct supply *supply)
{
	char text[ADDR_TEXT];

	supply->backoff = 0.;
	if (supply->complained_at == 0.)
		return;
	supply->complained_at = 0.;
	log_info("relay %s: answers again", addr_format(supply->plan.relay, text));
}

/* False if none can be begun now. */
static bool dial_one(struct supply *supply)
{
	struct dial_entry *entry;

	if (supply->dialling >= DIALS_MAX)
		return false;
	entry = malloc(sizeof(*entry));
	if (entry == NULL)
		return false;
	entry->supply = supply;
	entry->dial = dial_start(supply->engine->loop, &supply->plan, dialled, entry);
	if (entry->dial == NULL) {
		complain(supply, strerror(errno));
		free(entry);
		return false;
	}
	entry->number = ++supply->begun;
	TAILQ_INSERT_TAIL(&supply->dials, entry, link);
	supply->dialling++;
	return true;
}

/* Where dials don't cover what is wished for, more are begun. */
static void cover(struct supply *supply)
{
	unsigned wanted = supply->missing;
	bool try_it = !supply->stopped && !ev_is_active(&supply->pause);

	if (try_it && supply->ready < supply->min)
		wanted += supply->min - supply->ready;
	/* While the relay is away no flows come to try it: the firewall lets them go direct. */
	if (try_it && wanted == 0 && !supply_hopeful(supply))
		wanted = 1;
	while (supply->dialling < wanted && dial_one(supply))
		;
}

/* All dials are over that had been begun when it was made, and when the relay last answered. Others may be under way all the time, for flows that came later. */
static bool is_hopeless(const struct supply *supply, const struct supply_wish *wish)
{
	const struct dial_entry *oldest = TAILQ_FIRST(&supply->dials);

	return oldest == NULL || (wish->tries < oldest->number && supply->answered < oldest->number);
}

static struct supply_wish *hopeless(const struct supply *supply)
{
	struct supply_wish *wish;

	TAILQ_FOREACH(wish, &supply->wishes, link) {
		if (is_hopeless(supply, wish))
			return wish;
	}
	return NULL;
}

/* Of those whose dials have failed, flows without any stripe are told, the others make do with what they have. */
static void disappoint(struct supply *supply, const char *why)
{
	struct supply_wish *wish;

	while ((wish = hopeless(supply)) != NULL) {
		/* The relay has answered since, so those that are under way may well be answered, too. */
		if (supply->dialling > 0 && supply->answered >= wish->tries) {
			wish->tries = supply->begun;
			continue;
		}
		supply_withdraw(supply, wish);
		if (!wish->has_any)
			wish->failed(wish, why);
	}
}

/* The wish that is served next: a flow that has none before one that wants more. */
static struct supply_wish *neediest(struct supply *supply)
{
	struct supply_wish *wish;

	TAILQ_FOREACH(wish, &supply->wishes, link) {
		if (!wish->has_any)
			return wish;
	}
	return TAILQ_FIRST(&supply->wishes);
}

static void serve(struct supply *supply, struct supply_wish *wish, struct stripe *stripe)
{
	supply->missing--;
	if (--wish->missing == 0)
		TAILQ_REMOVE(&supply->wishes, wish, link);
	wish->has_any = true;
	wish->take(wish, stripe);
}

static void unlist(struct supply *supply, struct stripe *stripe)
{
	TAILQ_REMOVE(&supply->idle, stripe, role_link);
	stripe->role_time = 0.;
	supply->ready--;
}

/* The loop may not have come round yet to tell that the relay has closed it. */
static bool alive(const struct stripe *stripe)
{
	uint8_t byte;
	ssize_t n = recv(stripe->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n > 0 || (n < 0 && errno == EAGAIN);
}

void supply_put(struct supply *supply, struct stripe *stripe)
{
	struct supply_wish *wish = neediest(supply);

	if (wish != NULL) {
		serve(supply, wish, stripe);
	} else if (supply->stopped || supply->ready >= supply->max) {
		stripe_drop(stripe, true);
	} else {
		stripe->role_time = ev_now(supply->engine->loop);
		TAILQ_INSERT_HEAD(&supply->idle, stripe, role_link);
		supply->ready++;
	}
}

void supply_replace(struct supply *supply, struct stripe *stripe)
{
	counter_add(&supply->engine->counters.stripes_worn, 1);
	stripe_drop(stripe, true);
	cover(supply);
}

void supply_forget(struct supply *supply, struct stripe *stripe)
{
	if (stripe->role_time != 0.)
		unlist(supply, stripe);
}

static void dialled(void *arg, struct dial *dial, int fd, const struct dial_result *result, const char *why)
{
	struct dial_entry *entry = arg;
	struct supply *supply = entry->supply;
	struct stripe *stripe;

	(void)dial;
	TAILQ_REMOVE(&supply->dials, entry, link);
	supply->dialling--;
	free(entry);
	if (fd < 0) {
		complain(supply, why);
		disappoint(supply, why);
		return;
	}
	content(supply);
	stripe = stripe_new(supply->engine, fd, false, supply->ops, supply->owner);
	if (stripe == NULL) {
		log_warn("making a stripe");
		sock_abort(fd);
		disappoint(supply, "out of memory");
		return;
	}
	stripe->parity = (result->features & FEATURE_PARITY) != 0;
	supply_put(supply, stripe);
	cover(supply);
	supply->answered = supply->begun;
	disappoint(supply, "no connection could be begun");
}

static void on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	cover(timer->data);
}

/* True if a multiple of PING_INTERVAL since the stripe became idle lies between two ticks. */
static bool is_due(ev_tstamp idle_since, ev_tstamp before, ev_tstamp now)
{
	return (unsigned)((now - idle_since) / PING_INTERVAL) > (unsigned)((before - idle_since) / PING_INTERVAL);
}

static void on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct supply *supply = timer->data;
	ev_tstamp now = ev_now(loop);
	struct stripe *stripe, *before;

	(void)revents;
	for (stripe = TAILQ_LAST(&supply->idle, stripe_list); stripe != NULL; stripe = before) {
		before = TAILQ_PREV(stripe, stripe_list, role_link);
		/* The time of day was set back. */
		if (stripe->role_time > now)
			stripe->role_time = now;
		if (now - stripe->role_time < PING_INTERVAL)
			continue;
		if (now - stripe->role_time > IDLE_MAX) {
			unlist(supply, stripe);
			stripe_drop(stripe, true);
		} else if (is_due(stripe->role_time, supply->ticked_at, now)) {
			/* Keeps the NAT bindings of the way alive, and finds out when the other end has gone. */
			stripe_send(stripe, &(struct control){.type = CONTROL_PING});
		}
	}
	supply->ticked_at = now;
	cover(supply);
}

struct supply *supply_new(struct engine *engine, const struct dial_plan *plan, unsigned min, unsigned max,
			  const struct stripe_ops *ops, void *owner)
{
	struct supply *supply = calloc(1, sizeof(*supply));

	if (supply == NULL)
		return NULL;
	supply->engine = engine;
	supply->plan = *plan;
	supply->min = min;
	supply->max = max;
	supply->ops = ops;
	supply->owner = owner;
	TAILQ_INIT(&supply->idle);
	TAILQ_INIT(&supply->dials);
	TAILQ_INIT(&supply->wishes);
	ev_timer_init(&supply->tick, on_tick, 0., TICK);
	ev_timer_init(&supply->pause, on_pause_over, 0., 0.);
	supply->tick.data = supply->pause.data = supply;
	return supply;
}

void supply_start(struct supply *supply)
{
	ev_timer_start(supply->engine->loop, &supply->tick);
}

void supply_drop_idle(struct supply *supply)
{
	struct stripe *stripe;

	while ((stripe = TAILQ_FIRST(&supply->idle)) != NULL) {
		unlist(supply, stripe);
		stripe_drop(stripe, true);
	}
}

void supply_stop(struct supply *supply)
{
	supply->stopped = true;
	ev_timer_stop(supply->engine->loop, &supply->tick);
	ev_timer_stop(supply->engine->loop, &supply->pause);
	supply_drop_idle(supply);
}

void supply_free(struct supply *supply)
{
	struct dial_entry *entry;

	supply_stop(supply);
	while ((entry = TAILQ_FIRST(&supply->dials)) != NULL) {
		TAILQ_REMOVE(&supply->dials, entry, link);
		dial_cancel(entry->dial);
		free(entry);
	}
	free(supply);
}

bool supply_hopeful(const struct supply *supply)
{
	return supply->backoff == 0.;
}

unsigned supply_ready(const struct supply *supply)
{
	return supply->ready;
}

void supply_ask(struct supply *supply, struct supply_wish *wish, unsigned n)
{
	struct stripe *stripe;

	if (n == 0)
		return;
	if (wish->missing == 0)
		TAILQ_INSERT_TAIL(&supply->wishes, wish, link);
	wish->missing += n;
	supply->missing += n;
	while (wish->missing > 0 && (stripe = TAILQ_FIRST(&supply->idle)) != NULL) {
		unlist(supply, stripe);
		if (!alive(stripe)) {
			stripe_drop(stripe, true);
			continue;
		}
		counter_add(&supply->engine->counters.stripes_reused, 1);
		serve(supply, wish, stripe);
	}
	cover(supply);
	wish->tries = supply->begun;
	disappoint(supply, "no connection could be begun");
}

void supply_withdraw(struct supply *supply, struct supply_wish *wish)
{
	supply_lower(supply, wish, wish->missing);
}

void supply_lower(struct supply *supply, struct supply_wish *wish, unsigned n)
{
	if (n == 0)
		return;
	supply->missing -= n;
	wish->missing -= n;
	if (wish->missing == 0)
		TAILQ_REMOVE(&supply->wishes, wish, link);
}
