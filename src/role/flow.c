/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "core/loss.h"
#include "net/sock.h"
#include "role/flow.h"

/* Payload bytes after which a flow is worth all its stripes. */
#define GROW_AT (16 * 1024)

/* Milliseconds after which an idle stripe isn't trusted: it's pinged more often. */
#define SILENCE_MAX 25000

/* Seconds that stripes may take to leave a flow that is opened anew. */
#define LEAVE_TIME 2.

/* Seconds: a flow that was shorter shows nothing new of the path. */
#define IDLE_AGE 0.001

/* How many flows the appetite remembers. */
#define APPETITE_MEMORY 8

/* Lines of the log about a flow begin alike. */
static void tell(const struct flow *flow, const char *what, const char *more)
{
	char client[ADDR_TEXT], destination[ADDR_TEXT];

	log_warnx("flow %u: client %s -> %s: %s%s", flow->id, addr_format(&flow->client, client),
		  addr_format(&flow->destination, destination), what, more);
}

static void tell_quietly(const struct flow *flow, const char *what, const char *more)
{
	char client[ADDR_TEXT], destination[ADDR_TEXT];

	if (log_debugging())
		log_debug("flow %u: client %s -> %s: %s%s", flow->id, addr_format(&flow->client, client),
			  addr_format(&flow->destination, destination), what, more);
}

void flow_share(struct flow *flow, bool sharing)
{
	flow->proxy->bulk_flows += (unsigned)sharing - (unsigned)flow->sharing;
	flow->sharing = sharing;
}

static void flow_free(struct flow *flow)
{
	struct proxy *proxy = flow->proxy;

	flow_share(flow, false);
	conntrack_cancel(&flow->query);
	if (proxy->supply != NULL)
		supply_withdraw(proxy->supply, &flow->wish);
	flow_cancel_dials(flow);
	if (flow->fd >= 0)
		sock_abort(flow->fd);
	TAILQ_REMOVE(&proxy->flows, flow, link);
	proxy->flow_count--;
	engine_bury(proxy->engine, &flow->grave);
	proxy_check_drained(proxy);
}

/* The group, where there is one, frees the flow by calling on_ended(). */
void flow_abort(struct flow *flow)
{
	if (flow->group != NULL)
		group_end(flow->group, GROUP_ABORT, REASON_SHUTDOWN);
	else
		flow_free(flow);
}

void flow_fail(struct flow *flow, const char *why)
{
	tell(flow, "reset: no way to the relay: ", why);
	group_end(flow->group, GROUP_REFUSE, REASON_UNREACHABLE);
}

/* Each flow tells a little of what the next will be like: it counts as small until it has shown that it isn't. */
static void note_beginning(struct proxy *proxy)
{
	proxy->appetite -= proxy->appetite / APPETITE_MEMORY;
}

static void note_bulk(struct flow *flow)
{
	struct proxy *proxy = flow->proxy;

	if (flow->noted)
		return;
	flow->noted = true;
	proxy->appetite += 1. / APPETITE_MEMORY;
	proxy->appetite = proxy->appetite < 1. ? proxy->appetite : 1.;
}

static void on_ended(struct group *group, enum reason reason)
{
	struct flow *flow = group->owner;

	tell_quietly(flow, "ended: ", reason == REASON_NONE ? "finished" : reason_text(reason));
	flow_free(flow);
}

/* One that the flow can do without: the newest that isn't leaving already. */
static struct stripe *spare_stripe(const struct group *group)
{
	struct stripe *stripe;

	TAILQ_FOREACH_REVERSE(stripe, &group->stripes, stripe_list, group_link) {
		if (!stripe->detach_sent)
			return stripe;
	}
	return NULL;
}

/*
 * Stripes to ask for, if it has so many that it hasn't given back. Those that it has aren't gone as long as the peer hasn't read what they carry: a client that
 * reads now and then would have more of them each time.
 */
static unsigned lacking(const struct flow *flow, unsigned has)
{
	unsigned all = flow->group->stripe_count + flow->wish.missing, most = 2 * flow->fan.target;
	unsigned wanted = flow->fan.target - has - flow->wish.missing, room = most > all ? most - all : 0;

	return wanted < room ? wanted : room;
}

