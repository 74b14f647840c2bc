/* SPDX-License-Identifier: ISC */
#include <stdio.h>

#include "app/commands.h"
#include "app/daemon.h"
#include "base/log.h"
#include "net/privileges.h"

static void *open_role(void *context, struct engine *engine, unsigned index)
{
	(void)index;
	return proxy_new(engine, context);
}

static void drain_role(void *role, void (*done)(void *arg), void *arg)
{
	proxy_drain(role, done, arg);
}

static void abort_role(void *role)
{
	proxy_abort(role);
}

static void close_role(void *role)
{
	proxy_free(role);
}

static bool role_able(const void *role)
{
	return proxy_able(role);
}

static const struct role_ops ops = {
	.open = open_role,
	.drain = drain_role,
	.abort = abort_role,
	.close = close_role,
	.able = role_able,
};

int cmd_proxy(int argc, char **argv)
{
	struct config c;
	char detail[ADDR_TEXT + 64], relay[ADDR_TEXT];
	int code;

	if (!daemon_load(&c, OPTIONS_PROXY, argc, argv, &code))
		return code;
	snprintf(detail, sizeof(detail), " (%s), relay %s, up to %u stripe%s",
		 c.proxy.capture == CAPTURE_TPROXY ? "tproxy" : "redirect",
		 addr_format(&c.proxy.relay, relay), c.proxy.stripes,
		 c.proxy.stripes == 1 ? "" : "s");
	if (privileges_net_admin()) {
		code = daemon_run(&c, &ops, &c.proxy, detail);
	} else {
		log_warnx("the proxy needs CAP_NET_ADMIN, for transparent sockets and conntrack: "
			  "start it as root");
		code = EXIT_FAILED;
	}
	config_clear(&c);
	return code;
}
