/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/hold.h"

/*
 * Segments of one MSS fill a pipe's 16 slots at 23 KB, so pipes are made larger where the kernel lets us: beyond
 * pipe-user-pages-soft it doesn't, and that's fine.
 */
#define PIPE_SIZE (256 * 1024)

/* Pipes and buffers that are kept for the next fill rather than freed. */
#define KEEP_IDLE 16

struct hold_pipe {
	int in, out;
	SLIST_ENTRY(hold_pipe) link;
};

struct hold_buffer {
	SLIST_ENTRY(hold_buffer) link;
	uint32_t start;
	uint8_t bytes[HOLD_PREFIX + HOLD_BUFFER];
};

SLIST_HEAD(pipe_list, hold_pipe);
SLIST_HEAD(buffer_list, hold_buffer);
TAILQ_HEAD(waiter_list, hold_waiter);

struct hold_pool {
	struct ev_loop *loop;
	struct hold_counters counters;
	struct pipe_list idle_pipes;
	struct buffer_list idle_buffers;
	unsigned pipes, pipes_idle, pipes_max;
	unsigned buffers, buffers_idle, buffers_max;
	struct waiter_list waiters;
	uint8_t scratch[HOLD_BUFFER + HOLD_AHEAD]; /* what passes without rest */
	ev_timer wake; /* never started: only fed, so that waiters are called from the loop */
};

static void set_counter(_Atomic uint64_t *counter, uint64_t value)
{
	atomic_store_explicit(counter, value, memory_order_relaxed);
}

static void add_counter(_Atomic uint64_t *counter, uint64_t n)
{
	set_counter(counter, atomic_load_explicit(counter, memory_order_relaxed) + n);
}

static void report(struct hold_pool *pool)
{
	set_counter(pool->counters.pipes, pool->pipes);
	set_counter(pool->counters.pipes_busy, pool->pipes - pool->pipes_idle);
	set_counter(pool->counters.buffers, pool->buffers);
	set_counter(pool->counters.buffers_busy, pool->buffers - pool->buffers_idle);
}

static bool has_buffer(const struct hold_pool *pool)
{
	return pool->buffers_idle > 0 || pool->buffers < pool->buffers_max;
}

/* One that is woken may have no use for the buffer any more: then the next is asked. Each once, so that this ends. */
static void on_wake(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct hold_pool *pool = timer->data;
	struct hold_waiter *waiter;
	unsigned count = 0;

	(void)loop;
	(void)revents;
	TAILQ_FOREACH(waiter, &pool->waiters, link)
		count++;
	while (count-- > 0 && has_buffer(pool) && (waiter = TAILQ_FIRST(&pool->waiters)) != NULL) {
		hold_unwait(pool, waiter);
		waiter->ready(waiter);
	}
}

struct hold_pool *hold_pool_new(struct ev_loop *loop, unsigned max_pipes, unsigned max_buffers,
				const struct hold_counters *counters)
{
	struct hold_pool *pool = calloc(1, sizeof(*pool));

	if (pool == NULL)
		return NULL;
	pool->loop = loop;
	pool->counters = *counters;
	pool->pipes_max = max_pipes;
	pool->buffers_max = max_buffers;
	SLIST_INIT(&pool->idle_pipes);
	SLIST_INIT(&pool->idle_buffers);
	TAILQ_INIT(&pool->waiters);
	ev_timer_init(&pool->wake, on_wake, 0., 0.);
	pool->wake.data = pool;
	return pool;
}

static void pipe_free(struct hold_pool *pool, struct hold_pipe *pipe)
{
	close(pipe->in);
	close(pipe->out);
	free(pipe);
	pool->pipes--;
}

void hold_pool_free(struct hold_pool *pool)
{
	struct hold_pipe *pipe;
	struct hold_buffer *buffer;

	while ((pipe = SLIST_FIRST(&pool->idle_pipes)) != NULL) {
		SLIST_REMOVE_HEAD(&pool->idle_pipes, link);
		pipe_free(pool, pipe);
	}
	while ((buffer = SLIST_FIRST(&pool->idle_buffers)) != NULL) {
		SLIST_REMOVE_HEAD(&pool->idle_buffers, link);
		free(buffer);
	}
	ev_clear_pending(pool->loop, &pool->wake);
	free(pool);
}