/* Asks for, or gives back, what the fan says. */
static void follow_fan(struct flow *flow)
{
	struct group *group = flow->group;
	struct supply *supply = flow->proxy->supply;
	unsigned has = 0, confirmed = 0, excess, pending;
	struct stripe *stripe;

	if (supply == NULL || flow->parting)
		return;
	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		has += !stripe->detach_sent;
		confirmed += !stripe->detach_sent && !stripe->out.asked;
	}
	if (has + flow->wish.missing < flow->fan.target) {
		supply_ask(supply, &flow->wish, lacking(flow, has));
		return;
	}
	/* What hasn't come yet is given up first; one stripe that works always stays. */
	excess = has + flow->wish.missing - flow->fan.target;
	pending = excess < flow->wish.missing ? excess : flow->wish.missing;
	supply_lower(supply, &flow->wish, pending);
	excess -= pending;
	while (excess-- > 0 && !group->ended && (stripe = spare_stripe(group)) != NULL) {
		if (!stripe->out.asked && --confirmed == 0)
			return;
		stripe_detach(stripe);
	}
}

static void on_grow(struct group *group)
{
	struct flow *flow = group->owner;

	note_bulk(flow);
	flow_share(flow, true);
	fan_note_loss(&flow->fan, loss_is_likely(group->engine));
	fan_bulk(&flow->fan, flow->proxy->bulk_flows);
	follow_fan(flow);
}

/* At the relay it's over, and new stripes would find nothing there. */
static void on_parting(struct group *group)
{
	struct flow *flow = group->owner;

	flow->parting = true;
	supply_withdraw(flow->proxy->supply, &flow->wish);
}

/* Nothing was said but Open and Join, and nothing heard. */
static bool is_untouched(const struct group *group, const struct stripe *opener)
{
	const struct spread *spread = &group->spread;
	const struct merge *merge = &group->merge;

	return group->moved == 0 && group->gather == NULL && !spread->any && !spread->done && merge->delivered == 0 && !merge->ending && opener->in.last == 0;
}

/* Another stripe opens it, under another token. */
static void reopen(struct flow *flow)
{
	struct group *group = flow->group;
	struct stripe *stripe;

	tell_quietly(flow, "opened anew", "");
	flow->reopened = true;
	flow->opener = NULL;
	supply_withdraw(flow->proxy->supply, &flow->wish);
	flow->wish.has_any = false;
	while ((stripe = TAILQ_FIRST(&group->stripes)) != NULL) {
		group_remove(group, stripe);
		stripe_leave(stripe, LEAVE_TIME);
	}
	randombytes_buf(flow->token, sizeof(flow->token));
	follow_fan(flow);
}

/* The opener may have died unnoticed, or the relay was just closing it: that need not be the flow's end. */
static bool on_lost(struct group *group, const struct stripe *stripe)
{
	struct flow *flow = group->owner;

	if (stripe != flow->opener || group->number != 0)
		return false;
	/* What else is idle may be as dead. */
	supply_drop_idle(flow->proxy->supply);
	if (flow->reopened || flow->parting || group->local_failed || !is_untouched(group, stripe))
		return false;
	reopen(flow);
	return true;
}

static const struct group_ops group_ops = {.ended = on_ended, .grow = on_grow, .parting = on_parting, .lost = on_lost};

/* The first stripe opens the group; the others join it at the same moment. */
static void on_take(struct supply_wish *wish, struct stripe *stripe)
{
	struct flow *flow = (struct flow *)((char *)wish - offsetof(struct flow, wish));
	struct control control;

	if (flow->fan.target > 1)
		stripe_look(stripe, 0.);
	if (flow->opener == NULL) {
		flow->opener = stripe;
		/* So what comes first tends to leave with Open: the warmest stripe, and the one that need not wait for another. */
		flow->group->spread.last = stripe;
		/* So a relay of several workers need not move it. Where stripes join they are mixed anew. */
		if (stripe->home != 0 && flow->fan.target == 1)
			memcpy(flow->token, &stripe->home, sizeof(stripe->home));
		control.type = CONTROL_OPEN;
		memcpy(control.open.token, flow->token, TOKEN_SIZE);
		control.open.destination = flow->destination;
		control.open.client = flow->client;
	} else {
		/*
		 * One that has died unnoticed, or that the relay is just closing, would take with it what it carries. So it carries nothing
		 * until it was answered; but at the flow's beginning, when all hangs on the opener anyway, one that was lately heard of may.
		 */
		stripe->out.asked = true;
		stripe->out.waits = flow->group->number != 0 || stripe->out.path.silence > SILENCE_MAX;
		control.type = CONTROL_JOIN;
		memcpy(control.join.token, flow->token, TOKEN_SIZE);
	}
	memcpy(&stripe->home, flow->token, sizeof(stripe->home));
	group_add(flow->group, stripe, &control);
}

