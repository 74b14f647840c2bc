/* SPDX-License-Identifier: ISC */
#include "core/stripe.h"

#include <errno.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/core/pair.h"

static const struct control detach = {.type = CONTROL_DETACH};

static struct control ping(unsigned n)
{
	struct control c = {.type = CONTROL_PING};

	memcpy(c.ping, &n, sizeof(n));
	return c;
}

static void expect_pong(struct pair *pair, unsigned index, unsigned n)
{
	struct control pong = raw_expect(pair, index, CONTROL_PONG), wanted = ping(n);

	ck_assert_mem_eq(pong.ping, wanted.ping, PING_SIZE);
}

START_TEST(test_ping)
{
	struct pair pair;
	struct control c;

	pair_open_raw(&pair, 2, _i);
	for (unsigned n = 0; n < 5; n++) {
		c = ping(n);
		raw_control(&pair, 0, &c);
	}
	for (unsigned n = 0; n < 5; n++)
		expect_pong(&pair, 0, n);
	/* Behind data that isn't due it waits. */
	raw_data(&pair, 0, 2, "b");
	c = ping(7);
	raw_control(&pair, 0, &c);
	pair_settle(&pair);
	ck_assert_int_eq(recv(pair.raw[0], &c, 1, MSG_DONTWAIT), -1);
	raw_data(&pair, 1, 1, "a");
	expect_pong(&pair, 0, 7);
	local_expect(&pair, &pair.a, "ab");
	/* A Pong that nobody asked for, and what is optional and unknown, are nothing. */
	raw_control(&pair, 0, &(struct control){.type = CONTROL_PONG});
	raw_write(&pair, 0, "\0\0\0\0\0\0\0\6\377\376\0\0xx", 14);
	raw_data(&pair, 0, 3, "c");
	local_expect(&pair, &pair.a, "c");
	pair_close(&pair);
}
END_TEST

/* A peer that pings and never reads loses Pongs, not its flow. */
START_TEST(test_pong_overflow)
{
	const int tiny = 1;
	struct control c = ping(1);
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];
	size_t length = control_encode(bytes, &c);
	struct pair pair;
	unsigned pongs = 0;

	pair_open_raw(&pair, 1, _i);
	setsockopt(pair.a.stripes[0]->fd, SOL_SOCKET, SO_SNDBUF, &tiny, sizeof(tiny));
	for (unsigned i = 0; i < 20000; i++)
		raw_write(&pair, 0, bytes, length);
	raw_data(&pair, 0, 1, "still there");
	local_expect(&pair, &pair.a, "still there");
	ck_assert_uint_le(pair.a.stripes[0]->out.queued, STRIPE_CONTROL_QUEUE);
	/* What isn't a Pong has its place in the queue. */
	shutdown(pair.a.local, SHUT_WR);
	UNTIL(&pair, pair.a.group->spread.done);
	for (c.type = CONTROL_PONG; c.type == CONTROL_PONG; pongs++) {
		uint8_t header[DATAGRAM_HEADER], payload[CONTROL_MAX];

		raw_read(&pair, 0, header, sizeof(header));
		raw_read(&pair, 0, payload, datagram_decode(header).size);
		ck_assert_int_eq(control_decode(&c, payload, datagram_decode(header).size), CONTROL_OK);
	}
	ck_assert_int_eq(c.type, CONTROL_FIN);
	ck_assert_uint_gt(pongs, 1);
	ck_assert_uint_lt(pongs, 20000);
	pair_close(&pair);
}
END_TEST

