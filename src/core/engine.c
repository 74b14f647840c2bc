/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine.h"
#include "core/stripe.h"
#include "core/turns.h"
#include "net/hangup.h"
#include "net/hold.h"
#include "net/sock.h"

/*
 * Per worker. 64 pipes of 64 pages stay below half of what pipe-user-pages-soft grants a user (16,384 pages) even with two workers.
 * Buffers: 64 MB.
 */
#define MAX_PIPES 64
#define MAX_BUFFERS 1024

/* Flows, and the seconds in which they are counted. */
#define CROWD 16
#define BUSY_TIME 0.5

/* Milliseconds for which a flow that said something is taken for talking. */
#define TALK_TIME 500

static void bury_all(struct engine *engine)
{
	struct grave *grave;

	while ((grave = engine->graves) != NULL) {
		engine->graves = grave->next;
		free(grave);
	}
}

static void flush_all(struct engine *engine)
{
	struct stripe *stripe;

	while ((stripe = TAILQ_FIRST(&engine->unflushed)) != NULL)
		stripe_flush(stripe);
}

static void on_prepare(struct ev_loop *loop, ev_prepare *prepare, int revents)
{
	(void)loop;
	(void)revents;
	flush_all(prepare->data);
	bury_all(prepare->data);
}

void engine_bury(struct engine *engine, struct grave *grave)
{
	grave->next = engine->graves;
	engine->graves = grave;
}

static uint64_t now_ms(const struct engine *engine)
{
	return (uint64_t)(ev_now(engine->loop) * 1000);
}

void engine_note_talk(struct engine *engine)
{
	_Atomic uint64_t *at = &engine->settings.commons->talked_at;

	/* Others have it in their caches. */
	if (atomic_load_explicit(at, memory_order_relaxed) != now_ms(engine))
		atomic_store_explicit(at, now_ms(engine), memory_order_relaxed);
}

bool engine_has_talk(const struct engine *engine)
{
	uint64_t at = atomic_load_explicit(&engine->settings.commons->talked_at, memory_order_relaxed), now = now_ms(engine);

	/* Another worker's loop may be a little ahead. */
	return (at > now ? at - now : now - at) < TALK_TIME;
}

static uint64_t span_now(const struct engine *engine)
{
	return (uint64_t)(ev_now(engine->loop) / BUSY_TIME);
}

void engine_note_busy(struct engine *engine, uint64_t *span)
{
	uint64_t now = span_now(engine);

	if (now != engine->span) {
		/* It's the time of day: after a gap, or when it was set back, nothing is known of before. */
		engine->busy_before = now == engine->span + 1 ? engine->busy : 0;
		engine->busy = 0;
		engine->span = now;
	}
	if (*span == now)
		return;
	*span = now;
	engine->busy++;
}

void engine_note_over(struct engine *engine, uint64_t span)
{
	if (span == engine->span && engine->busy > 0)
		engine->busy--;
	else if (span + 1 == engine->span && engine->busy_before > 0)
		engine->busy_before--;
}

bool engine_is_crowded(const struct engine *engine)
{
	uint64_t now = span_now(engine);

	if (now == engine->span)
		return engine->busy > CROWD || engine->busy_before > CROWD;
	return now == engine->span + 1 && engine->busy > CROWD;
}

static int resolve_congestion(struct engine_settings *settings)
{
	if (settings->congestion[0] != '\0')
		return sock_has_congestion(settings->congestion) ? 0 : -1;
	if (sock_has_congestion("bbr"))
		strcpy(settings->congestion, "bbr");
	else if (sock_has_congestion("cubic"))
		strcpy(settings->congestion, "cubic");
	return 0;
}

static int open_parts(struct engine *engine)
{
	const struct hold_counters counters = {
		.pipes = &engine->counters.pipes_now,
		.pipes_busy = &engine->counters.pipes_busy_now,
		.buffers = &engine->counters.buffers_now,
		.buffers_busy = &engine->counters.buffers_busy_now,
		.spliced = &engine->counters.bytes_spliced,
	};

	engine->loop = ev_loop_new(EVFLAG_NOENV);
	if (engine->loop == NULL)
		return -1;
	engine->hangup = hangup_new(engine->loop);
	if (engine->hangup == NULL)
		return -1;
	engine->turns = turns_new(engine);
	if (engine->turns == NULL)
		return -1;
	engine->pool = hold_pool_new(engine->loop, engine->settings.splice ? MAX_PIPES : 0, MAX_BUFFERS, &counters);
	if (engine->pool == NULL)
		return -1;
	ev_prepare_init(&engine->undertaker, on_prepare);
	engine->undertaker.data = engine;
	ev_prepare_start(engine->loop, &engine->undertaker);
	return 0;
}

struct engine *engine_new(const struct engine_settings *settings)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	int saved;

	if (engine == NULL)
		return NULL;
	engine->settings = *settings;
	if (engine->settings.commons == NULL)
		engine->settings.commons = &engine->own;
	TAILQ_INIT(&engine->stripes);
	TAILQ_INIT(&engine->unflushed);
	if (resolve_congestion(&engine->settings) < 0 || open_parts(engine) < 0) {
		saved = errno;
		engine_free(engine);
		errno = saved;
		return NULL;
	}
	return engine;
}

void engine_free(struct engine *engine)
{
	bury_all(engine);
	if (engine->pool != NULL) {
		ev_prepare_stop(engine->loop, &engine->undertaker);
		hold_pool_free(engine->pool);
	}
	if (engine->hangup != NULL)
		hangup_free(engine->hangup);
	if (engine->loop != NULL)
		ev_loop_destroy(engine->loop);
	turns_free(engine->turns);
	free(engine->spare);
	free(engine);
}
