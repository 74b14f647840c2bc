/* SPDX-License-Identifier: ISC */
#ifndef CORE_TURNS_H
#define CORE_TURNS_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct engine;
struct group;

/*
 * Flows of a crowd that begin at the same time take turns, by which the first to come is the first to be done. TCP serves all of them alike: then all are
 * done late, and at nearly the same time; and what their first windows let go overflows the queue. A flow has a turn while it has sent something but isn't
 * bulk: those that go the same way, on a lane, have no more under way together than a limit that finds out what the way holds, and the others wait.
 */
enum turn_state {
	TURN_NONE,
	TURN_WAITING,
	TURN_HAS,
	TURN_OVER, /* it needs none any more */
};

/* A group's. */
struct turn {
	TAILQ_ENTRY(turn) link;
	enum turn_state state;
	ev_tstamp since;
	uint64_t from;	   /* group->moved when it was last at rest */
	struct lane *lane; /* NULL until it has first needed a turn */
};

TAILQ_HEAD(turn_list, turn);

/* The limit that a lane begins with, and never goes below. Bytes. */
#define LANE_LIMIT ((size_t)512 * 1024)

struct lane {
	struct engine *engine;
	struct turn_list waiting, having; /* the first to come first */
	ev_timer tick;			  /* while some wait */
	size_t flying;			  /* when last looked, and what was given to stripes since */
	size_t limit;
	ev_tstamp looked_at, grown_at;
};

/* What a look at the flows that have turns finds. Bytes and microseconds. */
struct lane_sample {
	size_t flying;	  /* under way or in the stripes' sockets */
	uint32_t rtt;	  /* the mean of the stripes' on which something was delivered since the last look; 0: none */
	uint32_t rtt_min; /* the mean of these stripes' shortest */
};

/* The lanes of an engine. Returns NULL with errno set. */
struct turns *turns_new(struct engine *engine);
void turns_free(struct turns *turns);

/* The rule: learns from a look how much may be under way. */
void lane_learn(struct lane *lane, const struct lane_sample *sample, ev_tstamp now);

/* False if the flow has to wait: spread_pump() is called when it hasn't any more. */
bool turns_let(struct group *group);

/* n bytes were given to a stripe, and are counted in group->moved. */
void turns_take(struct group *group, size_t n);

/* It sends nothing more. */
void turns_stop(struct group *group);

#endif