/* The queue of what must not be lost has an end. */
START_TEST(test_peer_does_not_read)
{
	static uint8_t junk[65536];
	struct control c = ping(1);
	struct pair pair;

	pair_connect(&pair, 1, _i, true);
	while (send(pair.a.stripes[0]->fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	for (unsigned i = 0; i < 100 && pair.a.stripes[0] != NULL; i++)
		stripe_send(pair.a.stripes[0], &c);
	ck_assert_ptr_null(pair.a.stripes[0]);
	ck_assert_str_eq(pair.a.why, "the peer does not read");
	pair_close(&pair);
}
END_TEST

START_TEST(test_ping_budget)
{
	struct control c = ping(1);
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];
	size_t length = control_encode(bytes, &c), waiting;
	struct pair pair;

	pair_connect(&pair, 1, _i, true);
	for (unsigned i = 0; i < 1000; i++)
		ck_assert_int_eq(send(pair.raw[0], bytes, length, MSG_DONTWAIT), (int)length);
	for (unsigned i = 0; i < 3; i++) {
		pair_turn(&pair);
		waiting = (size_t)recv(pair.a.stripes[0]->fd, (uint8_t[1000 * 20]){0}, 1000 * 20, MSG_PEEK | MSG_DONTWAIT);
		ck_assert_uint_gt(waiting, 1000 * length * 2 / 3);
	}
	for (unsigned i = 0; i < 1000; i++)
		expect_pong(&pair, 0, 1);
	pair_close(&pair);
}
END_TEST

/* Idle stripes: what may come, what may not. */
START_TEST(test_idle)
{
	struct pair pair;
	struct control c = ping(3), number = {.type = CONTROL_NUMBER, .number = {1, REASON_NONE}};
	const struct control out_of_place[] = {
		number,
		{.type = CONTROL_CONNECTED},
		{.type = CONTROL_FAILED, .reason = REASON_REFUSED},
		{.type = CONTROL_FIN, .serial = 1},
		{.type = CONTROL_RESET, .reset = {REASON_RESET, 1}},
		detach,
	};
	const unsigned n = sizeof(out_of_place) / sizeof(out_of_place[0]);

	pair_connect(&pair, n + 3, _i, true);
	raw_control(&pair, 0, &c);
	expect_pong(&pair, 0, 3);
	for (unsigned i = 0; i < n; i++)
		raw_control(&pair, i, &out_of_place[i]);
	raw_data(&pair, n, 1, "data");
	for (unsigned i = 0; i <= n; i++) {
		ck_assert(raw_ended_by_reset(&pair, i));
		ck_assert_ptr_null(pair.a.stripes[i]);
	}
	ck_assert_uint_eq(pair.a.controls, 0);
	/* It ends without anybody's harm. */
	reset_socket(&pair.raw[n + 1]);
	close_socket(&pair.raw[n + 2]);
	UNTIL(&pair, pair.a.closed == n + 3);
	pair_close(&pair);
}
END_TEST

START_TEST(test_open_is_the_role_s)
{
	struct pair pair;
	struct control join = {.type = CONTROL_JOIN, .join.token = "fifteen letters"};

	pair_connect(&pair, 1, _i, true);
	raw_control(&pair, 0, &join);
	UNTIL(&pair, pair.a.controls == 1);
	ck_assert_int_eq(pair.a.control.type, CONTROL_JOIN);
	ck_assert_mem_eq(pair.a.control.join.token, join.join.token, TOKEN_SIZE);
	end_open_group(&pair.a, _i);
	end_bind(&pair.a, 0);
	raw_control(&pair, 0, &(struct control){.type = CONTROL_NUMBER, .number = {7, REASON_NONE}});
	UNTIL(&pair, pair.a.controls == 2);
	ck_assert_uint_eq(pair.a.control.number.number, 7);
	pair_close(&pair);
}
END_TEST

/* The peer takes a stripe out of a flow, which goes on. */
START_TEST(test_peer_detaches)
{
	struct pair pair;

	pair_open_raw(&pair, 2, _i);
	raw_data(&pair, 0, 1, "a");
	raw_control(&pair, 0, &detach);
	raw_expect(&pair, 0, CONTROL_DETACH);
	ck_assert_uint_eq(pair.a.idle, 1);
	local_expect(&pair, &pair.a, "a");
	raw_data(&pair, 1, 2, "b");
	local_expect(&pair, &pair.a, "b");
	ck_assert_uint_eq(pair.a.group->stripe_count, 1);
	/* Back again, and its serials may be any. */
	end_bind(&pair.a, 0);
	raw_data(&pair, 0, 3, "c");
	local_expect(&pair, &pair.a, "c");
	/* The last one: then there is no way left. */
	raw_control(&pair, 0, &detach);
	raw_control(&pair, 1, &detach);
	local_expect_reset(&pair, &pair.a);
	UNTIL(&pair, pair.a.group == NULL && pair.a.idle == 3);
	pair_close(&pair);
}
END_TEST

/* Ours: nothing more is sent there, and what the peer has sent still counts. */
START_TEST(test_we_detach)
{
	struct pair pair;

	pair_open_raw(&pair, 2, _i);
	stripe_detach(pair.a.stripes[0]);
	stripe_detach(pair.a.stripes[0]);
	local_write(&pair.a, "there");
	UNTIL(&pair, counter_read(&pair.a.engine->counters.bytes_out) == 5);
	raw_expect(&pair, 0, CONTROL_DETACH);
	raw_data(&pair, 0, 1, "back");
	local_expect(&pair, &pair.a, "back");
	/* The end is said on the other one. */
	shutdown(pair.a.local, SHUT_WR);
	ck_assert_uint_eq(raw_expect(&pair, 1, CONTROL_FIN).serial, 1);
	ck_assert_uint_eq(pair.a.idle, 0);
	raw_control(&pair, 0, &detach);
	UNTIL(&pair, pair.a.idle == 1);
	ck_assert_ptr_nonnull(pair.a.group);
	pair_close(&pair);
}
END_TEST

/* All of them leave before the end is said: it's said when another comes. */
START_TEST(test_end_waits_for_a_stripe)
{
	struct pair pair;

	pair_connect(&pair, 2, _i, true);
	end_open_group(&pair.a, _i);
	end_bind(&pair.a, 0);
	stripe_detach(pair.a.stripes[0]);
	local_write(&pair.a, "late");
	pair_settle(&pair);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_out), 0);
	end_bind(&pair.a, 1);
	UNTIL(&pair, counter_read(&pair.a.engine->counters.bytes_out) == 4);
	stripe_detach(pair.a.stripes[1]);
	shutdown(pair.a.local, SHUT_WR);
	pair_settle(&pair);
	ck_assert(!pair.a.group->spread.done);
	raw_control(&pair, 0, &detach);
	UNTIL(&pair, pair.a.idle == 1);
	raw_expect(&pair, 0, CONTROL_DETACH);
	end_bind(&pair.a, 0);
	ck_assert_uint_eq(raw_expect(&pair, 0, CONTROL_FIN).serial, 1);
	pair_close(&pair);
}
END_TEST

