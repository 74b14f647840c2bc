/* SPDX-License-Identifier: ISC */
#ifndef CORE_ENGINE_H
#define CORE_ENGINE_H

#include <ev.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "core/counters.h"

/* What the workers of a daemon share. */
struct engine_commons {
	_Atomic uint64_t talked_at; /* milliseconds: when a flow that isn't bulk last sent all it had, and somebody may wait for it */
};

/* What both roles can be told about the data path. */
struct engine_settings {
	struct engine_commons *commons; /* outlives the engines; NULL: the engine has its own */
	bool splice;
	char congestion[16]; /* for stripes; empty: bbr where the kernel has it, else cubic, else the system's default */
};

/*
 * Stripes and groups may end inside calls that still have them in hand, so their memory is freed when the loop has done all it had
 * to do: first member of what can be buried.
 */
struct grave {
	struct grave *next;
};

TAILQ_HEAD(stripe_list, stripe);

/* What the flows of one worker share. Owned by the worker; used by its thread only. */
struct engine {
	struct engine_settings settings;
	struct engine_commons own; /* what settings.commons is if nobody else has any */
	struct ev_loop *loop;
	struct hold_pool *pool;
	struct hangup *hangup;
	struct turns *turns;
	struct counters counters;
	struct stripe_list stripes; /* all there are */
	struct stripe_list unflushed; /* those with controls that leave before the loop waits */
	uint8_t *spare;		      /* a buffer for reading ahead that nobody has, or NULL */
	uint32_t sent, repeated;      /* packets of all stripes, of late: as in struct sock_path */
	uint32_t received, disordered;
	uint64_t span;		      /* the half second that it is, or was when a flow was last busy */
	unsigned busy, busy_before;   /* flows that were in it, and in the one before */
	size_t gathered, covered;     /* bytes of memory: see gather.h, cover.h */
	unsigned leaving;	    /* those of groups that have ended, not idle yet */
	struct grave *graves;
	ev_prepare undertaker;
};

/*
 * Makes an engine with a loop of its own (EVFLAG_NOENV). settings->congestion is resolved here, by trying the algorithm on a socket.
 * Returns NULL with errno set; ENOENT means the kernel doesn't have, or doesn't allow, the algorithm.
 */
struct engine *engine_new(const struct engine_settings *settings);

/* A flow that isn't bulk has sent all it had. And: true if that was so within the last half second, on any worker. */
void engine_note_talk(struct engine *engine);
bool engine_has_talk(const struct engine *engine);

/*
 * A flow was opened, or has moved something; and: it has ended. *span is the flow's own, 0 at first. Many are open all day that move nothing: they don't
 * count.
 */
void engine_note_busy(struct engine *engine, uint64_t *span);
void engine_note_over(struct engine *engine, uint64_t span);

/* So many are busy that one of them can always use what capacity is left, and that their first windows together can overflow the queue. */
bool engine_is_crowded(const struct engine *engine);

/* Frees what begins with the grave, made by malloc(), before the loop next waits. */
void engine_bury(struct engine *engine, struct grave *grave);

/* No flow, stripe or watcher may be left in it. */
void engine_free(struct engine *engine);

#endif
