/* SPDX-License-Identifier: ISC */
#ifndef ROLE_TEAM_H
#define ROLE_TEAM_H

#include <ev.h>
#include <sys/queue.h>

#include "core/stripe.h"
#include "role/relay.h"

/*
 * A stripe on its way to the worker that owns its group: the first four bytes of the token, or the base protocol's connection number, modulo the size
 * of the team say which. So no worker needs to see what another has.
 */
struct handover {
	STAILQ_ENTRY(handover) link;
	struct stripe *stripe; /* given up; extended */
	struct control control; /* the Open or Join that it brought */
	uint8_t key_id[KEY_ID_SIZE];
	int fd; /* base: only a socket yet */
	uint32_t number;
	union addr peer;
};

typedef void team_receive(void *arg, struct handover *handover);

unsigned team_size(const struct relay_team *team);
unsigned team_owner(const struct relay_team *team, uint32_t number);

/* The index-th member receives in its loop from now on. Received handovers are its own to free(). */
void team_join(struct relay_team *team, unsigned index, struct ev_loop *loop, team_receive *receive, void *arg);

/* Nothing is received any more; what was waiting is closed. */
void team_leave(struct relay_team *team, unsigned index);

/* Gives it to the index-th member; closes it if that has left. May be called by any thread. */
void team_send(struct relay_team *team, unsigned index, struct handover *handover);

#endif
