/* SPDX-License-Identifier: ISC */
#ifndef ROLE_DIAL_H
#define ROLE_DIAL_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "wire/greeting.h"

/* Connects to the relay and greets it, or exchanges the number in the base protocol. */
struct dial_plan {
	const union addr *relay;
	const char *congestion;
	const struct key *key;
	double timeout; /* seconds, for all of it */
	bool base;
	uint32_t number; /* base: 0 for the first stripe of a group */
};

struct dial;

struct dial_result {
	uint32_t number;   /* base: what the relay answered */
	uint32_t features; /* extended: what both ends will use */
};

/*
 * Once, from the loop: fd is the greeted connection, the receiver's now; or fd is -1, result NULL, and why a constant text. The dial is gone when
 * it returns.
 */
typedef void dial_done(void *arg, struct dial *dial, int fd, const struct dial_result *result, const char *why);

/* The plan is copied; what it points to must last. Returns NULL with errno set: then done isn't called. */
struct dial *dial_start(struct ev_loop *loop, const struct dial_plan *plan, dial_done *done, void *arg);

/* Gives up without calling back. */
void dial_cancel(struct dial *dial);

#endif
