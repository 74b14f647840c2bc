/* SPDX-License-Identifier: ISC */
#include "app/daemon.h"

#include <config.h>
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/control.h"
#include "app/report.h"
#include "base/log.h"
#include "net/heartbeat.h"
#include "net/notify.h"
#include "net/privileges.h"
#include "net/sock.h"

/* Descriptors that no flow uses: loops, listeners, pipes, logs. */
#define DESCRIPTORS_OWN 512

/* No kernel allows more than this without sysctl fs.nr_open. */
#define DESCRIPTORS_MAX (1UL << 20)

/* Seconds; the rules hold for 3 by default. */
#define BEAT_INTERVAL 1.

/* Of a bulk flow on a path where more bring nothing. */
#define STRIPES_USUAL 8

/* Whoever runs with less room for flows than this should know. */
#define FLOWS_FEW 1000

struct daemon {
	struct config *config;
	struct engine_commons commons;
	struct worker *workers;
	unsigned open;	  /* workers that worker_close() and worker_free() are for */
	unsigned running; /* workers whose threads were started */
	struct ev_loop *loop;
	double started;
	bool stopping, aborting;
	ev_async wake; /* a worker is drained */
	ev_signal terminate, interrupt;
	ev_timer grace;
	ev_timer beat;
	unsigned beats_failed; /* in a row */
	struct control_socket *control;
};