static void bind_asked(struct pair *pair, unsigned index, bool waits)
{
	pair->a.stripes[index]->out.asked = true;
	pair->a.stripes[index]->out.waits = waits;
	end_bind(&pair->a, index);
}

/* Before the peer has confirmed a stripe it takes no data. Without data it's no loss, either. */
START_TEST(test_waits_to_be_confirmed)
{
	struct pair pair;

	pair_connect(&pair, 3, _i, true);
	end_open_group(&pair.a, _i);
	bind_asked(&pair, 0, true);
	bind_asked(&pair, 1, true);
	bind_asked(&pair, 2, false);
	reset_socket(&pair.raw[2]);
	UNTIL(&pair, pair.a.closed == 1);
	local_write(&pair.a, "data");
	pair_settle(&pair);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.bytes_out), 0);
	reset_socket(&pair.raw[1]);
	UNTIL(&pair, pair.a.closed == 2);
	ck_assert_ptr_nonnull(pair.a.group);
	group_confirm(pair.a.group, pair.a.stripes[0]);
	UNTIL(&pair, counter_read(&pair.a.engine->counters.bytes_out) == 4);
	pair_close(&pair);
}
END_TEST

/* Or it takes data all the same: then it's missed, and the end of the flow waits until it's confirmed. */
START_TEST(test_data_before_confirmed)
{
	struct pair pair;
	char bytes[DATAGRAM_HEADER + 4];

	for (unsigned i = 0; i < 3; i++) {
		pair_connect(&pair, 2, _i, true);
		end_open_group(&pair.a, _i);
		bind_asked(&pair, 1, false);
		local_write(&pair.a, "data");
		raw_read(&pair, 1, bytes, sizeof(bytes));
		end_bind(&pair.a, 0);
		if (i == 0) {
			reset_socket(&pair.raw[1]);
			UNTIL(&pair, pair.a.group == NULL);
			ck_assert_int_eq(pair.a.reason, REASON_STRIPE_LOST);
		} else if (i == 1) {
			shutdown(pair.a.local, SHUT_WR);
			ck_assert_uint_eq(raw_expect(&pair, 1, CONTROL_FIN).serial, 1);
			raw_control(&pair, 0, &(struct control){.type = CONTROL_FIN});
			local_expect_end(&pair, &pair.a);
			pair_settle(&pair);
			ck_assert_ptr_nonnull(pair.a.group);
			group_confirm(pair.a.group, pair.a.stripes[1]);
			ck_assert_ptr_null(pair.a.group);
			ck_assert_uint_eq(counter_read(&pair.a.engine->counters.flows_finished), 1);
		} else {
			reset_socket(&pair.a.local);
			pair_settle(&pair);
			ck_assert_ptr_nonnull(pair.a.group);
			group_confirm(pair.a.group, pair.a.stripes[1]);
			ck_assert_uint_eq(raw_expect(&pair, 1, CONTROL_RESET).reset.serial, 1);
		}
		pair_close(&pair);
	}
}
END_TEST

