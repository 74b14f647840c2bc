/* SPDX-License-Identifier: ISC */
#ifndef CORE_SPREAD_H
#define CORE_SPREAD_H

#include <stdbool.h>
#include <stdint.h>

#include "net/hold.h"

struct group;
struct stripe;

/* The outgoing direction of a flow: from the local socket out over the stripes. */
struct spread {
	uint32_t next;	     /* serial of the next datagram */
	bool any;	     /* at least one was sent */
	bool full;	     /* the last datagram took as much as it might: there's more */
	bool bulk;	     /* the last read brought much: splice */
	bool dry;	     /* the last read found nothing */
	bool drained;	     /* what was there has been read, in this turn */
	bool eof;	     /* the local socket has ended */
	bool stopped;	     /* nothing more is read: the group is being reset */
	bool done;	     /* the end was said on the wire */
	struct stripe *last; /* the one that took the last datagram */
	struct hold_waiter waiter;
};

void spread_init(struct group *group);

/* Moves what can be moved, within a budget. */
void spread_pump(struct group *group);

/* There may be more to send, for which no stripe has room. */
bool spread_is_blocked(const struct group *group);

/* The serial that Fin and Reset carry: the last of this direction, 0 if there was none. */
uint32_t spread_last(const struct group *group);

/* Says the end of the direction where it couldn't be said yet: a stripe has become free or has joined. */
void spread_say_end(struct group *group);

void spread_stop(struct group *group);

#endif