void hold_wait(struct hold_pool *pool, struct hold_waiter *waiter)
{
	if (waiter->waiting)
		return;
	TAILQ_INSERT_TAIL(&pool->waiters, waiter, link);
	waiter->waiting = true;
}

void hold_unwait(struct hold_pool *pool, struct hold_waiter *waiter)
{
	if (!waiter->waiting)
		return;
	TAILQ_REMOVE(&pool->waiters, waiter, link);
	waiter->waiting = false;
}

static struct hold_pipe *pipe_borrow(struct hold_pool *pool)
{
	struct hold_pipe *pipe = SLIST_FIRST(&pool->idle_pipes);
	int ends[2];

	if (pipe != NULL) {
		SLIST_REMOVE_HEAD(&pool->idle_pipes, link);
		pool->pipes_idle--;
		report(pool);
		return pipe;
	}
	if (pool->pipes >= pool->pipes_max)
		return NULL;
	pipe = malloc(sizeof(*pipe));
	if (pipe == NULL)
		return NULL;
	if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0) {
		free(pipe);
		return NULL;
	}
	fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE);
	pipe->out = ends[0];
	pipe->in = ends[1];
	pool->pipes++;
	report(pool);
	return pipe;
}

/* clean: nothing is left in the pipe. */
static void pipe_return(struct hold_pool *pool, struct hold_pipe *pipe, bool clean)
{
	if (clean && pool->pipes_idle < KEEP_IDLE) {
		SLIST_INSERT_HEAD(&pool->idle_pipes, pipe, link);
		pool->pipes_idle++;
	} else {
		pipe_free(pool, pipe);
	}
	report(pool);
}

static struct hold_buffer *buffer_borrow(struct hold_pool *pool)
{
	struct hold_buffer *buffer = SLIST_FIRST(&pool->idle_buffers);

	if (buffer != NULL) {
		SLIST_REMOVE_HEAD(&pool->idle_buffers, link);
		pool->buffers_idle--;
	} else if (pool->buffers >= pool->buffers_max || (buffer = malloc(sizeof(*buffer))) == NULL) {
		return NULL;
	} else {
		pool->buffers++;
	}
	buffer->start = HOLD_PREFIX;
	report(pool);
	return buffer;
}

static void buffer_return(struct hold_pool *pool, struct hold_buffer *buffer)
{
	if (pool->buffers_idle < KEEP_IDLE) {
		SLIST_INSERT_HEAD(&pool->idle_buffers, buffer, link);
		pool->buffers_idle++;
	} else {
		free(buffer);
		pool->buffers--;
	}
	if (!TAILQ_EMPTY(&pool->waiters))
		ev_feed_event(pool->loop, &pool->wake, EV_TIMER);
	report(pool);
}

/* Gives back what an empty hold had borrowed. */
static void settle(struct hold_pool *pool, struct hold *hold)
{
	if (!hold_empty(hold))
		return;
	if (hold->pipe != NULL)
		pipe_return(pool, hold->pipe, true);
	if (hold->buffer != NULL)
		buffer_return(pool, hold->buffer);
	hold->pipe = NULL;
	hold->buffer = NULL;
}

