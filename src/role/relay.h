/* SPDX-License-Identifier: ISC */
#ifndef ROLE_RELAY_H
#define ROLE_RELAY_H

#include <stdbool.h>

#include "base/addr.h"
#include "base/rules.h"
#include "core/engine.h"
#include "wire/keyring.h"

/* Filled by app/config.c; shared by all workers and not changed while they run. Times in seconds. */
struct relay_settings {
	union addr listen; /* default [::]:9301, dual stack */
	union addr server; /* --server: where flows of the base protocol go; AF_UNSPEC if none */
	bool allow_base;
	struct keyring keys; /* empty only with --insecure: then the all-zero key is the one accepted */
	struct rules rules;
	double greeting_timeout; /* from accept to a checked proof */
	double connect_timeout;  /* to the server */
	double join_timeout;     /* how long a Join may wait for its Open */
	double idle_timeout;     /* a greeted stripe without a flow */
	unsigned max_stripes;    /* per worker, all peers */
	unsigned max_stripes_per_peer;
	unsigned max_groups; /* per worker */
};

struct relay;
struct relay_team;

typedef void relay_drained(void *arg);

/*
 * The relay workers of one process: a stripe is accepted by any of them and handed to the one that owns its group. size: how many.
 * Returns NULL with errno set. Free it after the last relay.
 */
struct relay_team *relay_team_new(unsigned size);
void relay_team_free(struct relay_team *team);

/* The index-th of the team. Makes the listener, so that errors show at start. Returns NULL after having logged why. */
struct relay *relay_new(struct engine *engine, const struct relay_settings *settings, struct relay_team *team,
			unsigned index);

/* Stops accepting and calls back, once, when no flow is left. */
void relay_drain(struct relay *relay, relay_drained *done, void *arg);

/* Resets all flows at once. relay_free() may follow. */
void relay_abort(struct relay *relay);
void relay_free(struct relay *relay);

#endif
