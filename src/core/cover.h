/* SPDX-License-Identifier: ISC */
#ifndef CORE_COVER_H
#define CORE_COVER_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct group;
struct stripe;

/*
 * A lost packet holds up all that is behind it on its stripe, for a round trip: which is as long as all the rest for a flow of a hundred kilobytes, and with
 * 1 % loss every second one meets it. So where packets get lost, what a young flow sends is kept until the flow comes to rest. Then it has no use for
 * the capacity, and sends parity of its last datagrams, on all its stripes: from any so many of these and of the parities the peer has all of the
 * datagrams (gather.h, wire/parity.h). It costs a flow at most COVER_YOUNG bytes of memory, and about
 * as much for parities, none of it for longer than a round trip; all flows of a worker no more than a bound.
 */
#define COVER_YOUNG (1024 * 1024)

STAILQ_HEAD(cover_pieces, cover_piece);
STAILQ_HEAD(cover_parities, cover_parity);

struct cover {
	struct cover_pieces pieces; /* datagrams that were sent since the last rest, in the order of their serials */
	struct cover_parities parities; /* still to be sent */
	size_t size; /* of the pieces' memory */
	unsigned count;
	uint32_t last; /* serial */
	ev_tstamp kept_at; /* when that was sent */
	ev_tstamp made_at; /* when the parities were made */
	ev_tstamp round_trip; /* of the stripe that sent the last */
	ev_timer tick;
};

/* True if what the flow sends by this stripe now is worth covering, for all that's known: then it must pass through a buffer. */
bool cover_is_wanted(const struct group *group, const struct stripe *stripe);

/* Keeps a copy of the payload of the datagram that the stripe was just given; of all no more than COVER_YOUNG bytes of memory. Without memory it does nothing. */
void cover_keep(struct group *group, const struct stripe *stripe, const uint8_t *bytes, size_t n);

/* The flow has nothing more to send, now or ever: it's at rest. May end the group. */
void cover_end(struct group *group);

/* Forgets all. */
void cover_stop(struct group *group);

#endif
