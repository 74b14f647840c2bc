/* SPDX-License-Identifier: ISC */
#ifndef ROLE_FLOW_H
#define ROLE_FLOW_H

#include <sys/queue.h>

#include "core/group.h"
#include "net/conntrack.h"
#include "role/dial.h"
#include "role/fan.h"
#include "role/proxy.h"
#include "role/supply.h"

/* Stripes of a base group are dialled for it alone. */
struct flow_dial {
	struct flow *flow;
	struct dial *dial;
	LIST_ENTRY(flow_dial) link;
};

/* A captured client connection on its way to its destination. */
struct flow {
	struct grave grave;
	TAILQ_ENTRY(flow) link;
	struct proxy *proxy;
	uint32_t id; /* in the log */
	union addr client;
	union addr destination;
	int fd;		     /* the client's, until it is the group's */
	struct group *group; /* NULL until the destination is known */
	struct conntrack_query query;
	struct supply_wish wish;
	uint8_t token[TOKEN_SIZE];
	const struct stripe *opener; /* the one that Open was sent on; only to be compared */
	struct fan fan;
	bool noted; /* in the proxy's appetite, as bulk */
	bool sharing; /* one of the proxy's bulk_flows */
	bool parting; /* it needs no more stripes */
	bool reopened; /* the first opener was lost */
	LIST_HEAD(, flow_dial) dials;
};

TAILQ_HEAD(flow_list, flow);

/* The workings of a proxy, which proxy.c and the flow files share. */
struct proxy {
	struct engine *engine;
	const struct proxy_settings *settings;
	struct proxy_front *front; /* listener; proxy.c's own */
	struct conntrack *conntrack;
	struct supply *supply; /* NULL with the base protocol */
	struct dial_plan plan;
	struct flow_list flows;
	unsigned flow_count;
	uint32_t next_id;
	unsigned bulk_flows; /* that share the path: were busy at the last look, or have become bulk since */
	double appetite; /* share of the last flows that turned out to be bulk, 0 to 1 */
};

/* What stripes of an extended proxy call; their owner is the proxy. */
extern const struct stripe_ops flow_stripe_ops;

/* Takes over an accepted connection. */
void flow_start(struct proxy *proxy, int fd, const union addr *client);

/* Ends it at once, resetting everything. */
void flow_abort(struct flow *flow);

/* Gives it more stripes, or takes some back. Called every FAN_INTERVAL. */
void flow_look(struct flow *flow);

/* It is one of the bulk flows that share the path, or isn't any more. */
void flow_share(struct flow *flow, bool sharing);

/* Flow with a destination and a group: gets its first stripes in the base protocol. */
void flow_dial_base(struct flow *flow);
void flow_cancel_dials(struct flow *flow);

/* The relay can't be had for it. */
void flow_fail(struct flow *flow, const char *why);

/* Something that draining waits for has gone. Implemented by proxy.c. */
void proxy_check_drained(struct proxy *proxy);

#endif