static void on_no_stripe(struct supply_wish *wish, const char *why)
{
	flow_fail((struct flow *)((char *)wish - offsetof(struct flow, wish)), why);
}

static void refused(struct flow *flow, enum reason reason)
{
	tell(flow, "refused: ", reason_text(reason));
	group_end(flow->group, GROUP_REFUSE, reason);
}

/* Refused is what the stripe asked for: with Open the flow, with Join only its part in it, if nothing went out on it yet that is still wanted. */
static void refused_by(struct flow *flow, struct stripe *stripe, enum reason reason)
{
	const struct group *group = flow->group;
	bool lost = stripe->out.carried && !group->spread.stopped;

	/* Joins that wait for Open are given the reason that it is given, and one of these may come first. */
	if (group->number == 0 && (stripe == flow->opener || (lost && reason != REASON_NO_GROUP))) {
		refused(flow, reason);
	} else if (lost) {
		tell(flow, "reset: a stripe that carried data was refused: ", reason_text(reason));
		group_end(flow->group, GROUP_ABORT, reason);
	} else {
		group_remove(flow->group, stripe);
		stripe_leave(stripe, 0.);
		group_check_done(flow->group);
	}
}

static bool on_control(struct stripe *stripe, const struct control *control)
{
	struct group *group = stripe->group;
	struct flow *flow;

	/* Open and Join come on idle stripes, and are not the relay's to send. */
	if (group == NULL)
		return false;
	flow = group->owner;
	switch (control->type) {
	case CONTROL_NUMBER:
		if (control->number.number == 0) {
			refused_by(flow, stripe, control->number.reason);
			return true;
		}
		if (control->number.number >= EXTENSION_FIRST ||
		    (group->number != 0 && group->number != control->number.number))
			return false;
		group->number = control->number.number;
		group_confirm(group, stripe);
		return true;
	case CONTROL_CONNECTED:
		return true;
	case CONTROL_FAILED:
		refused(flow, control->reason);
		return true;
	default:
		return false;
	}
}

static void on_idle(struct stripe *stripe)
{
	struct proxy *proxy = stripe->owner;

	/* For loss_is_likely(): of what came nothing else tells. */
	stripe_look(stripe, IDLE_AGE);
	if (stripe->worn)
		supply_replace(proxy->supply, stripe);
	else
		supply_put(proxy->supply, stripe);
	proxy_check_drained(proxy);
}

static void on_closed(struct stripe *stripe, const char *why)
{
	struct proxy *proxy = stripe->owner;

	(void)why;
	supply_forget(proxy->supply, stripe);
	proxy_check_drained(proxy);
}

const struct stripe_ops flow_stripe_ops = {.control = on_control, .idle = on_idle, .closed = on_closed};

/* The shortest round trip in microseconds, asked for by one stripe of a bulk flow that has moved something since the last look; else 0. */
static uint32_t ask_rtt(const struct flow *flow)
{
	struct stripe *stripe = TAILQ_FIRST(&flow->group->stripes);

	if (stripe == NULL || !flow->fan.bulk || flow->group->moved == flow->fan.moved)
		return 0;
	stripe_look(stripe, FAN_INTERVAL);
	return stripe->out.path.rtt_min;
}

void flow_look(struct flow *flow)
{
	struct group *group = flow->group;

	if (group == NULL || group->ended || flow->proxy->supply == NULL)
		return;
	fan_note_loss(&flow->fan, loss_is_likely(group->engine));
	fan_look(&flow->fan, group->moved, flow->proxy->bulk_flows, ask_rtt(flow));
	if (flow->fan.target == flow->fan.least && group->grow_at == UINT64_MAX)
		group->grow_at = group->moved + GROW_AT;
	follow_fan(flow);
}

/*
 * How many stripes a new flow is given at once: joining later costs a bulk flow a round trip, and stripes that stay unused cost work. So
 * it depends on what the flows before it were like, and on what is idle.
 */