void daemon_complain(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("ro-ro-tcp: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
}

bool daemon_load(struct config *c, enum options_role role, int argc, char **argv, int *code)
{
	char why[OPTIONS_WHY];

	*code = EXIT_FAILED;
	if (sodium_init() < 0) {
		daemon_complain("there is no source of random numbers");
		return false;
	}
	if (config_load(c, role, argc, argv, why) < 0) {
		daemon_complain("%s", why);
		*code = EXIT_USAGE;
	} else if (c->options.help) {
		printf("ro-ro-tcp %s [OPTION]...\n\n", config_role_name(role));
		options_help(role, stdout);
		*code = EXIT_GOOD;
	} else {
		return true;
	}
	config_clear(c);
	return false;
}

static const char *congestion_name(const struct daemon *d)
{
	const char *name = d->workers[0].engine->settings.congestion;

	return *name ? name : "default congestion control";
}

static char *make_report(void *arg)
{
	const struct daemon *d = arg;
	const struct report report = {
		.role = config_role_name(d->config->options.role),
		.version = PACKAGE_VERSION,
		.pid = getpid(),
		.uptime = ev_time() - d->started,
		.workers = d->config->workers,
		.congestion = congestion_name(d),
		.splice = d->config->engine.splice,
	};
	struct report_counters sum = { 0 };

	for (unsigned i = 0; i < d->config->workers; i++)
		report_add(&sum, &d->workers[i].engine->counters);
	return report_json(&report, &sum);
}

/*
 * A flow takes one descriptor and one for each of its stripes, of which few flows have many at a time. A default that cannot be reached is
 * no reason to warn, but a wish of the user's is, and so is a limit that any gateway will run into.
 */
static void raise_descriptors(const struct config *c)
{
	const struct options *o = &c->options;
	bool proxy = o->role == OPTIONS_PROXY;
	unsigned long flows = proxy ? o->max_flows : o->max_groups;
	unsigned long stripes = o->stripes < STRIPES_USUAL ? o->stripes : STRIPES_USUAL;
	unsigned long each = proxy ? 1 + stripes : 2;
	unsigned long wanted = DESCRIPTORS_OWN +
			       c->workers * (flows + (proxy ? flows * stripes : o->max_stripes));
	unsigned long limit =
		privileges_raise_descriptors(wanted < DESCRIPTORS_MAX ? wanted : DESCRIPTORS_MAX);
	unsigned long room = limit > DESCRIPTORS_OWN ? (limit - DESCRIPTORS_OWN) / each : 0;
	const char *option = proxy ? "max-flows" : "max-groups";

	if (room < FLOWS_FEW ||
	    (options_source(o, option) != OPTIONS_DEFAULT && room < flows * c->workers))
		log_warnx("the limit of %lu descriptors is enough for %lu flows: raise it "
			  "(LimitNOFILE= of the unit, or ulimit -n)",
			  limit, room);
	else
		log_debug("%lu descriptors, enough for %lu flows", limit, room);
}

static int open_workers(struct daemon *d, const struct role_ops *ops, void *context)
{
	struct config *c = d->config;
	struct engine_settings settings = c->engine;
	char text[ADDR_TEXT];

	settings.commons = &d->commons;
	if (sock_claim(config_listen(c)) < 0) {
		log_warn("--listen: cannot listen on %s", addr_format(config_listen(c), text));
		return -1;
	}
	for (; d->open < c->workers; d->open++) {
		if (worker_open(&d->workers[d->open], &settings, ops, context, d->open) < 0)
			return -1;
	}
	return 0;
}

static int open_control(struct daemon *d, const struct privileges_user *user)
{
	const char *path = d->config->options.control;
	char why[OPTIONS_WHY];

	if (strcmp(path, "none") == 0)
		return 0;
	d->control =
		control_open(d->loop, path, user->uid, user->gid, make_report, d, why, sizeof(why));
	if (d->control)
		return 0;
	if (options_source(&d->config->options, "control") != OPTIONS_DEFAULT) {
		log_warnx("--control: %s", why);
		return -1;
	}
	log_warnx("%s; going on without it", why);
	return 0;
}

/* Opens all that needs privileges, then gives them up. */
static int open_all(struct daemon *d, const struct role_ops *ops, void *context)
{
	const char *name = d->config->options.user;
	struct privileges_user user;
	char why[OPTIONS_WHY];

	if (privileges_find_user(name, &user, why, sizeof(why)) < 0) {
		log_warnx("%s", why);
		return -1;
	}
	raise_descriptors(d->config);
	if (open_workers(d, ops, context) < 0 || open_control(d, &user) < 0)
		return -1;
	if (privileges_drop(&user, true, why, sizeof(why)) < 0) {
		log_warnx("%s", why);
		return -1;
	}
	log_debug("running as user %u with %s", (unsigned)user.uid,
		  privileges_net_admin() ? "CAP_NET_ADMIN" : "no capabilities");
	return 0;
}

static int start_workers(struct daemon *d)
{
	for (; d->running < d->open; d->running++) {
		int error = worker_start(&d->workers[d->running], d->running, d->loop, &d->wake);

		if (error) {
			log_warnx("cannot start a thread: %s", strerror(error));
			return -1;
		}
	}
	return 0;
}

static void abort_flows(struct daemon *d)
{
	if (d->aborting)
		return;
	d->aborting = true;
	for (unsigned i = 0; i < d->running; i++)
		worker_abort(&d->workers[i]);
}

static void on_signal(struct ev_loop *loop, ev_signal *signal, int events)
{
	struct daemon *d = signal->data;
	double grace = d->config->options.grace;

	(void)events;
	if (d->stopping) {
		log_info("stopping at once");
		abort_flows(d);
		return;
	}
	d->stopping = true;
	if (ev_is_active(&d->beat)) {
		ev_timer_stop(loop, &d->beat);
		heartbeat_stop();
	}
	log_info("stopping: flows may go on for %g seconds", grace);
	notify_state("STOPPING=1");
	for (unsigned i = 0; i < d->running; i++)
		worker_drain(&d->workers[i]);
	ev_timer_set(&d->grace, grace, 0.);
	ev_timer_start(loop, &d->grace);
}

/*
 * The firewall sends flows to us as long as all workers can take them: one that hangs, or a relay that doesn't answer, must not cut the LAN off.
 */
static void on_beat(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct daemon *d = timer->data;
	const char *path;

	(void)loop;
	(void)events;
	for (unsigned i = 0; i < d->running; i++) {
		if (!d->workers[i].ops->able(d->workers[i].role))
			return;
	}
	if (heartbeat_beat(&path) == 0) {
		d->beats_failed = 0;
		return;
	}
	/* The first may have come when the rules were just being put up, and the list was not yet given to our user. */
	if (++d->beats_failed == 2)
		log_warn("%s cannot be written, so the firewall takes no flows (ro-ro-tcp-firewall up --user "
			 "must name the user that the proxy runs as)",
			 path);
}

static void on_grace_over(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	log_info("the grace time is over: resetting what is left");
	abort_flows(timer->data);
}

static void on_wake(struct ev_loop *loop, ev_async *wake, int events)
{
	struct daemon *d = wake->data;

	(void)events;
	for (unsigned i = 0; i < d->running; i++) {
		if (!atomic_load(&d->workers[i].drained))
			return;
	}
	ev_break(loop, EVBREAK_ALL);
}

static void start_watchers(struct daemon *d)
{
	ev_async_init(&d->wake, on_wake);
	ev_signal_init(&d->terminate, on_signal, SIGTERM);
	ev_signal_init(&d->interrupt, on_signal, SIGINT);
	ev_timer_init(&d->grace, on_grace_over, 0., 0.);
	ev_timer_init(&d->beat, on_beat, 0., BEAT_INTERVAL);
	d->wake.data = d->beat.data = d->terminate.data = d->interrupt.data = d->grace.data = d;
	ev_async_start(d->loop, &d->wake);
	ev_signal_start(d->loop, &d->terminate);
	ev_signal_start(d->loop, &d->interrupt);
}

static void stop_watchers(struct daemon *d)
{
	ev_async_stop(d->loop, &d->wake);
	ev_signal_stop(d->loop, &d->terminate);
	ev_signal_stop(d->loop, &d->interrupt);
	ev_timer_stop(d->loop, &d->grace);
	ev_timer_stop(d->loop, &d->beat);
}

/* Which congestion control it is and why, since it decides how fast a lossy path is. */
static void log_congestion(const struct daemon *d)
{
	const char *name = congestion_name(d);

	if (d->config->engine.congestion[0])
		log_debug("stripes use %s, as told", name);
	else if (strcmp(name, "bbr") == 0)
		log_debug("stripes use bbr, the best for paths with loss; the kernel has it");
	else
		log_info("stripes use %s: the kernel does not have bbr, or does not allow it "
			 "(modprobe tcp_bbr)",
			 name);
}

static void log_ready(const struct daemon *d, const char *detail)
{
	char text[ADDR_TEXT];

	log_congestion(d);
	log_info("ready: %s on %s%s, %s, %s", config_role_name(d->config->options.role),
		 addr_format(config_listen(d->config), text), detail, congestion_name(d),
		 d->config->engine.splice ? "splice" : "copy");
	notify_state("READY=1");
}

static void close_all(struct daemon *d)
{
	control_close(d->control);
	for (unsigned i = 0; i < d->running; i++)
		worker_stop(&d->workers[i]);
	for (unsigned i = 0; i < d->running; i++)
		worker_join(&d->workers[i]);
	for (unsigned i = 0; i < d->open; i++)
		worker_close(&d->workers[i]);
	for (unsigned i = 0; i < d->open; i++)
		worker_free(&d->workers[i]);
	if (d->loop) {
		stop_watchers(d);
		ev_loop_destroy(d->loop);
	}
	free(d->workers);
}

int daemon_run(struct config *c, const struct role_ops *ops, void *context, const char *detail)
{
	struct daemon d = {
		.config = c,
		.workers = calloc(c->workers, sizeof(*d.workers)),
		/* By signalfd(2): signals come in the loop's turn, and no handler interrupts anything. */
		.loop = ev_loop_new(EVFLAG_NOENV | EVFLAG_SIGNALFD),
		.started = ev_time(),
	};
	int code = EXIT_FAILED;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	if (!d.workers || !d.loop) {
		log_warn("cannot start");
		free(d.workers);
		if (d.loop)
			ev_loop_destroy(d.loop);
		return EXIT_FAILED;
	}
	start_watchers(&d);
	if (open_all(&d, ops, context) == 0 && start_workers(&d) == 0) {
		log_ready(&d, detail);
		if (ops->able != NULL)
			ev_timer_start(d.loop, &d.beat);
		ev_run(d.loop, 0);
		code = EXIT_GOOD;
	}
	close_all(&d);
	return code;
}
