/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "net/sock.h"
#include "role/service.h"
#include "wire/bytes.h"

/* Seconds. Addresses of this host come and go. */
#define JUDGED_TIME 1.

/* Seconds that the news of a connection waits for data. */
#define NEWS_WAIT 0.01

bool service_forbidden(const struct relay_settings *settings, int routes, const union addr *destination)
{
	switch (rules_judge(&settings->rules, destination)) {
	case RULES_ALLOW:
		return false;
	case RULES_DENY:
		return true;
	case RULES_NO_MATCH:
		break;
	}
	return addr_is_loopback(destination) || addr_is_link_local(destination) || addr_is_multicast(destination) ||
	       addr_is_unspecified(destination) || addr_is_local(routes, destination);
}

static void tell(const struct service *service, const char *what, const char *more)
{
	char client[ADDR_TEXT] = "unknown", destination[ADDR_TEXT];

	if (service->client.sa.sa_family != AF_UNSPEC)
		addr_format(&service->client, client);
	log_info("flow %u: client %s -> %s: %s%s", service->number, client,
		 addr_format(&service->destination, destination), what, more);
}

static void stop_connecting(struct service *service)
{
	ev_io_stop(service->relay->engine->loop, &service->io);
	ev_timer_stop(service->relay->engine->loop, &service->timer);
}

static void on_ended(struct group *group, enum reason reason)
{
	struct service *service = group->owner;
	struct relay *relay = service->relay;

	stop_connecting(service);
	/* The server may have accepted it already: it must not see a clean end. */
	if (service->fd >= 0)
		sock_abort(service->fd);
	if (log_debugging())
		tell(service, "ended: ", reason == REASON_NONE ? "finished" : reason_text(reason));
	if (!group->base) {
		HASH_DELETE(by_token, relay->by_token, service);
		if (reason == REASON_NONE)
			ended_note(&relay->ended, service->token, service->key_id, service->number, ev_now(relay->engine->loop));
	}
	HASH_DELETE(by_number, relay->by_number, service);
	TAILQ_REMOVE(&relay->services, service, link);
	relay->service_count--;
	engine_bury(relay->engine, &service->grave);
	relay_check_drained(relay);
}

/* The server decides how much there is to say; stripes are the proxy's to add. */
static void on_grow(struct group *group)
{
	(void)group;
}

static const struct group_ops group_ops = {.ended = on_ended, .grow = on_grow};

static void tell_proxy(struct service *service, const struct control *control)
{
	struct stripe *stripe;

	if (service->group->base)
		return;
	TAILQ_FOREACH(stripe, &service->group->stripes, group_link) {
		if (stripe->detach_sent)
			continue;
		stripe_send(stripe, control);
		return;
	}
}

static void connect_failed(struct service *service, int error)
{
	enum reason reason;

	switch (error) {
	case ECONNREFUSED:
		reason = REASON_REFUSED;
		break;
	case ETIMEDOUT:
		reason = REASON_TIMED_OUT;
		break;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
	case EADDRNOTAVAIL:
		reason = REASON_OVERLOADED;
		break;
	default:
		reason = REASON_UNREACHABLE;
	}
	tell(service, "server: ", strerror(error));
	tell_proxy(service, &(struct control){.type = CONTROL_FAILED, .reason = reason});
	group_end(service->group, GROUP_REFUSE, reason);
}

static void on_connect_timeout(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	connect_failed(timer->data, ETIMEDOUT);
}

/* What may still wait on the first stripe comes before what others carry. */
static void flush_opener(struct service *service)
{
	struct stripe *opener = TAILQ_FIRST(&service->group->stripes);

	if (opener != NULL)
		stripe_flush(opener);
}

/* The server hasn't said anything yet that the news could go out with. */
static void on_news_wait(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	flush_opener(timer->data);
}

/* Number and Connected, of which the proxy is in no hurry to hear: they wait a little for data of the server's. */
static void tell_connected(struct service *service)
{
	const struct control connected = {.type = CONTROL_CONNECTED};
	struct group *group = service->group;

	if (group->base || group->stripe_count != 1 || !stripe_queue(TAILQ_FIRST(&group->stripes), &connected)) {
		tell_proxy(service, &connected);
		return;
	}
	ev_set_cb(&service->timer, on_news_wait);
	ev_timer_set(&service->timer, NEWS_WAIT, 0.);
	ev_timer_start(service->relay->engine->loop, &service->timer);
}

static void on_connected(struct ev_loop *loop, ev_io *io, int revents)
{
	struct service *service = io->data;
	struct group *group = service->group;
	int error = sock_error(service->fd);
	int fd = service->fd;

	(void)loop;
	(void)revents;
	/* A server that resets at once has been connected all the same, and may have said something before. */
	if (error != 0 && error != ECONNRESET) {
		connect_failed(service, error);
		return;
	}
	stop_connecting(service);
	service->fd = -1;
	group_set_local(group, fd);
	if (!group->ended)
		tell_connected(service);
	if (error != 0)
		group_local_failed(group, error);
	else
		group_check_done(group);
}

