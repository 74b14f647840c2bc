/* SPDX-License-Identifier: ISC */
#ifndef APP_CONFIG_H
#define APP_CONFIG_H

#include "app/options.h"
#include "core/engine.h"
#include "role/proxy.h"
#include "role/relay.h"

/* What a daemon runs with: the options, checked against each other and made into settings. */
struct config {
	struct options options;
	struct engine_settings engine;
	union {
		struct proxy_settings proxy; /* OPTIONS_PROXY */
		struct relay_settings relay; /* OPTIONS_RELAY */
	};
	unsigned workers;
};

/*
 * Makes settings from the command line and the file it names; resolves host names and reads the key
 * file. Warns of what is allowed but unwise (logging is set up on the way). Returns 0, or -1 with a
 * one-line reason in why; config_clear() in either case. With options.help nothing else is valid.
 * sodium_init() must have been called.
 */
int config_load(struct config *c, enum options_role role, int argc, char **argv,
		char why[OPTIONS_WHY]);

/* Frees what it owns and wipes the keys. */
void config_clear(struct config *c);

/* "proxy" or "relay" */
const char *config_role_name(enum options_role role);

/* Where the role listens. */
union addr *config_listen(struct config *c);

#endif