ssize_t hold_splice(struct hold_pool *pool, struct hold *hold, int fd, size_t max)
{
	ssize_t n;
	int saved;

	hold->pipe = pipe_borrow(pool);
	if (hold->pipe == NULL) {
		errno = ENOBUFS;
		return -1;
	}
	/* The pipe is empty, so EAGAIN can only mean that the socket is. */
	n = splice(fd, NULL, hold->pipe->in, NULL, max, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	saved = n < 0 && errno == EINVAL ? ENOBUFS : errno;
	/* At urgent data, with FIN behind it, splice(2) gives 0, too: recv(2) knows better (tcp_splice_read() in net/ipv4/tcp.c). */
	if (n == 0) {
		n = -1;
		saved = ENOBUFS;
	}
	if (n > 0) {
		hold->length = (uint32_t)n;
		add_counter(pool->counters.spliced, (uint64_t)n);
	}
	settle(pool, hold);
	errno = saved;
	return n;
}

int hold_put(struct hold_pool *pool, struct hold *hold, const void *bytes, size_t n)
{
	hold->buffer = buffer_borrow(pool);
	if (hold->buffer == NULL) {
		errno = ENOBUFS;
		return -1;
	}
	memcpy(hold->buffer->bytes + hold->buffer->start, bytes, n);
	hold->length = (uint32_t)n;
	return 0;
}

const uint8_t *hold_bytes(const struct hold *hold)
{
	return hold->buffer->bytes + hold->buffer->start;
}

ssize_t hold_fill(struct hold_pool *pool, struct hold *hold, int fd, size_t max, bool splice)
{
	ssize_t n;
	int saved;

	if (splice) {
		n = hold_splice(pool, hold, fd, max);
		if (n >= 0 || errno != ENOBUFS)
			return n;
	}
	hold->buffer = buffer_borrow(pool);
	if (hold->buffer == NULL) {
		errno = ENOBUFS;
		return -1;
	}
	n = recv(fd, hold->buffer->bytes + hold->buffer->start, max < HOLD_BUFFER ? max : HOLD_BUFFER, MSG_DONTWAIT);
	saved = errno;
	if (n > 0)
		hold->length = (uint32_t)n;
	settle(pool, hold);
	errno = saved;
	return n;
}

ssize_t hold_top_up(struct hold *hold, int fd, size_t max)
{
	struct hold_buffer *buffer = hold->buffer;
	size_t room;
	ssize_t n;

	room = max < HOLD_BUFFER ? max : HOLD_BUFFER;
	if (buffer == NULL || hold->length >= room) {
		errno = ENOBUFS;
		return -1;
	}
	n = recv(fd, buffer->bytes + buffer->start + hold->length, room - hold->length, MSG_DONTWAIT);
	if (n > 0)
		hold->length += (uint32_t)n;
	return n;
}

void hold_put_prefix(struct hold *hold, const uint8_t prefix[HOLD_PREFIX])
{
	if (hold->buffer != NULL) {
		hold->buffer->start -= HOLD_PREFIX;
		memcpy(hold->buffer->bytes + hold->buffer->start, prefix, HOLD_PREFIX);
		hold->length += HOLD_PREFIX;
	} else {
		memcpy(hold->prefix, prefix, HOLD_PREFIX);
		hold->prefix_left = HOLD_PREFIX;
	}
}

/* With MSG_TRUNC, TCP doesn't copy the bytes, tcp(7); the buffer is there for checkers of memory, who don't know that. */
ssize_t hold_skip(struct hold_pool *pool, int fd, size_t max)
{
	return recv(fd, pool->scratch, max < sizeof(pool->scratch) ? max : sizeof(pool->scratch),
		    MSG_DONTWAIT | MSG_TRUNC);
}

/* What was peeked at is behind what was read ahead, in the scratch; sent bytes of both have gone. Reads the next tail bytes, too. */
static bool take_sent(struct hold_pool *pool, int from, struct hold_ahead *ahead, size_t sent, size_t tail)
{
	size_t lead = ahead->n < sent ? ahead->n : sent;

	hold_take_ahead(ahead, lead);
	if (tail > 0) {
		memcpy(ahead->bytes, pool->scratch + sent, tail);
		ahead->start = 0;
		ahead->n = (uint16_t)tail;
	}
	tail += sent - lead;
	return tail == 0 || hold_skip(pool, from, tail) == (ssize_t)tail;
}

enum hold_passed hold_pass(struct hold_pool *pool, int from, int to, size_t max, size_t *n, struct hold_ahead *ahead,
			   size_t tail, bool more)
{
	size_t lead = ahead->n < max ? ahead->n : max, there = lead, want, room;
	ssize_t sent, peeked = 0;

	*n = 0;
	if (tail > ahead->size)
		tail = ahead->size;
	if (lead > 0)
		memcpy(pool->scratch, ahead->bytes + ahead->start, lead);
	if (lead < max) {
		room = max <= HOLD_BUFFER ? max + tail - lead : HOLD_BUFFER - lead;
		peeked = recv(from, pool->scratch + lead, room, MSG_DONTWAIT | MSG_PEEK);
		if (peeked == 0)
			return HOLD_FROM_ENDED;
		if (peeked < 0 && errno != EAGAIN)
			return HOLD_FROM_FAILED;
		if (peeked < 0 && lead == 0)
			return HOLD_FROM_EMPTY;
		there += peeked > 0 ? (size_t)peeked : 0;
	}
	want = there < max ? there : max;
	sent = send(to, pool->scratch, want, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
	if (sent < 0)
		return errno == EAGAIN ? HOLD_TO_FULL : HOLD_TO_FAILED;
	*n = (size_t)sent;
	if (!take_sent(pool, from, ahead, *n, *n == max && lead < max ? there - max : 0))
		return HOLD_FROM_FAILED;
	if (*n < want)
		return HOLD_TO_FULL;
	return *n < max && *n < HOLD_BUFFER ? HOLD_FROM_EMPTY : HOLD_PASSED;
}

static ssize_t splice_out(struct hold *hold, int fd)
{
	ssize_t n = splice(hold->pipe->out, NULL, fd, NULL, hold->length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	if (n > 0)
		hold->length -= (uint32_t)n;
	return n;
}

static size_t take_off(size_t *count, size_t n)
{
	size_t part = n < *count ? n : *count;

	*count -= part;
	return n - part;
}

static void take_gone(struct hold *hold, struct hold_wrap *wrap, size_t n)
{
	size_t left = take_off(&wrap->before, n), gone;

	wrap->bytes += n - left;
	if (hold->buffer != NULL) {
		gone = left < hold->length ? left : hold->length;
		hold->buffer->start += (uint32_t)gone;
		hold->length -= (uint32_t)gone;
	} else {
		gone = left < hold->prefix_left ? left : hold->prefix_left;
		hold->prefix_left -= (uint8_t)gone;
	}
	left -= gone;
	wrap->bytes += left;
	take_off(&wrap->behind, left);
}

/* Sends what is in memory, up to what is in a pipe. */
static ssize_t send_parts(struct hold *hold, int fd, struct hold_wrap *wrap)
{
	bool pipe = hold->pipe != NULL && hold->length > 0;
	struct iovec parts[3];
	struct msghdr message = {.msg_iov = parts};
	ssize_t n;

	if (wrap->before > 0)
		parts[message.msg_iovlen++] = (struct iovec){(void *)wrap->bytes, wrap->before};
	if (hold->buffer != NULL)
		parts[message.msg_iovlen++] = (struct iovec){hold->buffer->bytes + hold->buffer->start, hold->length};
	else if (hold->prefix_left > 0)
		parts[message.msg_iovlen++] = (struct iovec){hold->prefix + HOLD_PREFIX - hold->prefix_left, hold->prefix_left};
	if (!pipe && wrap->behind > 0)
		parts[message.msg_iovlen++] = (struct iovec){(void *)(wrap->bytes + wrap->before), wrap->behind};
	/* More is certain only if there's payload: MSG_MORE would hold a lone header back. */
	n = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL | (pipe ? MSG_MORE : 0));
	if (n > 0)
		take_gone(hold, wrap, (size_t)n);
	return n;
}

int hold_drain_wrapped(struct hold_pool *pool, struct hold *hold, int fd, struct hold_wrap *wrap)
{
	ssize_t n;

	while (!hold_empty(hold) || wrap->before + wrap->behind > 0) {
		if (hold->pipe != NULL && hold->prefix_left == 0 && wrap->before == 0 && hold->length > 0)
			n = splice_out(hold, fd);
		else
			n = send_parts(hold, fd, wrap);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		settle(pool, hold);
	}
	return 1;
}

int hold_drain(struct hold_pool *pool, struct hold *hold, int fd)
{
	struct hold_wrap nothing = {0};

	return hold_drain_wrapped(pool, hold, fd, &nothing);
}

void hold_discard(struct hold_pool *pool, struct hold *hold)
{
	if (hold->pipe != NULL && hold->length > 0) {
		pipe_return(pool, hold->pipe, false);
		hold->pipe = NULL;
	}
	hold->length = 0;
	hold->prefix_left = 0;
	settle(pool, hold);
}
