/* SPDX-License-Identifier: ISC */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/sock.h"
#include "role/acceptor.h"
#include "role/flow.h"
#include "role/proxy.h"

/* A worker whose loop hasn't come round for this long hangs. */
#define ABLE_MS 3000

struct proxy_front {
	struct acceptor acceptor;
	struct proxy *proxy;
	ev_timer look;
	_Atomic int64_t able_at; /* milliseconds of the monotonic clock; 0: not */
	proxy_drained *drained;
	void *drained_arg;
};

static void on_accepted(struct acceptor *acceptor, int fd, const union addr *client)
{
	struct proxy_front *front = (struct proxy_front *)((char *)acceptor - offsetof(struct proxy_front, acceptor));
	struct proxy *proxy = front->proxy;

	if (proxy->flow_count < proxy->settings->max_flows) {
		flow_start(proxy, fd, client);
		return;
	}
	counter_add(&proxy->engine->counters.flows_refused, 1);
	sock_abort(fd);
}

static int64_t now_ms(void)
{
	return (int64_t)(clock_monotonic() * 1000);
}

bool proxy_able(const struct proxy *proxy)
{
	int64_t at = atomic_load(&proxy->front->able_at);

	return at != 0 && now_ms() - at < ABLE_MS;
}

/* The base protocol keeps no stripes that would tell whether the relay answers. */
static void note_able(struct proxy *proxy)
{
	bool able = proxy->supply == NULL || supply_hopeful(proxy->supply);

	atomic_store(&proxy->front->able_at, able ? now_ms() : 0);
}

static void on_look(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct proxy *proxy = timer->data;
	struct flow *flow, *next;

	(void)loop;
	(void)revents;
	note_able(proxy);
	for (flow = TAILQ_FIRST(&proxy->flows); flow != NULL; flow = next) {
		next = TAILQ_NEXT(flow, link);
		flow_look(flow);
	}
	TAILQ_FOREACH(flow, &proxy->flows, link)
		flow_share(flow, fan_is_busy(&flow->fan));
}

static bool open_conntrack(struct proxy *proxy)
{
	const struct proxy_settings *settings = proxy->settings;

	proxy->conntrack = conntrack_new(proxy->engine->loop, settings->conntrack_zone, settings->conntrack_timeout);
	if (proxy->conntrack == NULL)
		log_warn("conntrack can't be asked (is nf_conntrack_netlink loaded, and CAP_NET_ADMIN given?)");
	return proxy->conntrack != NULL;
}

static bool open_listener(struct proxy *proxy)
{
	const struct proxy_settings *settings = proxy->settings;
	char text[ADDR_TEXT];

	if (acceptor_open(&proxy->front->acceptor, proxy->engine->loop, &proxy->engine->counters, &settings->listen,
			  settings->capture == CAPTURE_TPROXY) == 0)
		return true;
	log_warn("listening on %s%s", addr_format(&settings->listen, text),
		 settings->capture == CAPTURE_TPROXY ? " (transparent; needs CAP_NET_ADMIN)" : "");
	return false;
}

static bool open_supply(struct proxy *proxy)
{
	const struct proxy_settings *settings = proxy->settings;

	proxy->plan = (struct dial_plan){
		.relay = &settings->relay,
		.congestion = proxy->engine->settings.congestion,
		.key = &settings->key,
		.timeout = settings->connect_timeout,
		.base = settings->base_protocol,
	};
	if (settings->base_protocol)
		return true;
	proxy->supply = supply_new(proxy->engine, &proxy->plan, settings->pool_min, settings->pool_max,
				   &flow_stripe_ops, proxy);
	if (proxy->supply == NULL)
		log_warn("making the pool of stripes");
	return proxy->supply != NULL;
}

struct proxy *proxy_new(struct engine *engine, const struct proxy_settings *settings)
{
	struct proxy *proxy = calloc(1, sizeof(*proxy));
	struct proxy_front *front = calloc(1, sizeof(*front));

	if (proxy == NULL || front == NULL) {
		log_warn("making a proxy");
		free(proxy);
		free(front);
		return NULL;
	}
	proxy->engine = engine;
	proxy->settings = settings;
	proxy->front = front;
	front->proxy = proxy;
	front->acceptor.fd = -1;
	front->acceptor.accepted = on_accepted;
	proxy->appetite = 1.;
	TAILQ_INIT(&proxy->flows);
	ev_timer_init(&front->look, on_look, 0., FAN_INTERVAL);
	front->look.data = proxy;
	if (!open_conntrack(proxy) || !open_supply(proxy) || !open_listener(proxy)) {
		proxy_free(proxy);
		return NULL;
	}
	if (proxy->supply != NULL)
		supply_start(proxy->supply);
	ev_timer_start(engine->loop, &front->look);
	return proxy;
}

void proxy_check_drained(struct proxy *proxy)
{
	struct proxy_front *front = proxy->front;
	proxy_drained *drained = front->drained;

	if (drained == NULL || proxy->flow_count > 0 || proxy->engine->leaving > 0)
		return;
	front->drained = NULL;
	drained(front->drained_arg);
}

void proxy_drain(struct proxy *proxy, proxy_drained *done, void *arg)
{
	acceptor_close(&proxy->front->acceptor);
	if (proxy->supply != NULL)
		supply_stop(proxy->supply);
	proxy->front->drained = done;
	proxy->front->drained_arg = arg;
	proxy_check_drained(proxy);
}

void proxy_abort(struct proxy *proxy)
{
	struct flow *flow;

	acceptor_close(&proxy->front->acceptor);
	while ((flow = TAILQ_FIRST(&proxy->flows)) != NULL)
		flow_abort(flow);
	stripe_close_all(proxy->engine);
}

void proxy_free(struct proxy *proxy)
{
	proxy_abort(proxy);
	ev_timer_stop(proxy->engine->loop, &proxy->front->look);
	if (proxy->supply != NULL)
		supply_free(proxy->supply);
	if (proxy->conntrack != NULL)
		conntrack_free(proxy->conntrack);
	free(proxy->front);
	free(proxy);
}
