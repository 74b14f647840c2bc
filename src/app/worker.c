/* SPDX-License-Identifier: ISC */
#include "app/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "base/log.h"

static void on_drained(void *arg)
{
	struct worker *w = arg;

	atomic_store(&w->drained, true);
	ev_async_send(w->home, w->wake);
}

static void on_drain(struct ev_loop *loop, ev_async *order, int events)
{
	struct worker *w = order->data;

	(void)loop;
	(void)events;
	w->ops->drain(w->role, on_drained, w);
}

static void on_abort(struct ev_loop *loop, ev_async *order, int events)
{
	struct worker *w = order->data;

	(void)loop;
	(void)events;
	w->ops->abort(w->role);
	on_drained(w);
}

static void on_stop(struct ev_loop *loop, ev_async *order, int events)
{
	(void)order;
	(void)events;
	ev_break(loop, EVBREAK_ALL);
}

static void listen_to(struct worker *w, ev_async *order,
		      void (*obey)(struct ev_loop *, ev_async *, int))
{
	ev_async_init(order, obey);
	order->data = w;
	ev_async_start(w->engine->loop, order);
}

static void log_engine_error(const struct engine_settings *settings)
{
	if (errno == ENOENT && settings->congestion[0])
		log_warnx("--congestion: the kernel does not have \"%s\", or does not allow it: "
			  "modprobe tcp_%s, or see "
			  "net.ipv4.tcp_allowed_congestion_control",
			  settings->congestion, settings->congestion);
	else
		log_warn("cannot set up a worker");
}

int worker_open(struct worker *w, const struct engine_settings *settings,
		const struct role_ops *ops, void *context, unsigned index)
{
	*w = (struct worker){ .ops = ops, .engine = engine_new(settings) };
	if (!w->engine) {
		log_engine_error(settings);
		return -1;
	}
	w->role = ops->open(context, w->engine, index);
	if (!w->role) {
		engine_free(w->engine);
		return -1;
	}
	listen_to(w, &w->drain, on_drain);
	listen_to(w, &w->abort, on_abort);
	listen_to(w, &w->stop, on_stop);
	return 0;
}

static void *run(void *arg)
{
	struct worker *w = arg;

	ev_run(w->engine->loop, 0);
	return NULL;
}

int worker_start(struct worker *w, unsigned index, struct ev_loop *home, ev_async *wake)
{
	sigset_t all, before;
	char name[16];
	int error;

	w->home = home;
	w->wake = wake;
	/* Signals are the main thread's: a new thread inherits the mask. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&w->thread, NULL, run, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return error;
	w->running = true;
	snprintf(name, sizeof(name), "worker %u", index);
	pthread_setname_np(w->thread, name);
	return 0;
}

void worker_drain(struct worker *w)
{
	ev_async_send(w->engine->loop, &w->drain);
}

void worker_abort(struct worker *w)
{
	ev_async_send(w->engine->loop, &w->abort);
}

void worker_stop(struct worker *w)
{
	ev_async_send(w->engine->loop, &w->stop);
}

void worker_join(struct worker *w)
{
	if (w->running)
		pthread_join(w->thread, NULL);
	w->running = false;
}

void worker_close(struct worker *w)
{
	w->ops->close(w->role);
	w->role = NULL;
}

void worker_free(struct worker *w)
{
	ev_async_stop(w->engine->loop, &w->drain);
	ev_async_stop(w->engine->loop, &w->abort);
	ev_async_stop(w->engine->loop, &w->stop);
	engine_free(w->engine);
	w->engine = NULL;
}
