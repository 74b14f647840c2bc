/* SPDX-License-Identifier: ISC */
#ifndef CORE_CHOOSE_H
#define CORE_CHOOSE_H

#include "core/group.h"

/* Which stripe the next datagram goes to, and how large it may be. */

/*
 * The stripe by which it's expected to arrive first, or of those by which it arrives hardly later the one with least under way, if the flow is covered; NULL
 * if none can take data now. As long as the flow's governed and in startup, it's one whose window lets it go.
 */
struct stripe *choose_stripe(struct group *group);

/* The stripe by which a parity of this size may arrive soonest, and its window lets all of it go; NULL if there's none. */
struct stripe *choose_for_parity(struct group *group, uint32_t size);

/* Most payload bytes that this stripe should take at once, if the flow has room for so many: whole packets, three at least. */
uint32_t choose_size(const struct stripe *stripe, uint64_t room);

/* Bytes that may wait unsent in its socket before it counts as full, by what it sends in a few milliseconds. */
uint32_t choose_unsent(const struct sock_path *path);

/* When it is expected to arrive, in microseconds from now, if size bytes are given to a stripe with this path. */
uint64_t choose_arrival(const struct sock_path *path, uint32_t size);

#endif