START_TEST(test_settle)
{
	struct pair pair;
	char name[16] = "";
	socklen_t length = sizeof(name);

	pair_open_raw(&pair, 2, 0);
	stripe_settle(pair.a.stripes[0]);
	ck_assert(!pair.a.stripes[0]->out.settled); /* of its path nothing is known */
	pair.a.stripes[0]->out.path = (struct sock_path){.rtt_min = 100000, .mss = 1448, .window = 14480};
	stripe_settle(pair.a.stripes[0]);
	ck_assert(pair.a.stripes[0]->out.settled);
	/* A short one: only if losses keep the window small. */
	pair.a.stripes[1]->out.path = (struct sock_path){.rtt_min = 1000, .mss = 1448, .window = 14480};
	stripe_settle(pair.a.stripes[1]);
	ck_assert(!pair.a.stripes[1]->out.settled);
	pair.a.stripes[1]->out.path.window = 14479;
	stripe_settle(pair.a.stripes[1]);
	ck_assert(pair.a.stripes[1]->out.settled);
	ck_assert_int_eq(getsockopt(pair.a.stripes[0]->fd, IPPROTO_TCP, TCP_CONGESTION, name, &length), 0);
	ck_assert_str_eq(name, pair.a.engine->settings.congestion);
	pair_close(&pair);
}
END_TEST

