/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/sock.h"
#include "role/acceptor.h"
#include "role/greet.h"
#include "role/service.h"

/* Seconds between sweeps for stripes that have waited too long. */
#define SWEEP_INTERVAL 1.

/* Seconds between lines about stripes that were refused. */
#define COMPLAINT_INTERVAL 1.

/* A connection that has not greeted yet. */
struct arrival {
	struct relay *relay;
	struct greet *greet;
	struct peer *peer;
	union addr address;
	LIST_ENTRY(arrival) link;
};

struct relay_front {
	struct acceptor acceptor;
	struct relay *relay;
	LIST_HEAD(, arrival) arrivals;
	ev_timer sweep;
	ev_prepare send_leaving;
	ev_tstamp complained_at;
	unsigned unsaid; /* complaints since then */
	relay_drained *drained;
	void *drained_arg;
};

static void hand_over_base(struct relay *relay, int fd, uint32_t number, const union addr *peer)
{
	struct handover *handover = calloc(1, sizeof(*handover));

	if (handover == NULL) {
		sock_abort(fd);
		return;
	}
	handover->fd = fd;
	handover->number = number;
	handover->peer = *peer;
	team_send(relay->team, team_owner(relay->team, number), handover);
}

/* Anybody may knock as often as he likes, but that must not fill the log. */
static void complain(struct relay_front *front, const union addr *address, const char *why)
{
	ev_tstamp now = ev_now(front->relay->engine->loop);
	char text[ADDR_TEXT];

	if (!clock_is_past(front->complained_at, COMPLAINT_INTERVAL, now)) {
		front->unsaid++;
		return;
	}
	front->complained_at = now;
	log_warnx("stripe from %s refused: %s", addr_format(address, text), why);
	if (front->unsaid > 0)
		log_warnx("%u other stripes were refused since the last such line", front->unsaid);
	front->unsaid = 0;
}

static void on_greeted(void *arg, struct greet *greet, int fd, const struct greet_result *result, const char *why)
{
	struct arrival *arrival = arg;
	struct relay *relay = arrival->relay;
	union addr address = arrival->address;

	(void)greet;
	LIST_REMOVE(arrival, link);
	peer_leave(relay, arrival->peer);
	free(arrival);
	if (result == NULL) {
		counter_add(&relay->engine->counters.greetings_refused, 1);
		complain(relay->front, &address, why);
	} else if (!result->base) {
		guest_new(relay, fd, &address, result);
	} else if (result->number != 0 && team_owner(relay->team, result->number) != relay->index) {
		hand_over_base(relay, fd, result->number, &address);
	} else {
		service_take_base(relay, fd, result->number, &address);
	}
}

static bool begin_greeting(struct relay *relay, int fd, const union addr *address)
{
	const struct relay_settings *settings = relay->settings;
	struct arrival *arrival;

	arrival = calloc(1, sizeof(*arrival));
	if (arrival == NULL)
		return false;
	if (!peer_enter(relay, address, &arrival->peer)) {
		free(arrival);
		return false;
	}
	arrival->relay = relay;
	arrival->address = *address;
	arrival->greet = greet_start(relay->engine->loop, fd, &settings->keys, settings->allow_base,
				     settings->greeting_timeout, on_greeted, arrival);
	if (arrival->greet == NULL) {
		peer_leave(relay, arrival->peer);
		free(arrival);
		return false;
	}
	LIST_INSERT_HEAD(&relay->front->arrivals, arrival, link);
	return true;
}

static void on_accepted(struct acceptor *acceptor, int fd, const union addr *peer)
{
	struct relay_front *front = (struct relay_front *)((char *)acceptor - offsetof(struct relay_front, acceptor));
	struct relay *relay = front->relay;

	sock_tune_stripe(fd, relay->engine->settings.congestion);
	if (begin_greeting(relay, fd, peer))
		return;
	counter_add(&relay->engine->counters.greetings_refused, 1);
	sock_abort(fd);
}

static void on_handover(void *arg, struct handover *handover)
{
	struct relay *relay = arg;

	if (handover->stripe != NULL)
		guest_arrives(relay, handover);
	else
		service_take_base(relay, handover->fd, handover->number, &handover->peer);
	free(handover);
}

