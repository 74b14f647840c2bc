/* SPDX-License-Identifier: ISC */
/* The pool of stripes, and a proxy's stripes between flows, against a relay that is played here. */
#include "role/supply.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "role/acceptor.h"
#include "role/greet.h"
#include "role/proxy.h"
#include "tests/unit/core/pair.h"

#define MANY 32

static const struct key key;
static const struct keyring no_keys;

struct fake_relay {
	struct acceptor acceptor;
	struct counters counters;
	union addr address;
	struct ev_loop *loop;
	int fds[MANY]; /* greeted */
	unsigned count;
	bool mute; /* accept and close */
	bool silent; /* accept and say nothing */
};

struct flow_wish {
	struct supply_wish wish;
	struct stripe *taken[MANY];
	unsigned count, failed;
	const char *why;
};

struct scene {
	struct pair pair; /* its engine a, for UNTIL() */
	struct fake_relay relay;
	struct dial_plan plan;
	struct supply *supply;
	unsigned closed;
};

static void on_greeted(void *arg, struct greet *greet, int fd, const struct greet_result *result, const char *why)
{
	struct fake_relay *relay = arg;

	(void)greet;
	(void)result;
	(void)why;
	if (fd >= 0)
		relay->fds[relay->count++] = fd;
}

static void on_accepted(struct acceptor *acceptor, int fd, const union addr *peer)
{
	struct fake_relay *relay = (struct fake_relay *)acceptor;

	(void)peer;
	if (relay->mute)
		close_socket(&fd);
	else if (relay->silent)
		relay->fds[relay->count++] = fd;
	else
		ck_assert_ptr_nonnull(greet_start(relay->loop, fd, &no_keys, false, 30., on_greeted, relay));
}

static void relay_up(struct scene *scene)
{
	scene->relay.acceptor.accepted = on_accepted;
	ck_assert_int_eq(acceptor_open(&scene->relay.acceptor, scene->relay.loop, &scene->relay.counters,
				       &scene->relay.address, false), 0);
}

static bool on_control(struct stripe *stripe, const struct control *control)
{
	(void)stripe;
	(void)control;
	return false;
}

static void on_idle(struct stripe *stripe)
{
	supply_put(((struct scene *)stripe->owner)->supply, stripe);
}

static void on_closed(struct stripe *stripe, const char *why)
{
	struct scene *scene = stripe->owner;

	(void)why;
	scene->closed++;
	supply_forget(scene->supply, stripe);
}

static const struct stripe_ops ops = {.control = on_control, .idle = on_idle, .closed = on_closed};

static void set_up(struct scene *scene, unsigned min, unsigned max)
{
	memset(scene, 0, sizeof(*scene));
	pair_connect(&scene->pair, 0, 0, true);
	scene->relay.loop = scene->pair.a.engine->loop;
	ck_assert_int_eq(addr_parse(&scene->relay.address, "127.0.0.1:0", 0, false), 0);
	ck_assert_int_eq(sock_claim(&scene->relay.address), 0);
	relay_up(scene);
	scene->plan = (struct dial_plan){&scene->relay.address, "", &key, 30., false, 0};
	scene->supply = supply_new(scene->pair.a.engine, &scene->plan, min, max, &ops, scene);
	ck_assert_ptr_nonnull(scene->supply);
}

static void tear_down(struct scene *scene)
{
	supply_free(scene->supply);
	acceptor_close(&scene->relay.acceptor);
	for (unsigned i = 0; i < scene->relay.count; i++)
		close_socket(&scene->relay.fds[i]);
	pair_close(&scene->pair);
}

static void on_take(struct supply_wish *wish, struct stripe *stripe)
{
	struct flow_wish *w = (struct flow_wish *)wish;

	ck_assert_int_eq(stripe->state, STRIPE_IDLE);
	ck_assert(stripe->parity);
	stripe_hold(stripe); /* in place of binding it */
	w->taken[w->count++] = stripe;
}

static void on_failed(struct supply_wish *wish, const char *why)
{
	struct flow_wish *w = (struct flow_wish *)wish;

	ck_assert_uint_eq(wish->missing, 0);
	w->failed++;
	w->why = why;
}

static struct flow_wish a_wish(void)
{
	return (struct flow_wish){.wish = {.take = on_take, .failed = on_failed}};
}