START_TEST(test_is_worn)
{
	static const struct {
		uint32_t window; /* packets */
		bool settled, governed;
		uint32_t rtt, rtt_min;
		bool worn;
	} rows[] = {
		{9, false, false, 100000, 100000, true},
		{10, false, false, 100000, 100000, false},
		{19, true, false, 125000, 100000, true},
		{20, true, false, 100000, 100000, false},
		/* A queue has grown: what was lost may be what was too much. */
		{9, false, false, 125001, 100000, false},
		{19, true, true, 100000, 100000, false},
		/* A round trip matters little. */
		{5, true, false, 4999, 4999, false},
	};
	struct pair pair;
	struct stripe *stripe;

	pair_open_raw(&pair, 1, 0);
	stripe = pair.a.stripes[0];
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		stripe->out.path = (struct sock_path){.mss = 1448, .window = rows[i].window * 1448,
						      .rtt = rows[i].rtt, .rtt_min = rows[i].rtt_min};
		stripe->out.settled = rows[i].settled;
		stripe->out.governed = rows[i].governed;
		ck_assert_msg(stripe_is_worn(stripe) == rows[i].worn, "row %zu", i);
	}
	/* Among many flows each has small windows. */
	stripe->out.path.rtt_min = stripe->out.path.rtt = 100000;
	ck_assert(stripe_is_worn(stripe));
	end_crowd(&pair.a, 17);
	ck_assert(!stripe_is_worn(stripe));
	pair_close(&pair);
}
END_TEST

/* Said before Detach, where data was sent; and heard. */
START_TEST(test_worn)
{
	const struct control worn = {.type = CONTROL_WORN};
	struct pair pair;

	pair_open_raw(&pair, 3, _i);
	local_write(&pair.a, "data");
	UNTIL(&pair, pair.a.stripes[0]->out.last == 1 || pair.a.stripes[1]->out.last == 1 || pair.a.stripes[2]->out.last == 1);
	for (unsigned i = 0; i < 3; i++) {
		struct stripe *stripe = pair.a.stripes[i];
		bool used = stripe->out.last != 0;

		stripe->out.path = (struct sock_path){.mss = 1448, .window = 1448, .rtt = 100000, .rtt_min = 100000};
		stripe->out.path_at = ev_now(pair.a.engine->loop);
		stripe_detach(stripe);
		ck_assert(stripe->worn == used);
		if (used)
			raw_expect(&pair, i, CONTROL_WORN);
		raw_expect(&pair, i, CONTROL_DETACH);
	}
	raw_control(&pair, 0, &worn);
	raw_control(&pair, 0, &detach);
	UNTIL(&pair, pair.a.idle == 1);
	ck_assert(pair.a.stripes[0]->worn);
	pair_close(&pair);
}
END_TEST

/* The client reads what was delivered, and then hears of a reset. */
static void pour_rest(struct pair *pair)
{
	char bytes[4096];
	ssize_t n;

	pair_start_clock(pair);
	while ((n = recv(pair->a.local, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0 || (n < 0 && errno == EAGAIN)) {
		ck_assert(!pair_is_late(pair));
		pair_turn(pair);
	}
	ck_assert_int_eq(n, -1);
	ck_assert_int_eq(errno, ECONNRESET);
}

/* What still comes for a flow that was refused is dropped. */
START_TEST(test_leaving)
{
	static const char zeros[100000];
	struct pair pair;

	pair_open_raw(&pair, 3, _i);
	raw_data(&pair, 0, 3, "parked"); /* and so it's in the middle of something */
	raw_header(&pair, 1, 1, 100000);
	raw_write(&pair, 1, zeros, 50000);
	pair_settle(&pair);
	group_end(pair.a.group, GROUP_REFUSE, REASON_REFUSED);
	ck_assert_uint_eq(pair.a.engine->leaving, 3);
	raw_write(&pair, 1, zeros, 50000);
	for (unsigned i = 0; i < 3; i++) {
		raw_expect(&pair, i, CONTROL_DETACH);
		raw_data(&pair, i, 10, "for nothing");
		raw_data(&pair, i, 10, "");
		raw_control(&pair, i, &(struct control){.type = CONTROL_FIN, .serial = 10});
		raw_control(&pair, i, &(struct control){.type = CONTROL_RESET, .reset = {REASON_RESET, 10}});
		raw_control(&pair, i, &(struct control){.type = CONTROL_NUMBER, .number = {7, REASON_NONE}});
		raw_control(&pair, i, &(struct control){.type = CONTROL_CONNECTED});
		raw_control(&pair, i, &(struct control){.type = CONTROL_FAILED});
		ck_assert_uint_eq(pair.a.idle, i);
		raw_control(&pair, i, &detach);
		UNTIL(&pair, pair.a.idle == i + 1);
	}
	pour_rest(&pair);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.flows_refused), 1);
	ck_assert_uint_eq(pair.a.engine->leaving, 0);
	pair_close(&pair);

	/* Open and Join have no business there. */
	pair_open_raw(&pair, 1, _i);
	group_end(pair.a.group, GROUP_REFUSE, REASON_REFUSED);
	raw_control(&pair, 0, &(struct control){.type = CONTROL_JOIN});
	ck_assert(raw_ended_by_reset(&pair, 0));
	pair_close(&pair);
}
END_TEST