static void start_connecting(struct service *service)
{
	struct ev_loop *loop = service->relay->engine->loop;
	const struct stripe *opener = TAILQ_FIRST(&service->group->stripes);

	service->fd = sock_connect(&service->destination, NULL, stripe_data_is_next(opener));
	if (service->fd < 0) {
		connect_failed(service, errno);
		return;
	}
	ev_io_init(&service->io, on_connected, service->fd, EV_WRITE);
	ev_timer_init(&service->timer, on_connect_timeout, service->relay->settings->connect_timeout, 0.);
	service->io.data = service->timer.data = service;
	ev_now_update(loop);
	ev_io_start(loop, &service->io);
	ev_timer_start(loop, &service->timer);
}

/* Numbers below EXTENSION_FIRST, not 0, that say which worker owns the group: base stripes find it by them. */
static uint32_t pick_number(struct relay *relay)
{
	const uint32_t size = team_size(relay->team);
	struct service *other;
	uint32_t number;

	do {
		number = relay->next_number;
		relay->next_number += size;
		if (relay->next_number >= EXTENSION_FIRST)
			relay->next_number = relay->index == 0 ? size : relay->index;
		HASH_FIND(by_number, relay->by_number, &number, sizeof(number), other);
	} while (other != NULL);
	return number;
}

static struct service *service_new(struct relay *relay, bool base)
{
	struct service *service = calloc(1, sizeof(*service));

	if (service == NULL)
		return NULL;
	service->group = group_new(relay->engine, base, &group_ops, service);
	if (service->group == NULL) {
		free(service);
		return NULL;
	}
	service->relay = relay;
	service->fd = -1;
	service->number = service->group->number = pick_number(relay);
	HASH_ADD(by_number, relay->by_number, number, sizeof(service->number), service);
	TAILQ_INSERT_TAIL(&relay->services, service, link);
	relay->service_count++;
	counter_add(&relay->engine->counters.flows_total, 1);
	return service;
}

void service_abort(struct service *service)
{
	group_end(service->group, GROUP_ABORT, REASON_SHUTDOWN);
}

/* number: of the group, if it has just ended; else 0. */
static void turn_away(struct stripe *stripe, uint32_t number, enum reason reason)
{
	stripe_send(stripe, &(struct control){.type = CONTROL_NUMBER, .number = {.number = number, .reason = reason}});
	if (!stripe->closed)
		stripe_leave(stripe, 0.);
}

void service_refuse(struct stripe *stripe, enum reason reason)
{
	turn_away(stripe, 0, reason);
}

/* The answer to Open can wait for what comes of connecting, and goes out with it; the one to Join goes at once. */
static void bind_stripe(struct service *service, struct stripe *stripe, bool at_once)
{
	const struct control number = {.type = CONTROL_NUMBER, .number = {.number = service->number}};

	if (!at_once && stripe_queue(stripe, &number)) {
		group_add(service->group, stripe, NULL);
		return;
	}
	flush_opener(service);
	if (!service->group->ended)
		group_add(service->group, stripe, &number);
	else
		service_refuse(stripe, REASON_NO_GROUP);
}

/* The Joins that were faster than their Open. service NULL: it was refused. */
static void settle_held(struct relay *relay, const uint8_t token[TOKEN_SIZE], struct service *service, enum reason reason)
{
	struct stripe *stripe, *next;
	struct guest *guest;

	for (stripe = TAILQ_FIRST(&relay->held); stripe != NULL; stripe = next) {
		next = TAILQ_NEXT(stripe, role_link);
		guest = stripe->owner;
		if (memcmp(guest->token, token, TOKEN_SIZE) != 0)
			continue;
		guest_list(stripe, NULL);
		if (service != NULL && !service->group->ended &&
		    memcmp(guest->key_id, service->key_id, KEY_ID_SIZE) == 0)
			bind_stripe(service, stripe, true);
		else
			service_refuse(stripe, service == NULL ? reason : REASON_NO_GROUP);
	}
}

static struct service *find_token(struct relay *relay, const uint8_t token[TOKEN_SIZE])
{
	struct service *service;

	HASH_FIND(by_token, relay->by_token, token, TOKEN_SIZE, service);
	return service;
}

/* Flows to one server often come together: what was found for it a moment ago still holds. */
static bool is_forbidden(struct relay *relay, const union addr *destination)
{
	ev_tstamp now = ev_now(relay->engine->loop);

	if (now >= relay->judged_at && now - relay->judged_at < JUDGED_TIME && addr_equal(&relay->judged, destination))
		return relay->judged_forbidden;
	relay->judged = *destination;
	relay->judged_forbidden = service_forbidden(relay->settings, relay->routes, destination);
	relay->judged_at = now;
	return relay->judged_forbidden;
}

