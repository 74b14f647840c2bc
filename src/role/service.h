/* SPDX-License-Identifier: ISC */
#ifndef ROLE_SERVICE_H
#define ROLE_SERVICE_H

#include <sys/queue.h>
#include <uthash.h>

#include "core/group.h"
#include "role/ended.h"
#include "role/greet.h"
#include "role/relay.h"
#include "role/team.h"

/* How many stripes a peer has. */
struct peer {
	uint8_t address[16];
	unsigned stripes;
	UT_hash_handle hh;
};

/* What the relay knows of an extended stripe: its owner. */
struct guest {
	struct relay *relay;
	struct stripe *stripe;
	struct peer *peer;
	uint8_t key_id[KEY_ID_SIZE];
	uint8_t token[TOKEN_SIZE]; /* of the group it waits for, while held */
	struct stripe_list *list;  /* idle, held, or NULL */
	bool asked;		   /* since it became idle, whether its peer has read all: with a Ping */
	struct handover *leaving;  /* not NULL: it goes to another worker when this one's loop comes round */
};

/* A group and its way to the server. */
struct service {
	struct grave grave;
	struct relay *relay;
	struct group *group;
	uint8_t token[TOKEN_SIZE];
	uint8_t key_id[KEY_ID_SIZE];
	uint32_t number;
	union addr client; /* AF_UNSPEC in the base protocol, which doesn't tell */
	union addr destination;
	int fd; /* being connected */
	ev_io io;
	ev_timer timer;
	UT_hash_handle by_token, by_number;
	TAILQ_ENTRY(service) link;
};

TAILQ_HEAD(service_list, service);
STAILQ_HEAD(leaving_list, handover);

/* The workings of a relay, which relay.c, guest.c and service.c share. */
struct relay {
	struct engine *engine;
	const struct relay_settings *settings;
	struct relay_team *team;
	unsigned index;
	int routes; /* to ask whether a destination is this host itself */
	union addr judged; /* the last destination, by service_forbidden() */
	bool judged_forbidden;
	ev_tstamp judged_at;
	struct relay_front *front; /* relay.c's own */
	struct stripe_list idle, held; /* the oldest first */
	struct leaving_list leaving;
	struct peer *peers;
	unsigned stripe_count;
	struct service *by_token, *by_number;
	struct ended *ended;
	struct service_list services;
	unsigned service_count;
	uint32_t next_number;
	bool draining;
};

/* Opens a group with its first stripe. False: out of place. */
bool service_open(struct relay *relay, struct stripe *stripe, const struct control *open);

/* Binds a stripe to its group, or holds it until there's one. If the group has just ended the stripe leaves it at once. */
void service_join(struct relay *relay, struct stripe *stripe, const struct control *join);

/* The same in the base protocol: number 0 opens. Takes over fd. */
void service_take_base(struct relay *relay, int fd, uint32_t number, const union addr *peer);

/* Turns away a stripe that asked for a group. */
void service_refuse(struct stripe *stripe, enum reason reason);

/* True if the rules, or the default ones, forbid to connect there. routes: as for addr_is_local(). */
bool service_forbidden(const struct relay_settings *settings, int routes, const union addr *destination);

void service_abort(struct service *service);

/* Takes over fd, greeted by peer in the extended protocol. */
void guest_new(struct relay *relay, int fd, const union addr *peer, const struct greet_result *greeted);

/* The record of a stripe from this address, counted within the limits; NULL if they're reached. And its end. */
struct guest *guest_make(struct relay *relay, const union addr *address, const uint8_t key_id[KEY_ID_SIZE]);
void guest_free(struct guest *guest);

/* A stripe comes from another worker. */
void guest_arrives(struct relay *relay, struct handover *handover);

/* Puts it at the end of one of the relay's lists, or (NULL) of none. */
void guest_list(struct stripe *stripe, struct stripe_list *list);

/* Closes what has been idle, or held, for too long, and when the relay is being stopped what is idle. */
void guest_sweep(struct relay *relay);

/* Closes the idle ones that have nothing more to send. */
void guest_close_unused(struct relay *relay);

/* Peers' counts. False: the peer, or all together, have as many as they may have. */
bool peer_enter(struct relay *relay, const union addr *address, struct peer **peer);
void peer_leave(struct relay *relay, struct peer *peer);

/* Gives what is in relay->leaving to its new workers. */
void guest_send_leaving(struct relay *relay);

/* Something that draining waits for has gone. Implemented by relay.c. */
void relay_check_drained(struct relay *relay);

#endif
