/* SPDX-License-Identifier: ISC */
#include "app/commands.h"
#include "app/daemon.h"
#include "base/log.h"

struct context {
	const struct relay_settings *settings;
	struct relay_team *team;
};

static void *open_role(void *arg, struct engine *engine, unsigned index)
{
	const struct context *context = arg;

	return relay_new(engine, context->settings, context->team, index);
}

static void drain_role(void *role, void (*done)(void *arg), void *arg)
{
	relay_drain(role, done, arg);
}

static void abort_role(void *role)
{
	relay_abort(role);
}

static void close_role(void *role)
{
	relay_free(role);
}

static const struct role_ops ops = {
	.open = open_role,
	.drain = drain_role,
	.abort = abort_role,
	.close = close_role,
};

int cmd_relay(int argc, char **argv)
{
	struct config c;
	struct context context = { .settings = &c.relay };
	int code;

	if (!daemon_load(&c, OPTIONS_RELAY, argc, argv, &code))
		return code;
	context.team = relay_team_new(c.workers);
	if (context.team) {
		code = daemon_run(&c, &ops, &context, "");
		relay_team_free(context.team);
	} else {
		log_warn("cannot start");
		code = EXIT_FAILED;
	}
	config_clear(&c);
	return code;
}