static void refuse_open(struct relay *relay, struct stripe *stripe, const struct control *open, enum reason reason)
{
	char client[ADDR_TEXT], destination[ADDR_TEXT];

	log_warnx("client %s -> %s: refused: %s", addr_format(&open->open.client, client),
		  addr_format(&open->open.destination, destination), reason_text(reason));
	counter_add(&relay->engine->counters.flows_refused, 1);
	service_refuse(stripe, reason);
	settle_held(relay, open->open.token, NULL, reason);
}

bool service_open(struct relay *relay, struct stripe *stripe, const struct control *open)
{
	struct guest *guest = stripe->owner;
	struct service *service;
	union addr destination = open->open.destination;

	if (find_token(relay, open->open.token) != NULL)
		return false;
	guest_list(stripe, NULL);
	/* ::ffff:127.0.0.1 is 127.0.0.1 to the kernel, and so it must be to the rules. */
	addr_unmap(&destination);
	service = NULL;
	if (relay->draining) {
		refuse_open(relay, stripe, open, REASON_SHUTDOWN);
	} else if (is_forbidden(relay, &destination)) {
		refuse_open(relay, stripe, open, REASON_FORBIDDEN);
	} else if (relay->service_count >= relay->settings->max_groups ||
		   (service = service_new(relay, false)) == NULL) {
		refuse_open(relay, stripe, open, REASON_OVERLOADED);
	}
	if (service == NULL)
		return true;
	memcpy(service->token, open->open.token, TOKEN_SIZE);
	memcpy(service->key_id, guest->key_id, KEY_ID_SIZE);
	service->client = open->open.client;
	service->destination = destination;
	HASH_ADD(by_token, relay->by_token, token, TOKEN_SIZE, service);
	if (log_debugging())
		tell(service, "opened", "");
	bind_stripe(service, stripe, false);
	settle_held(relay, service->token, service, REASON_NONE);
	if (!service->group->ended)
		start_connecting(service);
	return true;
}

void service_join(struct relay *relay, struct stripe *stripe, const struct control *join)
{
	struct guest *guest = stripe->owner;
	struct service *service = find_token(relay, join->join.token);
	uint32_t ended = service == NULL ? ended_number(relay->ended, join->join.token, guest->key_id) : 0;

	if (service == NULL && ended == 0) {
		memcpy(guest->token, join->join.token, TOKEN_SIZE);
		stripe_hold(stripe);
		guest_list(stripe, &relay->held);
		stripe_read_later(stripe);
		return;
	}
	guest_list(stripe, NULL);
	if (service == NULL)
		turn_away(stripe, ended, REASON_NONE);
	else if (memcmp(guest->key_id, service->key_id, KEY_ID_SIZE) == 0)
		bind_stripe(service, stripe, true);
	else
		service_refuse(stripe, REASON_NO_GROUP);
}

static void base_closed(struct stripe *stripe, const char *why)
{
	(void)why;
	guest_free(stripe->owner);
}

static const struct stripe_ops base_ops = {.control = stripe_refuse_control, .idle = stripe_end_idle, .closed = base_closed};

/* A base stripe of a group: answers with the number. NULL if it can't be. */
static struct stripe *make_base_stripe(struct relay *relay, int fd, uint32_t number, const union addr *peer)
{
	static const uint8_t no_key[KEY_ID_SIZE];
	struct guest *guest = guest_make(relay, peer, no_key);
	struct stripe *stripe = NULL;
	uint8_t answer[4];

	if (guest == NULL)
		return NULL;
	put_u32(answer, number);
	if (send(fd, answer, sizeof(answer), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(answer))
		stripe = stripe_new(relay->engine, fd, true, &base_ops, guest);
	if (stripe == NULL)
		guest_free(guest);
	return stripe;
}

void service_take_base(struct relay *relay, int fd, uint32_t number, const union addr *peer)
{
	struct service *service = NULL;
	struct stripe *stripe;

	if (number != 0)
		HASH_FIND(by_number, relay->by_number, &number, sizeof(number), service);
	else if (!relay->draining && relay->service_count < relay->settings->max_groups)
		service = service_new(relay, true);
	if (service == NULL || !service->group->base) {
		close(fd);
		return;
	}
	stripe = make_base_stripe(relay, fd, service->number, peer);
	if (stripe == NULL) {
		sock_abort(fd);
		group_end(service->group, GROUP_ABORT, REASON_STRIPE_LOST);
		return;
	}
	group_add(service->group, stripe, NULL);
	if (number != 0 || service->group->ended)
		return;
	service->destination = relay->settings->server;
	start_connecting(service);
}