/* As if its flow had ended and both sides had said Detach. */
static void give_back(struct scene *scene, struct stripe *stripe)
{
	stripe_set_state(stripe, STRIPE_IDLE);
	supply_put(scene->supply, stripe);
}

START_TEST(test_fills_to_its_minimum)
{
	struct scene scene;

	set_up(&scene, 3, 5);
	pair_settle(&scene.pair);
	ck_assert_uint_eq(supply_ready(scene.supply), 0);
	supply_start(scene.supply);
	UNTIL(&scene.pair, supply_ready(scene.supply) == 3 && scene.relay.count == 3);
	pair_settle(&scene.pair);
	ck_assert_uint_eq(supply_ready(scene.supply), 3);
	ck_assert_uint_eq(counter_read(&scene.pair.a.engine->counters.stripes_idle_now), 3);
	/* What dies is replaced. */
	reset_socket(&scene.relay.fds[1]);
	UNTIL(&scene.pair, scene.closed == 1);
	ck_assert_uint_eq(supply_ready(scene.supply), 2);
	UNTIL(&scene.pair, supply_ready(scene.supply) == 3);
	/* And what may be dead. */
	supply_drop_idle(scene.supply);
	ck_assert_uint_eq(supply_ready(scene.supply), 0);
	UNTIL(&scene.pair, supply_ready(scene.supply) == 3);
	supply_stop(scene.supply);
	ck_assert_uint_eq(supply_ready(scene.supply), 0);
	tear_down(&scene);
}
END_TEST

START_TEST(test_last_in_first_out)
{
	struct scene scene;
	struct flow_wish w = a_wish(), again = a_wish();

	set_up(&scene, 0, 2);
	supply_ask(scene.supply, &w.wish, 0);
	supply_ask(scene.supply, &w.wish, 3);
	UNTIL(&scene.pair, w.count == 3);
	ck_assert_uint_eq(w.wish.missing, 0);
	for (unsigned i = 0; i < 3; i++)
		give_back(&scene, w.taken[i]);
	/* No more than the maximum are kept. */
	ck_assert_uint_eq(supply_ready(scene.supply), 2);
	supply_ask(scene.supply, &again.wish, 1);
	ck_assert_uint_eq(again.count, 1); /* at once */
	ck_assert_ptr_eq(again.taken[0], w.taken[1]);
	ck_assert_uint_eq(counter_read(&scene.pair.a.engine->counters.stripes_reused), 1);
	tear_down(&scene);
}
END_TEST

START_TEST(test_worn_ones_are_replaced)
{
	struct scene scene;
	struct flow_wish w = a_wish();

	set_up(&scene, 2, 4);
	supply_ask(scene.supply, &w.wish, 2);
	UNTIL(&scene.pair, w.count == 2 && supply_ready(scene.supply) == 2);
	for (unsigned i = 0; i < 2; i++) {
		stripe_set_state(w.taken[i], STRIPE_IDLE);
		supply_replace(scene.supply, w.taken[i]);
	}
	ck_assert_uint_eq(counter_read(&scene.pair.a.engine->counters.stripes_worn), 2);
	/* There are enough: none is dialled. */
	pair_settle(&scene.pair);
	ck_assert_uint_eq(counter_read(&scene.pair.a.engine->counters.stripes_now), 2);
	ck_assert_uint_eq(scene.relay.count, 4);
	/* Here there aren't; it doesn't wait for the next tick. */
	supply_ask(scene.supply, &w.wish, 2);
	UNTIL(&scene.pair, supply_ready(scene.supply) == 2);
	supply_ask(scene.supply, &w.wish, 1);
	stripe_set_state(w.taken[2], STRIPE_IDLE);
	supply_replace(scene.supply, w.taken[2]);
	UNTIL(&scene.pair, supply_ready(scene.supply) == 2);
	tear_down(&scene);
}
END_TEST

