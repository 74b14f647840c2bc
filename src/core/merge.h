/* SPDX-License-Identifier: ISC */
#ifndef CORE_MERGE_H
#define CORE_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/hold.h"

struct group;
struct stripe;

/* The incoming direction of a flow: from the stripes, in order, to the local socket. */
struct merge {
	uint32_t due;		/* serial that is delivered next */
	uint64_t delivered;	/* datagrams that were, whole */
	uint32_t passed;	/* bytes of the due one that were */
	bool repeated;		/* extended protocol: some serial has come more than once, or may */
	bool ending;		/* Fin or Reset named the last serial */
	bool reset;		/* it was Reset */
	bool stopped;		/* nothing more is delivered: the local socket has failed */
	bool done;		/* delivered to the end, and the end too */
	bool pumping;		/* guards against re-entry */
	uint32_t final;		/* the last serial, 0: none */
	struct stripe *current; /* the one whose datagram is due and being delivered: of several the one heard from last */
	struct hold hold;	/* a pipe with bytes on their way to the local socket */
};

void merge_init(struct group *group);

/*
 * A stripe has read a data header, or can go on with its payload. Returns false if the serial makes no sense. The stripe is parked if the serial isn't
 * due, and late if it's delivered already.
 */
bool merge_arrived(struct group *group, struct stripe *stripe);

/* Delivers what can be delivered, within a budget. */
void merge_pump(struct group *group);

/* The end of the direction is known. Returns false if it makes no sense. */
bool merge_end(struct group *group, uint32_t final, bool reset);

/* Base protocol: a stripe has reached EOF at a datagram's end. */
void merge_stripe_ended(struct group *group);

/* It was delivered: it has come by another stripe, or was recovered. */
bool merge_is_late(const struct merge *merge, uint32_t serial);

/* It can't be, if so many from the due one on are still to come. */
bool merge_is_past(const struct merge *merge, uint32_t serial, uint32_t count);

void merge_stop(struct group *group);

/* All that the peer had to say has arrived, if it isn't delivered yet. */
bool merge_complete(const struct group *group);

#endif
