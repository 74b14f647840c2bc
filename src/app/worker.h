/* SPDX-License-Identifier: ISC */
#ifndef APP_WORKER_H
#define APP_WORKER_H

#include <ev.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/engine.h"

/*
 * What a worker does with a role. context is what worker_open() was given; the pointer from open()
 * goes into the others.
 */
struct role_ops {
	/* NULL: failed, and has logged why. */
	void *(*open)(void *context, struct engine *engine, unsigned index);
	void (*drain)(void *role, void (*done)(void *arg), void *arg);
	void (*abort)(void *role);
	void (*close)(void *role);
	/* True while it can take new flows; asked from another thread. NULL: nobody wants to know. */
	bool (*able)(const void *role);
};

/*
 * A thread with an engine and a role in it. It's opened and closed by the main thread while its own
 * thread doesn't run, so that errors show at start and nothing is left at the end.
 */
struct worker {
	const struct role_ops *ops;
	struct engine *engine;
	void *role;
	pthread_t thread;
	bool running;		     /* the thread was started and hasn't been joined */
	atomic_bool drained;	     /* no flow is left and none will come */
	struct ev_loop *home;	     /* the main thread's loop */
	ev_async *wake;		     /* sent there when drained becomes true */
	ev_async drain, abort, stop; /* orders of the main thread */
};

/* Makes engine and role. Returns 0; or -1 after having logged why, and there's nothing to close. */
int worker_open(struct worker *w, const struct engine_settings *settings,
		const struct role_ops *ops, void *context, unsigned index);

/* Starts the thread; wake is sent to home once the worker is drained. Returns 0, or an errno. */
int worker_start(struct worker *w, unsigned index, struct ev_loop *home, ev_async *wake);

/*
 * Orders to a running worker, from any thread. Drain lets flows finish, abort resets them: both
 * lead to drained. Stop ends the thread. A drained worker keeps running until it's told to stop,
 * because other workers may still need it.
 */
void worker_drain(struct worker *w);
void worker_abort(struct worker *w);
void worker_stop(struct worker *w);

/* Waits for the thread to end, if it was started. */
void worker_join(struct worker *w);

/*
 * Ends the role; the thread must not run. Close the roles of all workers before the first
 * worker_free().
 */
void worker_close(struct worker *w);
void worker_free(struct worker *w);

#endif