static unsigned first_share(const struct flow *flow)
{
	const struct proxy_settings *settings = flow->proxy->settings;
	unsigned bulk = loss_is_likely(flow->proxy->engine) ? FAN_LOSSY : FAN_BULK;
	unsigned most = settings->stripes < bulk ? settings->stripes : bulk;
	unsigned ready = supply_ready(flow->proxy->supply);
	unsigned share = ready > 2 * FAN_BULK ? ready - FAN_BULK : ready / 2; /* what's left is for the next */

	if (settings->pool_max != 0 && share < most)
		most = share > 1 ? share : 1;
	if (most > FAN_TOTAL / (flow->proxy->bulk_flows + 1))
		most = FAN_TOTAL / (flow->proxy->bulk_flows + 1);
	if (most <= 1)
		return 1;
	return 1 + (unsigned)(flow->proxy->appetite * (most - 1) + 0.5);
}

static void open_group(struct flow *flow)
{
	struct proxy *proxy = flow->proxy;
	struct group *group = group_new(proxy->engine, proxy->settings->base_protocol, &group_ops, flow);
	int fd = flow->fd;

	if (group == NULL) {
		log_warn("opening a flow");
		flow_free(flow);
		return;
	}
	tell_quietly(flow, "opened", "");
	counter_add(&proxy->engine->counters.flows_total, 1);
	flow->group = group;
	flow->fd = -1;
	group->grow_at = GROW_AT;
	if (proxy->settings->base_protocol)
		group->joining = proxy->settings->stripes;
	group_set_local(group, fd);
	if (group->ended)
		return;
	if (proxy->settings->base_protocol) {
		flow_dial_base(flow);
		return;
	}
	randombytes_buf(flow->token, sizeof(flow->token));
	fan_init(&flow->fan, first_share(flow), proxy->settings->stripes_min, proxy->settings->stripes,
		 strcmp(proxy->engine->settings.congestion, "bbr") != 0);
	note_beginning(proxy);
	follow_fan(flow);
	/* What the client has said meanwhile leaves along with Open. */
	if (!group->ended)
		spread_pump(group);
}

static void no_destination(struct flow *flow, const char *why)
{
	counter_add(&flow->proxy->engine->counters.flows_unknown_destination, 1);
	tell(flow, "reset: ", why);
	flow_free(flow);
}

/* To connect to ourselves would go on until descriptors run out. */
static bool is_our_listener(const struct flow *flow, const union addr *a)
{
	return addr_port(a) == addr_port(&flow->proxy->settings->listen) && addr_is_local(-1, a);
}

static void on_conntrack(void *arg, int error, const struct conntrack_answer *answer)
{
	struct flow *flow = arg;
	struct counters *counters = &flow->proxy->engine->counters;
	const union addr local = flow->destination;

	if (error == ENOENT)
		counter_add(&counters->conntrack_missing, 1);
	else if (error != 0)
		counter_add(&counters->conntrack_failed, 1);
	if (error != 0 && flow->proxy->settings->capture == CAPTURE_REDIRECT) {
		no_destination(flow, "conntrack does not know where it was going");
		return;
	}
	/* A transparent socket's own address is the destination, unless conntrack knows better (a DNAT before us). */
	if (error == 0) {
		flow->destination = answer->destination;
		if (!addr_equal(&local, &flow->destination))
			tell_quietly(flow, "was rewritten before it came here", "");
	}
	if (is_our_listener(flow, &flow->destination))
		no_destination(flow, "it was made to our own port");
	else
		open_group(flow);
}

void flow_start(struct proxy *proxy, int fd, const union addr *client)
{
	struct flow *flow = calloc(1, sizeof(*flow));

	if (flow == NULL || sock_local(fd, &flow->destination) < 0) {
		log_warn("accepting a flow");
		sock_abort(fd);
		free(flow);
		return;
	}
	flow->proxy = proxy;
	flow->id = ++proxy->next_id;
	flow->client = *client;
	flow->fd = fd;
	flow->wish.take = on_take;
	flow->wish.failed = on_no_stripe;
	LIST_INIT(&flow->dials);
	TAILQ_INSERT_TAIL(&proxy->flows, flow, link);
	proxy->flow_count++;
	if (conntrack_ask(proxy->conntrack, &flow->query, &flow->destination, client, on_conntrack, flow) < 0)
		on_conntrack(flow, errno, NULL);
}
