/* SPDX-License-Identifier: ISC */
#ifndef LOCAL_RELAY_H
#define LOCAL_RELAY_H

#include <signal.h>
#include <string.h>

#include "net/sock.h"
#include "role/relay.h"
#include "tests/unit/unit.h"

#define PATIENCE 30 /* seconds */

/* A server on loopback, and settings of a relay that lets anybody connect to it. Returns the server's listener. */
static inline int local_relay(struct relay_settings *settings, union addr *server)
{
	const char *why;
	int listener;

	signal(SIGPIPE, SIG_IGN);
	memset(settings, 0, sizeof(*settings));
	ck_assert_int_eq(addr_parse(server, "127.0.0.1:0", 0, false), 0);
	listener = sock_listen(server, false);
	ck_assert_int_eq(sock_local(listener, server), 0);
	ck_assert_int_eq(addr_parse(&settings->listen, "127.0.0.1:0", 0, false), 0);
	ck_assert_int_eq(sock_claim(&settings->listen), 0);
	ck_assert_int_eq(rules_add(&settings->rules, true, "127.0.0.0/8", &why), 0);
	settings->greeting_timeout = settings->connect_timeout = settings->join_timeout = PATIENCE;
	settings->idle_timeout = 600.;
	settings->max_stripes = settings->max_stripes_per_peer = settings->max_groups = 1000;
	return listener;
}

#endif