/* A stripe that comes back goes to who waits, and first to a flow that has none. */
START_TEST(test_the_needy_first)
{
	struct scene scene;
	struct flow_wish rich = a_wish(), poor = a_wish();
	struct stripe *stripe;

	set_up(&scene, 0, 4);
	supply_ask(scene.supply, &rich.wish, 1);
	UNTIL(&scene.pair, rich.count == 1);
	stripe = rich.taken[0];
	supply_ask(scene.supply, &rich.wish, 1);
	supply_ask(scene.supply, &poor.wish, 1);
	give_back(&scene, stripe);
	ck_assert_uint_eq(poor.count, 1);
	ck_assert_ptr_eq(poor.taken[0], stripe);
	ck_assert_uint_eq(rich.count, 1);
	UNTIL(&scene.pair, rich.count == 2);
	/* The dial that was meant for the poor one fills the pool. */
	UNTIL(&scene.pair, supply_ready(scene.supply) == 1);
	tear_down(&scene);
}
END_TEST

START_TEST(test_withdrawn)
{
	struct scene scene;
	struct flow_wish w = a_wish();

	set_up(&scene, 0, 4);
	supply_withdraw(scene.supply, &w.wish);
	supply_ask(scene.supply, &w.wish, 2);
	supply_withdraw(scene.supply, &w.wish);
	supply_withdraw(scene.supply, &w.wish);
	UNTIL(&scene.pair, supply_ready(scene.supply) == 2);
	ck_assert_uint_eq(w.count + w.failed, 0);
	tear_down(&scene);
}
END_TEST

START_TEST(test_dead_ones_are_skipped)
{
	struct scene scene;
	struct flow_wish w = a_wish();

	for (int by_reset = 0; by_reset < 2; by_reset++) {
		set_up(&scene, 0, 4);
		w = a_wish();
		supply_ask(scene.supply, &w.wish, 1);
		UNTIL(&scene.pair, w.count == 1 && scene.relay.count == 1);
		give_back(&scene, w.taken[0]);
		w = a_wish();
		if (by_reset)
			reset_socket(&scene.relay.fds[0]);
		else
			close_socket(&scene.relay.fds[0]);
		/* The loop has not come round to tell. */
		supply_ask(scene.supply, &w.wish, 1);
		ck_assert_uint_eq(w.count, 0);
		ck_assert_uint_eq(supply_ready(scene.supply), 0);
		UNTIL(&scene.pair, w.count == 1);
		ck_assert_uint_eq(w.failed, 0);
		tear_down(&scene);
	}
}
END_TEST

/* Who has nothing is told; who has something makes do with it. */
START_TEST(test_relay_down)
{
	struct scene scene;
	struct flow_wish lucky = a_wish(), unlucky = a_wish();

	set_up(&scene, 0, 4);
	ck_assert(supply_hopeful(scene.supply));
	supply_ask(scene.supply, &lucky.wish, 1);
	UNTIL(&scene.pair, lucky.count == 1);
	acceptor_close(&scene.relay.acceptor);
	supply_ask(scene.supply, &lucky.wish, 2);
	supply_ask(scene.supply, &unlucky.wish, 2);
	UNTIL(&scene.pair, unlucky.failed == 1);
	ck_assert_str_eq(unlucky.why, "connection refused");
	UNTIL(&scene.pair, lucky.wish.missing == 0);
	ck_assert_uint_eq(lucky.failed, 0);
	ck_assert_uint_eq(unlucky.failed, 1);
	ck_assert(!supply_hopeful(scene.supply));
	/* Every flow is a new try. */
	relay_up(&scene);
	unlucky = a_wish();
	supply_ask(scene.supply, &unlucky.wish, 1);
	UNTIL(&scene.pair, unlucky.count == 1);
	ck_assert(supply_hopeful(scene.supply));
	tear_down(&scene);
}
END_TEST

/* A relay that accepts and says nothing. */
static void set_up_silent(struct scene *scene, double timeout)
{
	set_up(scene, 0, 4);
	scene->relay.silent = true;
	scene->plan.timeout = timeout;
	supply_free(scene->supply);
	scene->supply = supply_new(scene->pair.a.engine, &scene->plan, 0, 4, &ops, scene);
	ck_assert_ptr_nonnull(scene->supply);
	supply_start(scene->supply);
}

/* However others that wait with it have begun before or after it, a flow is told. */
START_TEST(test_relay_silent)
{
	struct flow_wish first = a_wish(), second = a_wish();
	struct scene scene;
	ev_tstamp begun;

	set_up_silent(&scene, 1.5);
	begun = ev_time();
	supply_ask(scene.supply, &first.wish, 1);
	UNTIL(&scene.pair, ev_time() - begun > 0.75);
	supply_ask(scene.supply, &second.wish, 1);
	UNTIL(&scene.pair, first.failed == 1);
	UNTIL(&scene.pair, second.failed == 1);
	ck_assert(!supply_hopeful(scene.supply));
	tear_down(&scene);
}
END_TEST

