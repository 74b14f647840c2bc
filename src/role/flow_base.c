/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "net/sock.h"
#include "role/flow.h"

/*
 * The base protocol's groups: the first stripe is given the connection number, the others name it; none outlives its flow.
 */
static void on_closed(struct stripe *stripe, const char *why)
{
	(void)stripe;
	(void)why;
}

static const struct stripe_ops base_stripe_ops = {.control = stripe_refuse_control, .idle = stripe_end_idle, .closed = on_closed};

static void dialled(void *arg, struct dial *dial, int fd, const struct dial_result *result, const char *why);

static bool dial_one(struct flow *flow, uint32_t number)
{
	struct flow_dial *entry = malloc(sizeof(*entry));
	struct dial_plan plan = flow->proxy->plan;

	if (entry == NULL)
		return false;
	plan.number = number;
	entry->flow = flow;
	entry->dial = dial_start(flow->proxy->engine->loop, &plan, dialled, entry);
	if (entry->dial == NULL) {
		free(entry);
		return false;
	}
	LIST_INSERT_HEAD(&flow->dials, entry, link);
	return true;
}

static void dial_others(struct flow *flow)
{
	for (unsigned i = 1; i < flow->proxy->settings->stripes; i++) {
		if (!dial_one(flow, flow->group->number)) {
			flow_fail(flow, strerror(errno));
			return;
		}
	}
}

static void dialled(void *arg, struct dial *dial, int fd, const struct dial_result *result, const char *why)
{
	struct flow_dial *entry = arg;
	struct flow *flow = entry->flow;
	struct group *group = flow->group;
	struct stripe *stripe;

	(void)dial;
	LIST_REMOVE(entry, link);
	free(entry);
	if (fd < 0) {
		counter_add(&flow->proxy->engine->counters.stripes_failed, 1);
		flow_fail(flow, why);
		return;
	}
	stripe = stripe_new(flow->proxy->engine, fd, true, &base_stripe_ops, NULL);
	if (stripe == NULL) {
		sock_abort(fd);
		flow_fail(flow, "out of memory");
		return;
	}
	group->joining--;
	group_add(group, stripe, NULL);
	if (!group->ended && group->number == 0) {
		group->number = result->number;
		dial_others(flow);
	}
}

void flow_dial_base(struct flow *flow)
{
	if (!dial_one(flow, 0))
		flow_fail(flow, strerror(errno));
}

void flow_cancel_dials(struct flow *flow)
{
	struct flow_dial *entry;

	while ((entry = LIST_FIRST(&flow->dials)) != NULL) {
		LIST_REMOVE(entry, link);
		dial_cancel(entry->dial);
		free(entry);
	}
}
