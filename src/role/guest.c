/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "net/sock.h"
#include "role/service.h"
#include "wire/bytes.h"

bool peer_enter(struct relay *relay, const union addr *address, struct peer **found)
{
	uint8_t key[16] = {0};
	struct peer *peer;

	if (relay->stripe_count >= relay->settings->max_stripes)
		return false;
	if (address->sa.sa_family == AF_INET6)
		memcpy(key, &address->in6.sin6_addr, sizeof(key));
	else
		memcpy(key, &address->in.sin_addr, sizeof(address->in.sin_addr));
	HASH_FIND(hh, relay->peers, key, sizeof(key), peer);
	if (peer == NULL) {
		peer = calloc(1, sizeof(*peer));
		if (peer == NULL)
			return false;
		memcpy(peer->address, key, sizeof(key));
		HASH_ADD(hh, relay->peers, address, sizeof(key), peer);
	}
	if (peer->stripes >= relay->settings->max_stripes_per_peer)
		return false;
	peer->stripes++;
	relay->stripe_count++;
	*found = peer;
	return true;
}

void peer_leave(struct relay *relay, struct peer *peer)
{
	relay->stripe_count--;
	if (--peer->stripes > 0)
		return;
	HASH_DEL(relay->peers, peer);
	free(peer);
}

void guest_list(struct stripe *stripe, struct stripe_list *list)
{
	struct guest *guest = stripe->owner;

	if (guest->list != NULL)
		TAILQ_REMOVE(guest->list, stripe, role_link);
	guest->list = list;
	if (list == NULL)
		return;
	stripe->role_time = ev_now(stripe->engine->loop);
	TAILQ_INSERT_TAIL(list, stripe, role_link);
}

/*
 * False if its peer may have yet to read what it carries, as when a client pauses, and the proxy has given back all stripes but one. That the peer's kernel has
 * acknowledged all doesn't mean that it was read: when the stripe is closed that is lost, as soon as the peer's kernel finds out that ours has forgotten it.
 */
static bool is_unused(struct stripe *stripe)
{
	struct guest *guest = stripe->owner;

	if (!stripe_flush(stripe))
		return false;
	if (!stripe->unheard)
		return true;
	if (!guest->asked) {
		guest->asked = true;
		stripe_send(stripe, &(struct control){.type = CONTROL_PING});
	}
	return false;
}

static void close_unused(struct stripe *stripe)
{
	if (is_unused(stripe))
		stripe_close(stripe, true, "the relay is being stopped");
}

void guest_close_unused(struct relay *relay)
{
	struct stripe *stripe, *next;

	for (stripe = TAILQ_FIRST(&relay->idle); stripe != NULL; stripe = next) {
		next = TAILQ_NEXT(stripe, role_link);
		close_unused(stripe);
	}
}

static void on_idle(struct stripe *stripe)
{
	struct guest *guest = stripe->owner;
	struct relay *relay = guest->relay;

	guest->asked = false;
	guest_list(stripe, &relay->idle);
	if (relay->draining)
		close_unused(stripe);
	relay_check_drained(relay);
}

static void on_heard(struct stripe *stripe)
{
	if (((struct guest *)stripe->owner)->relay->draining)
		close_unused(stripe);
}

void guest_free(struct guest *guest)
{
	struct relay *relay = guest->relay;

	if (guest->leaving != NULL) {
		STAILQ_REMOVE(&relay->leaving, guest->leaving, handover, link);
		free(guest->leaving);
	}
	peer_leave(relay, guest->peer);
	free(guest);
}

static void on_closed(struct stripe *stripe, const char *why)
{
	struct relay *relay = ((struct guest *)stripe->owner)->relay;

	(void)why;
	guest_list(stripe, NULL);
	guest_free(stripe->owner);
	relay_check_drained(relay);
}

/* The stripe is still read by our caller, so it goes only when the loop comes round: guest_send_leaving(). */
static bool hand_over(struct stripe *stripe, const struct control *control)
{
	struct guest *guest = stripe->owner;
	struct handover *handover = calloc(1, sizeof(*handover));

	if (handover == NULL)
		return false;
	handover->stripe = stripe;
	handover->control = *control;
	memcpy(handover->key_id, guest->key_id, KEY_ID_SIZE);
	guest_list(stripe, NULL);
	guest->leaving = handover;
	stripe_hold(stripe);
	stripe_park(stripe);
	STAILQ_INSERT_TAIL(&guest->relay->leaving, handover, link);
	return true;
}