/* There's always a dial under way, for one that came later. */
START_TEST(test_relay_silent_to_many)
{
	struct flow_wish wishes[16];
	struct scene scene;
	ev_tstamp asked = 0.;
	unsigned n = 0;

	set_up_silent(&scene, 2.);
	while (n == 0 || wishes[0].failed == 0) {
		pair_turn(&scene.pair);
		if (ev_time() - asked < 0.7)
			continue;
		ck_assert_uint_lt(n, 16);
		wishes[n] = a_wish();
		supply_ask(scene.supply, &wishes[n++].wish, 1);
		asked = ev_time();
	}
	ck_assert_uint_ge(n, 2);
	ck_assert_uint_eq(wishes[n - 1].failed, 0);
	for (unsigned i = 0; i < n; i++)
		UNTIL(&scene.pair, wishes[i].failed == 1);
	tear_down(&scene);
}
END_TEST

START_TEST(test_relay_hangs_up)
{
	struct scene scene;
	struct flow_wish w = a_wish();

	set_up(&scene, 0, 4);
	scene.relay.mute = true;
	supply_ask(scene.supply, &w.wish, 3);
	UNTIL(&scene.pair, w.failed == 1);
	ck_assert_uint_eq(counter_read(&scene.pair.a.engine->counters.stripes_failed), 3);
	tear_down(&scene);
}
END_TEST

START_TEST(test_freed_while_dialling)
{
	struct scene scene;
	struct flow_wish w = a_wish();

	set_up(&scene, 0, 4);
	supply_ask(scene.supply, &w.wish, 5);
	supply_withdraw(scene.supply, &w.wish);
	tear_down(&scene);
}
END_TEST

/* A relay that sends what only a proxy may ends its stripe, not the proxy. */
START_TEST(test_relay_out_of_place)
{
	struct control wrong[4] = {
		{.type = CONTROL_OPEN}, {.type = CONTROL_JOIN}, {.type = CONTROL_NUMBER}, {.type = CONTROL_FAILED}};
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];
	struct proxy_settings settings = {.capture = CAPTURE_REDIRECT, .stripes = 4, .pool_min = 4, .pool_max = 4,
					  .conntrack_timeout = 1., .connect_timeout = 30., .max_flows = 10};
	struct scene scene;
	struct proxy *proxy;
	size_t length;

	wrong[0].open.destination.in.sin_family = wrong[0].open.client.in.sin_family = AF_INET;
	wrong[0].open.destination.in.sin_port = 1;
	set_up(&scene, 0, 0);
	settings.relay = scene.relay.address;
	ck_assert_int_eq(addr_parse(&settings.listen, "127.0.0.1:0", 0, false), 0);
	ck_assert_int_eq(sock_claim(&settings.listen), 0);
	proxy = proxy_new(scene.pair.a.engine, &settings);
	ck_assert_ptr_nonnull(proxy);
	UNTIL(&scene.pair, scene.relay.count == 4);
	for (unsigned i = 0; i < 4; i++) {
		length = control_encode(bytes, &wrong[i]);
		ck_assert_int_eq(send(scene.relay.fds[i], bytes, length, MSG_NOSIGNAL), (int)length);
	}
	/* It makes up for them. */
	UNTIL(&scene.pair, scene.relay.count == 8);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_int_eq(recv(scene.relay.fds[i], bytes, 1, MSG_DONTWAIT), -1);
		ck_assert_int_eq(errno, ECONNRESET);
	}
	proxy_free(proxy);
	tear_down(&scene);
}
END_TEST

int main(void)
{
	return RUN_TESTS("supply", test_fills_to_its_minimum, test_last_in_first_out, test_worn_ones_are_replaced, test_the_needy_first,
			 test_withdrawn, test_dead_ones_are_skipped, test_relay_down, test_relay_silent, test_relay_silent_to_many, test_relay_hangs_up,
			 test_freed_while_dialling, test_relay_out_of_place);
}
