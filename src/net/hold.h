/* SPDX-License-Identifier: ISC */
#ifndef NET_HOLD_H
#define NET_HOLD_H

#include <ev.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

/*
 * A hold has the bytes that are on their way from one socket to another: in a kernel pipe (splice(2)), or in a buffer. It borrows
 * the pipe or the buffer from its worker's pool when it's filled and gives it back when it's empty, so that what is idle costs nothing.
 */
#define HOLD_BUFFER 65536u /* most bytes that a fill by copying takes */
#define HOLD_PREFIX 8u	   /* bytes that can be put in front: a datagram's header */
#define HOLD_AHEAD 2048u   /* most bytes that are read ahead */

struct hold {
	struct hold_pipe *pipe;
	struct hold_buffer *buffer;
	uint32_t length; /* bytes in it, the prefix not counted */
	uint8_t prefix_left;
	uint8_t prefix[HOLD_PREFIX];
};

/* Where the pool reports what it has; see core/counters.h. */
struct hold_counters {
	_Atomic uint64_t *pipes, *pipes_busy, *buffers, *buffers_busy, *spliced;
};

struct hold_pool;

/* max_pipes 0: never splice. Returns NULL with errno set. */
struct hold_pool *hold_pool_new(struct ev_loop *loop, unsigned max_pipes, unsigned max_buffers,
				const struct hold_counters *counters);
/* All holds must be empty. */
void hold_pool_free(struct hold_pool *pool);

/* Asks to be called from the loop, once, when a buffer is to be had again: after hold_fill() failed with ENOBUFS. */
struct hold_waiter {
	void (*ready)(struct hold_waiter *waiter);
	TAILQ_ENTRY(hold_waiter) link;
	bool waiting;
};
void hold_wait(struct hold_pool *pool, struct hold_waiter *waiter);
void hold_unwait(struct hold_pool *pool, struct hold_waiter *waiter);

static inline bool hold_empty(const struct hold *hold)
{
	return hold->length == 0 && hold->prefix_left == 0;
}

/*
 * Fills an empty hold with up to max bytes from the socket fd; splice: through a pipe, if there's one to be had. Returns the number of
 * bytes, 0 at the end of the stream, -1 with errno: EAGAIN if the socket has none, ENOBUFS if the pool has run out, or the socket's error.
 */
ssize_t hold_fill(struct hold_pool *pool, struct hold *hold, int fd, size_t max, bool splice);

/* Fills an empty hold with a copy of up to HOLD_BUFFER bytes. Returns 0, or -1 with ENOBUFS if the pool has run out. */
int hold_put(struct hold_pool *pool, struct hold *hold, const void *bytes, size_t n);

/* What's in its buffer: what a fill has brought there, and what was put in front. */
const uint8_t *hold_bytes(const struct hold *hold);

/* Puts a header in front of what a fill has brought (or of nothing, in an empty hold). */
void hold_put_prefix(struct hold *hold, const uint8_t prefix[HOLD_PREFIX]);

/*
 * As hold_fill() through a pipe, or not at all: -1 with ENOBUFS if there's no pipe to be had, the socket can't be spliced, or it may have ended.
 */
ssize_t hold_splice(struct hold_pool *pool, struct hold *hold, int fd, size_t max);

/*
 * Copies more behind what a fill has brought into a buffer, up to max bytes in all; so that the end of the stream, where it has come, is known
 * before the bytes leave. Returns as recv(2) does; -1 with ENOBUFS if they are in a pipe or there is no room.
 */
ssize_t hold_top_up(struct hold *hold, int fd, size_t max);

enum hold_passed {
	HOLD_PASSED,
	HOLD_FROM_EMPTY, /* all that was there was passed */
	HOLD_FROM_ENDED,
	HOLD_FROM_FAILED, /* errno */
	HOLD_TO_FULL,	  /* not all that was there was passed */
	HOLD_TO_FAILED,	  /* errno */
};

/* Bytes of a socket that were read ahead of their turn. */
struct hold_ahead {
	uint8_t *bytes;
	uint16_t start, n, size; /* the n from start on are still to be taken; of size */
};

static inline void hold_take_ahead(struct hold_ahead *ahead, size_t n)
{
	ahead->start += (uint16_t)n;
	ahead->n -= (uint16_t)n;
}

/*
 * Copies up to max bytes from one socket to another, those read ahead first, without holding any: what to doesn't take stays where it was, so that a
 * reader who is slow, or has stopped, costs no memory here. If all max were passed, up to tail bytes that follow them in the socket, as far as there's
 * room, are read ahead. *n says how many were passed. more: the end of the stream follows them at once, and shall leave in the same packet.
 */
enum hold_passed hold_pass(struct hold_pool *pool, int from, int to, size_t max, size_t *n, struct hold_ahead *ahead,
			   size_t tail, bool more);

/* Throws away up to max bytes that the socket fd has. Returns as recv(2) does. */
ssize_t hold_skip(struct hold_pool *pool, int fd, size_t max);

/*
 * Writes what it can to the socket fd. Returns 1 when the hold is empty, 0 when the socket takes no more now, -1 with the socket's
 * error in errno.
 */
int hold_drain(struct hold_pool *pool, struct hold *hold, int fd);

/* Bytes that go out along with a hold's: those before it, then, next to them in memory, those behind it. What was sent is taken off. */
struct hold_wrap {
	const uint8_t *bytes;
	size_t before, behind;
};

/* As hold_drain(), with what's around it, in as few calls as it can. */
int hold_drain_wrapped(struct hold_pool *pool, struct hold *hold, int fd, struct hold_wrap *wrap);

/* Forgets the bytes. */
void hold_discard(struct hold_pool *pool, struct hold *hold);

#endif
