/* SPDX-License-Identifier: ISC */
#ifndef ROLE_SUPPLY_H
#define ROLE_SUPPLY_H

#include <stdbool.h>
#include <sys/queue.h>

#include "core/stripe.h"
#include "role/dial.h"

/*
 * The proxy's stripes that have no flow: greeted ones that wait, warm, for the next, and those being dialled. A flow that needs more than
 * there are gets them as they come.
 */
struct supply;

/* A flow's wish. Lives in the flow. */
struct supply_wish {
	/* A greeted idle stripe: to be bound at once. */
	void (*take)(struct supply_wish *wish, struct stripe *stripe);
	/* The flow has no stripe and there's none to be had. why is a constant text. */
	void (*failed)(struct supply_wish *wish, const char *why);
	unsigned missing; /* stripes that are still to come */
	bool has_any;
	uint64_t tries; /* the supply's: the last of the dials that had been begun for it, or before */
	TAILQ_ENTRY(supply_wish) link;
};

/*
 * min, max: idle stripes to keep; both 0: none is kept. ops, owner: of the stripes it makes; their idle and closed must call supply_put() and
 * supply_forget(). Returns NULL with errno set.
 */
struct supply *supply_new(struct engine *engine, const struct dial_plan *plan, unsigned min, unsigned max,
			  const struct stripe_ops *ops, void *owner);

/* No wish may be open. Idle stripes are closed. */
void supply_free(struct supply *supply);

/* Begins to fill the pool up to its minimum; and stops keeping idle stripes. */
void supply_start(struct supply *supply);
void supply_stop(struct supply *supply);

/* True if the relay answered when it was last tried; also before the first try. */
bool supply_hopeful(const struct supply *supply);

/* Idle stripes at hand. */
unsigned supply_ready(const struct supply *supply);

/* Wishes for n more. take() may be called before it returns. */
void supply_ask(struct supply *supply, struct supply_wish *wish, unsigned n);
void supply_withdraw(struct supply *supply, struct supply_wish *wish);

/* Wishes for n fewer, n <= wish->missing. */
void supply_lower(struct supply *supply, struct supply_wish *wish, unsigned n);

/* Closes the idle stripes. */
void supply_drop_idle(struct supply *supply);

/* A stripe has become idle. Or: it has, and is of no more use; it's closed, and another is dialled if the pool needs it. */
void supply_put(struct supply *supply, struct stripe *stripe);
void supply_replace(struct supply *supply, struct stripe *stripe);

/* A stripe is closed. */
void supply_forget(struct supply *supply, struct stripe *stripe);

#endif