static void on_sweep(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct relay *relay = timer->data;

	(void)revents;
	guest_sweep(relay);
	ended_forget(&relay->ended, ev_now(loop) - relay->settings->join_timeout);
}

static void on_prepare(struct ev_loop *loop, ev_prepare *prepare, int revents)
{
	(void)loop;
	(void)revents;
	guest_send_leaving(prepare->data);
}

static void start_watchers(struct relay *relay)
{
	struct relay_front *front = relay->front;

	ev_timer_init(&front->sweep, on_sweep, SWEEP_INTERVAL, SWEEP_INTERVAL);
	ev_prepare_init(&front->send_leaving, on_prepare);
	front->sweep.data = front->send_leaving.data = relay;
	ev_timer_start(relay->engine->loop, &front->sweep);
	ev_prepare_start(relay->engine->loop, &front->send_leaving);
	team_join(relay->team, relay->index, relay->engine->loop, on_handover, relay);
}

struct relay *relay_new(struct engine *engine, const struct relay_settings *settings, struct relay_team *team,
			unsigned index)
{
	struct relay *relay = calloc(1, sizeof(*relay));
	struct relay_front *front = calloc(1, sizeof(*front));
	char text[ADDR_TEXT];

	if (relay == NULL || front == NULL ||
	    acceptor_open(&front->acceptor, engine->loop, &engine->counters, &settings->listen, false) < 0) {
		log_warn("listening on %s", addr_format(&settings->listen, text));
		free(relay);
		free(front);
		return NULL;
	}
	front->acceptor.accepted = on_accepted;
	/* Here already: BBR, where it's the system's default, would make connections pace before they are accepted. */
	sock_begin_congestion(front->acceptor.fd, engine->settings.congestion);
	front->relay = relay;
	LIST_INIT(&front->arrivals);
	relay->engine = engine;
	relay->settings = settings;
	relay->team = team;
	relay->index = index;
	relay->routes = addr_open_routes();
	relay->front = front;
	relay->next_number = index == 0 ? team_size(team) : index;
	TAILQ_INIT(&relay->idle);
	TAILQ_INIT(&relay->held);
	TAILQ_INIT(&relay->services);
	STAILQ_INIT(&relay->leaving);
	start_watchers(relay);
	return relay;
}

void relay_check_drained(struct relay *relay)
{
	struct relay_front *front = relay->front;
	relay_drained *drained = front->drained;

	if (drained == NULL || relay->service_count > 0 || relay->engine->leaving > 0 || !TAILQ_EMPTY(&relay->idle))
		return;
	front->drained = NULL;
	drained(front->drained_arg);
}

/* Nothing new comes in, and what is here without a flow goes. */
static void stop_taking(struct relay *relay)
{
	struct arrival *arrival;

	relay->draining = true;
	acceptor_close(&relay->front->acceptor);
	while ((arrival = LIST_FIRST(&relay->front->arrivals)) != NULL) {
		LIST_REMOVE(arrival, link);
		peer_leave(relay, arrival->peer);
		greet_cancel(arrival->greet);
		free(arrival);
	}
	guest_close_unused(relay);
}

void relay_drain(struct relay *relay, relay_drained *done, void *arg)
{
	stop_taking(relay);
	relay->front->drained = done;
	relay->front->drained_arg = arg;
	relay_check_drained(relay);
}

void relay_abort(struct relay *relay)
{
	struct service *service;

	stop_taking(relay);
	while ((service = TAILQ_FIRST(&relay->services)) != NULL)
		service_abort(service);
	stripe_close_all(relay->engine);
}

void relay_free(struct relay *relay)
{
	relay_abort(relay);
	guest_send_leaving(relay);
	ended_forget(&relay->ended, INFINITY);
	team_leave(relay->team, relay->index);
	ev_timer_stop(relay->engine->loop, &relay->front->sweep);
	ev_prepare_stop(relay->engine->loop, &relay->front->send_leaving);
	if (relay->routes >= 0)
		close(relay->routes);
	free(relay->front);
	free(relay);
}
