/* SPDX-License-Identifier: ISC */
#include "app/worker.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "tests/unit/unit.h"

#define WORKERS 4

/* A role that has nothing to do but to keep count. Its thread is the worker's. */
struct role {
	struct engine *engine;
	unsigned index;
	bool finishes; /* draining leads to an end without abort */
	pthread_t thread;
	char name[16];
	sigset_t blocked;
	atomic_uint drained, aborted;
};

static struct worker workers[WORKERS];
static struct role roles[WORKERS];
static struct ev_loop *loop;
static ev_async wake;
static unsigned closed;

static void *open_role(void *context, struct engine *engine, unsigned index)
{
	const bool *finishes = context;

	if (!finishes)
		return NULL;
	ck_assert_ptr_nonnull(engine->loop);
	roles[index] = (struct role){ .engine = engine, .index = index, .finishes = *finishes };
	return &roles[index];
}

static void drain_role(void *arg, void (*done)(void *arg), void *done_arg)
{
	struct role *role = arg;

	role->thread = pthread_self();
	pthread_getname_np(role->thread, role->name, sizeof(role->name));
	pthread_sigmask(SIG_SETMASK, NULL, &role->blocked);
	atomic_fetch_add(&role->drained, 1);
	if (role->finishes)
		done(done_arg);
}

static void abort_role(void *arg)
{
	struct role *role = arg;

	atomic_fetch_add(&role->aborted, 1);
}

static void close_role(void *arg)
{
	ck_assert_ptr_nonnull(arg);
	closed++;
}

static const struct role_ops ops = {
	.open = open_role,
	.drain = drain_role,
	.abort = abort_role,
	.close = close_role,
};

static void on_wake(struct ev_loop *l, ev_async *w, int events)
{
	(void)w;
	(void)events;
	for (unsigned i = 0; i < WORKERS; i++) {
		if (!atomic_load(&workers[i].drained))
			return;
	}
	ev_break(l, EVBREAK_ALL);
}

static void set_up(bool finishes)
{
	const struct engine_settings settings = { .splice = true };

	log_init(LOG_LEVEL_WARN);
	loop = ev_loop_new(EVFLAG_NOENV);
	ev_async_init(&wake, on_wake);
	ev_async_start(loop, &wake);
	for (unsigned i = 0; i < WORKERS; i++)
		ck_assert_int_eq(worker_open(&workers[i], &settings, &ops, &finishes, i), 0);
	for (unsigned i = 0; i < WORKERS; i++)
		ck_assert_int_eq(worker_start(&workers[i], i, loop, &wake), 0);
}

static void tear_down(void)
{
	for (unsigned i = 0; i < WORKERS; i++)
		worker_stop(&workers[i]);
	for (unsigned i = 0; i < WORKERS; i++)
		worker_join(&workers[i]);
	for (unsigned i = 0; i < WORKERS; i++)
		worker_close(&workers[i]);
	for (unsigned i = 0; i < WORKERS; i++)
		worker_free(&workers[i]);
	ck_assert_uint_eq(closed, WORKERS);
	ev_async_stop(loop, &wake);
	ev_loop_destroy(loop);
}

START_TEST(test_drain)
{
	char name[16];

	set_up(true);
	for (unsigned i = 0; i < WORKERS; i++)
		worker_drain(&workers[i]);
	ev_run(loop, 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		snprintf(name, sizeof(name), "worker %u", i);
		ck_assert_str_eq(roles[i].name, name);
		ck_assert(pthread_equal(roles[i].thread, workers[i].thread));
		ck_assert(sigismember(&roles[i].blocked, SIGTERM));
		ck_assert(sigismember(&roles[i].blocked, SIGINT));
		ck_assert_uint_eq(atomic_load(&roles[i].drained), 1);
		ck_assert_uint_eq(atomic_load(&roles[i].aborted), 0);
	}
	tear_down();
}
END_TEST

/* Flows that don't end by themselves. */
START_TEST(test_abort)
{
	set_up(false);
	for (unsigned i = 0; i < WORKERS; i++)
		worker_drain(&workers[i]);
	for (unsigned i = 0; i < WORKERS; i++)
		worker_abort(&workers[i]);
	ev_run(loop, 0);
	for (unsigned i = 0; i < WORKERS; i++)
		ck_assert_uint_eq(atomic_load(&roles[i].aborted), 1);
	tear_down();
}
END_TEST

/* As when the start fails further on: no thread was ever asked to drain. */
START_TEST(test_stop_at_once)
{
	set_up(true);
	tear_down();
}
END_TEST

START_TEST(test_never_started)
{
	const struct engine_settings settings = { .splice = false };
	bool finishes = true;

	ck_assert_int_eq(worker_open(&workers[0], &settings, &ops, &finishes, 0), 0);
	worker_join(&workers[0]);
	worker_close(&workers[0]);
	worker_free(&workers[0]);
	ck_assert_uint_eq(closed, 1);
}
END_TEST

START_TEST(test_open_fails)
{
	struct engine_settings settings = { .splice = true };

	ck_assert_int_eq(worker_open(&workers[0], &settings, &ops, NULL, 0), -1);
	strcpy(settings.congestion, "no-such-thing");
	ck_assert_int_eq(worker_open(&workers[0], &settings, &ops, NULL, 0), -1);
	ck_assert_uint_eq(closed, 0);
}
END_TEST

int main(void)
{
	return RUN_TESTS("worker", test_drain, test_abort, test_stop_at_once, test_never_started,
			 test_open_fails);
}