/* After a reset the peer has two seconds. */
START_TEST(test_leaving_takes_too_long)
{
	struct pair pair;
	double began;

	pair_open_raw(&pair, 1, _i);
	reset_socket(&pair.a.local);
	UNTIL(&pair, pair.a.group == NULL);
	began = ev_now(pair.a.engine->loop);
	ck_assert_int_eq(raw_expect(&pair, 0, CONTROL_RESET).reset.reason, REASON_RESET);
	raw_expect(&pair, 0, CONTROL_DETACH);
	ck_assert(raw_ended_by_reset(&pair, 0));
	ck_assert_double_ge(ev_now(pair.a.engine->loop) - began, 1.5);
	pair_close(&pair);
}
END_TEST

START_TEST(test_held)
{
	struct pair pair;
	struct control c = ping(1);

	pair_connect(&pair, 3, _i, true);
	for (unsigned i = 0; i < 3; i++)
		stripe_hold(pair.a.stripes[i]);
	raw_control(&pair, 0, &c);
	expect_pong(&pair, 0, 1);
	raw_data(&pair, 0, 1, "held");
	raw_control(&pair, 1, &detach);
	raw_expect(&pair, 1, CONTROL_DETACH);
	ck_assert_uint_eq(pair.a.idle, 1);
	raw_control(&pair, 2, &(struct control){.type = CONTROL_JOIN});
	ck_assert(raw_ended_by_reset(&pair, 2));
	end_open_group(&pair.a, _i);
	local_expect_nothing(&pair, &pair.a);
	end_bind(&pair.a, 0);
	local_expect(&pair, &pair.a, "held");
	pair_close(&pair);
}
END_TEST

