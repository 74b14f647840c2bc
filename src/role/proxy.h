/* SPDX-License-Identifier: ISC */
#ifndef ROLE_PROXY_H
#define ROLE_PROXY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "core/engine.h"
#include "wire/greeting.h"

enum capture { CAPTURE_TPROXY, CAPTURE_REDIRECT };

/* Filled by app/config.c; shared by all workers and not changed while they run. Times in seconds. */
struct proxy_settings {
	union addr listen; /* default [::]:9300, dual stack */
	union addr relay;
	enum capture capture;
	bool base_protocol; /* --protocol base */
	unsigned stripes;   /* most stripes of a flow, 1..128 */
	unsigned stripes_min; /* what it has from its start, 1..stripes */
	unsigned pool_min;  /* greeted stripes kept ready: --pool MIN:MAX, per worker; base protocol has none */
	unsigned pool_max;
	struct key key; /* all zero: none */
	uint16_t conntrack_zone;
	double conntrack_timeout;
	double connect_timeout; /* stripe: TCP connect and greeting */
	unsigned max_flows;     /* per worker */
};

struct proxy;

/* Called in the worker's loop when the last flow has ended after proxy_drain(). */
typedef void proxy_drained(void *arg);

/* Makes the listener, so that errors show at start. Returns NULL after having logged why. */
struct proxy *proxy_new(struct engine *engine, const struct proxy_settings *settings);

/*
 * True while new flows have a chance: its loop comes round, and the relay answered when it was last tried. May be called by any thread.
 */
bool proxy_able(const struct proxy *proxy);

/* Stops accepting and calls back, once, when no flow is left. */
void proxy_drain(struct proxy *proxy, proxy_drained *done, void *arg);

/* Resets all flows at once. proxy_free() may follow. */
void proxy_abort(struct proxy *proxy);
void proxy_free(struct proxy *proxy);

#endif