static bool take_request(struct relay *relay, struct stripe *stripe, const struct control *control)
{
	if (control->type == CONTROL_OPEN)
		return service_open(relay, stripe, control);
	service_join(relay, stripe, control);
	return true;
}

static bool on_control(struct stripe *stripe, const struct control *control)
{
	struct relay *relay = ((struct guest *)stripe->owner)->relay;
	const uint8_t *token;

	if (control->type == CONTROL_OPEN)
		token = control->open.token;
	else if (control->type == CONTROL_JOIN)
		token = control->join.token;
	else
		return false;
	if (team_owner(relay->team, get_u32(token)) != relay->index)
		return hand_over(stripe, control);
	return take_request(relay, stripe, control);
}

static const struct stripe_ops guest_ops = {.control = on_control, .idle = on_idle, .heard = on_heard, .closed = on_closed};

struct guest *guest_make(struct relay *relay, const union addr *address, const uint8_t key_id[KEY_ID_SIZE])
{
	struct guest *guest = calloc(1, sizeof(*guest));

	if (guest == NULL)
		return NULL;
	if (!peer_enter(relay, address, &guest->peer)) {
		free(guest);
		return NULL;
	}
	guest->relay = relay;
	memcpy(guest->key_id, key_id, KEY_ID_SIZE);
	return guest;
}

void guest_new(struct relay *relay, int fd, const union addr *peer, const struct greet_result *greeted)
{
	struct guest *guest = guest_make(relay, peer, greeted->key_id);

	if (guest != NULL)
		guest->stripe = stripe_new(relay->engine, fd, false, &guest_ops, guest);
	if (guest == NULL || guest->stripe == NULL) {
		log_warn("making a stripe");
		sock_abort(fd);
		if (guest != NULL)
			guest_free(guest);
		return;
	}
	guest->stripe->parity = (greeted->features & FEATURE_PARITY) != 0;
	guest_list(guest->stripe, &relay->idle);
}

void guest_arrives(struct relay *relay, struct handover *handover)
{
	struct stripe *stripe = handover->stripe;
	struct guest *guest = guest_make(relay, &handover->peer, handover->key_id);

	if (guest == NULL) {
		stripe_throw_away(stripe);
		return;
	}
	guest->stripe = stripe;
	if (stripe_adopt(stripe, relay->engine, guest) < 0) {
		log_warn("taking over a stripe");
		guest_free(guest);
		return;
	}
	stripe->in.parked = false;
	if (!take_request(relay, stripe, &handover->control))
		stripe_close(stripe, false, "Open of a group that is open");
}

/* After this the stripe is another thread's. */
static void send_away(struct relay *relay, struct handover *handover)
{
	struct stripe *stripe = handover->stripe;
	struct guest *guest = stripe->owner;
	const struct control *control = &handover->control;
	const uint8_t *token = control->type == CONTROL_OPEN ? control->open.token : control->join.token;

	if (sock_peer(stripe->fd, &handover->peer) < 0)
		handover->peer.sa.sa_family = AF_INET;
	stripe_give_up(stripe);
	guest->leaving = NULL;
	guest_free(guest);
	team_send(relay->team, team_owner(relay->team, get_u32(token)), handover);
}

void guest_send_leaving(struct relay *relay)
{
	struct handover *handover;

	while ((handover = STAILQ_FIRST(&relay->leaving)) != NULL) {
		STAILQ_REMOVE_HEAD(&relay->leaving, link);
		send_away(relay, handover);
	}
}

/* The time of day may have been set back. */
static void catch_up(struct stripe_list *list, ev_tstamp now)
{
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, list, role_link) {
		if (stripe->role_time > now)
			stripe->role_time = now;
	}
}

static void close_idle(struct relay *relay, struct stripe *stripe)
{
	if (is_unused(stripe))
		stripe_close(stripe, true, "idle for too long");
	else if (!stripe->closed)
		guest_list(stripe, &relay->idle);
}

void guest_sweep(struct relay *relay)
{
	ev_tstamp now = ev_now(relay->engine->loop);
	struct stripe *stripe;

	catch_up(&relay->held, now);
	catch_up(&relay->idle, now);
	while ((stripe = TAILQ_FIRST(&relay->held)) != NULL &&
	       now - stripe->role_time > relay->settings->join_timeout) {
		guest_list(stripe, NULL);
		service_refuse(stripe, REASON_NO_GROUP);
	}
	while ((stripe = TAILQ_FIRST(&relay->idle)) != NULL &&
	       now - stripe->role_time > relay->settings->idle_timeout)
		close_idle(relay, stripe);
	if (relay->draining)
		guest_close_unused(relay);
}