/* From one engine to another, with bytes that nobody has read, and some that could not be sent. */
START_TEST(test_adopted)
{
	static uint8_t junk[65536];
	struct pair pair;
	struct stripe *stripe;
	struct control c = ping(1);

	pair_connect(&pair, 1, _i, false);
	end_open_group(&pair.b, _i);
	stripe = pair.a.stripes[0];
	stripe_hold(stripe);
	raw_control(&(struct pair){.raw = {pair.b.stripes[0]->fd}}, 0, &c);
	stripe_drop(pair.b.stripes[0], false);
	pair.b.stripes[0] = NULL;
	stripe_give_up(stripe);
	ck_assert_uint_eq(counter_read(&pair.a.engine->counters.stripes_now), 0);
	ck_assert_int_eq(stripe_adopt(stripe, pair.b.engine, &pair.b), 0);
	pair.a.stripes[0] = NULL;
	pair.b.stripes[0] = stripe;
	UNTIL(&pair, pair.b.closed == 1);
	pair_close(&pair);

	pair_connect(&pair, 1, _i, true);
	stripe = pair.a.stripes[0];
	stripe_hold(stripe);
	stripe_park(stripe);
	while (send(stripe->fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	stripe_send(stripe, &c);
	ck_assert_uint_gt(stripe->out.queued, 0);
	raw_data(&pair, 0, 1, "moved");
	stripe_give_up(stripe);
	ck_assert_int_eq(stripe_adopt(stripe, pair.a.engine, &pair.a), 0);
	end_open_group(&pair.a, _i);
	end_bind(&pair.a, 0);
	local_expect(&pair, &pair.a, "moved");
	/* It takes data again as soon as the peer has read. */
	local_write(&pair.a, "out");
	pair_start_clock(&pair);
	while (counter_read(&pair.a.engine->counters.bytes_out) < 3) {
		ck_assert(!pair_is_late(&pair));
		recv(pair.raw[0], junk, sizeof(junk), MSG_DONTWAIT);
		pair_turn(&pair);
	}
	pair_close(&pair);
}
END_TEST

/* Its descriptor is one that was just closed there, and that the loop, which hasn't come round, takes for being polled. */
START_TEST(test_adopted_as_another)
{
	struct pair pair;
	struct stripe *stripe;
	int fds[2], closed;

	pair_connect(&pair, 1, _i, false);
	pair_settle(&pair);
	closed = pair.b.stripes[0]->fd;
	stripe_drop(pair.b.stripes[0], false);
	tcp_pair(fds);
	if (fds[1] == closed) {
		fds[1] = fds[0];
		fds[0] = closed;
	}
	ck_assert_int_eq(fds[0], closed);
	stripe = stripe_new(pair.a.engine, fds[0], false, pair.a.stripes[0]->ops, &pair.a);
	ck_assert_ptr_nonnull(stripe);
	stripe_hold(stripe);
	stripe_give_up(stripe);
	ck_assert_int_eq(stripe_adopt(stripe, pair.b.engine, &pair.b), 0);
	pair.b.stripes[0] = stripe;
	pair_settle(&pair);
	raw_control(&(struct pair){.raw = {fds[1]}}, 0, &detach);
	UNTIL(&pair, pair.b.idle == 1);
	close(fds[1]);
	pair_close(&pair);
}
END_TEST

/* A role may end a stripe, or its flow, from within what it's told. */
static enum { CLOSE_STRIPE, END_GROUP, CLOSE_ALL } what_to_do;

static bool end_it(struct stripe *stripe, const struct control *control)
{
	struct end *end = stripe->owner;

	(void)control;
	if (what_to_do == CLOSE_STRIPE)
		stripe_close(stripe, false, "the role wants it");
	else
		group_end(end->group, what_to_do == END_GROUP ? GROUP_REFUSE : GROUP_ABORT, REASON_INTERNAL);
	return true;
}

START_TEST(test_ended_by_the_role)
{
	struct pair pair;
	struct stripe_ops ops;

	for (what_to_do = CLOSE_STRIPE; what_to_do <= CLOSE_ALL; what_to_do++) {
		pair_open_raw(&pair, 2, _i);
		ops = *pair.a.stripes[0]->ops;
		ops.control = end_it;
		pair.a.stripes[0]->ops = &ops;
		raw_data(&pair, 0, 1, "before");
		raw_control(&pair, 0, &(struct control){.type = CONTROL_CONNECTED});
		raw_data(&pair, 0, 2, "behind");
		UNTIL(&pair, pair.a.group == NULL);
		local_expect(&pair, &pair.a, "before");
		local_expect_reset(&pair, &pair.a);
		pair_close(&pair);
	}
}
END_TEST

START_TEST(test_closed_when_idle)
{
	struct pair pair;

	pair_open_raw(&pair, 2, _i);
	pair.a.free_stripes = true;
	raw_data(&pair, 0, 1, "x");
	raw_control(&pair, 0, &detach);
	raw_control(&pair, 1, &(struct control){.type = CONTROL_FIN, .serial = 1});
	local_expect(&pair, &pair.a, "x");
	local_expect_end(&pair, &pair.a);
	ck_assert_ptr_null(pair.a.stripes[0]);
	raw_control(&pair, 1, &detach); /* the last, and nothing was said by us */
	UNTIL(&pair, pair.a.group == NULL && pair.a.closed == 2);
	pair_close(&pair);
}
END_TEST

/* What is said in one turn leaves in one packet: a control, the data, and the end of it. */
START_TEST(test_one_packet)
{
	struct pair pair;
	struct control c = ping(1);
	uint8_t header[DATAGRAM_HEADER], bytes[4];
	struct tcp_info info;
	socklen_t length = sizeof(info);

	pair_open_raw(&pair, 2, _i);
	local_write(&pair.a, "last");
	shutdown(pair.a.local, SHUT_WR);
	/* Loopback delivers within the call, most of the time. */
	pair_start_clock(&pair);
	while (recv(pair.a.group->local, bytes, 4, MSG_PEEK | MSG_DONTWAIT) != 4)
		ck_assert(!pair_is_late(&pair));
	stripe_send(pair.a.stripes[0], &c);
	spread_pump(pair.a.group);
	UNTIL(&pair, pair.a.group->spread.done);
	ck_assert_int_eq(getsockopt(pair.a.stripes[0]->fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
	ck_assert_uint_eq(info.tcpi_data_segs_out, 1);
	raw_expect(&pair, 0, CONTROL_PING);
	raw_read(&pair, 0, header, sizeof(header));
	ck_assert_uint_eq(datagram_decode(header).serial, 1);
	raw_read(&pair, 0, bytes, sizeof(bytes));
	ck_assert_mem_eq(bytes, "last", 4);
	ck_assert_uint_eq(raw_expect(&pair, 0, CONTROL_FIN).serial, 1);
	pair_close(&pair);
}
END_TEST

/* A stripe that nothing is on its way on has no memory besides itself. */
START_TEST(test_no_buffers_when_idle)
{
	struct pair pair;
	struct control c = ping(1);
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];
	size_t length = control_encode(bytes, &c);

	pair_open_raw(&pair, 1, _i);
	raw_write(&pair, 0, bytes, length - 1);
	UNTIL(&pair, pair.a.stripes[0]->in.ahead.n > 0);
	raw_write(&pair, 0, bytes + length - 1, 1);
	expect_pong(&pair, 0, 1);
	raw_data(&pair, 0, 1, "data");
	local_expect(&pair, &pair.a, "data");
	pair_settle(&pair);
	ck_assert_ptr_null(pair.a.stripes[0]->in.ahead.bytes);
	ck_assert_ptr_null(pair.a.stripes[0]->out.controls);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_one_packet, MODES_EXTENDED},
		{test_no_buffers_when_idle, MODES_EXTENDED},
		{test_ping, MODES_EXTENDED},
		{test_pong_overflow, MODES_EXTENDED},
		{test_peer_does_not_read, 1},
		{test_ping_budget, 1},
		{test_idle, 1},
		{test_open_is_the_role_s, 1},
		{test_peer_detaches, MODES_EXTENDED},
		{test_we_detach, MODES_EXTENDED},
		{test_end_waits_for_a_stripe, MODES_EXTENDED},
		{test_waits_to_be_confirmed, MODES_EXTENDED},
		{test_data_before_confirmed, MODES_EXTENDED},
		{test_settle, 1},
		{test_is_worn, 1},
		{test_worn, MODES_EXTENDED},
		{test_leaving, MODES_EXTENDED},
		{test_leaving_takes_too_long, 1},
		{test_held, MODES_EXTENDED},
		{test_adopted, MODES_EXTENDED},
		{test_adopted_as_another, MODES_EXTENDED},
		{test_ended_by_the_role, MODES_EXTENDED},
		{test_closed_when_idle, MODES_EXTENDED},
		{NULL, 0},
	};

	return run_looped("stripe", tests);
}
