/* SPDX-License-Identifier: ISC */
/* A relay of one worker, whose stripes end in sockets of the test. All of it runs in one thread, by turns. */
#include "role/service.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/sock.h"
#include "tests/unit/role/local_relay.h"
#include "wire/bytes.h"
#include "wire/greeting.h"

#define SETTLED 50 /* turns in which nothing more moves */

struct scene {
	struct relay_settings settings;
	struct relay_team *team;
	struct engine *engine;
	struct relay *relay;
	int listener;
	union addr server_address;
	bool drained;
};

static void set_up(struct scene *scene)
{
	const struct engine_settings engine_settings = {.splice = true};

	memset(scene, 0, sizeof(*scene));
	scene->listener = local_relay(&scene->settings, &scene->server_address);
	scene->team = relay_team_new(1);
	scene->engine = engine_new(&engine_settings);
	ck_assert_ptr_nonnull(scene->engine);
	scene->relay = relay_new(scene->engine, &scene->settings, scene->team, 0);
	ck_assert_ptr_nonnull(scene->relay);
}

static void tear_down(struct scene *scene)
{
	relay_free(scene->relay);
	engine_free(scene->engine);
	relay_team_free(scene->team);
	rules_clear(&scene->settings.rules);
	close(scene->listener);
}

static void turn(struct scene *scene)
{
	ev_run(scene->engine->loop, EVRUN_NOWAIT);
}

static void on_drained(void *arg)
{
	((struct scene *)arg)->drained = true;
}

/* Reads n bytes, turning until they are there. False at the end of the stripe. */
static bool hear(struct scene *scene, int fd, void *bytes, size_t n)
{
	double deadline = ev_time() + PATIENCE;
	size_t got = 0;
	ssize_t result;

	while (got < n) {
		ck_assert_msg(ev_time() < deadline, "waited in vain for %zu bytes", n - got);
		turn(scene);
		result = recv(fd, (uint8_t *)bytes + got, n - got, MSG_DONTWAIT);
		ck_assert_msg(result >= 0 || errno == EAGAIN, "reset");
		if (result == 0) {
			ck_assert_uint_eq(got, 0);
			return false;
		}
		got += result > 0 ? (size_t)result : 0;
	}
	return true;
}

static void say(int fd, const void *bytes, size_t n)
{
	ck_assert_int_eq(send(fd, bytes, n, MSG_NOSIGNAL), (int)n);
}

static void say_control(int fd, const struct control *control)
{
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];

	say(fd, bytes, control_encode(bytes, control));
}

/* With a small receive buffer, so that it's soon full. */
static int greeted_stripe(struct scene *scene, uint32_t features)
{
	static const struct key key;
	static const uint8_t nonce[NONCE_SIZE];
	const int size = 16384;
	uint8_t hello[HELLO_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE];
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
	ck_assert_int_eq(connect(fd, &scene->settings.listen.sa, addr_length(&scene->settings.listen)), 0);
	hello_encode(hello, key.id, nonce);
	put_u32(hello + 8, features);
	say(fd, hello, sizeof(hello));
	ck_assert(hear(scene, fd, challenge, sizeof(challenge)));
	proof_encode(proof, hello, challenge, key.secret);
	say(fd, proof, sizeof(proof));
	return fd;
}

/* Opens a group over both stripes. Returns the server's connection. */
static int open_group(struct scene *scene, int first, int second)
{
	struct control open = {.type = CONTROL_OPEN, .open = {.destination = scene->server_address, .client = scene->server_address}};
	struct control join = {.type = CONTROL_JOIN};
	double deadline = ev_time() + PATIENCE;
	union addr peer;
	int server;

	say_control(first, &open);
	while ((server = sock_accept(scene->listener, &peer)) < 0) {
		ck_assert(ev_time() < deadline);
		turn(scene);
	}
	memcpy(join.join.token, open.open.token, TOKEN_SIZE);
	say_control(second, &join);
	return server;
}

/* Each stripe has something that its peer doesn't take. */
static bool all_full(const struct scene *scene)
{
	struct stripe *stripe;

	TAILQ_FOREACH(stripe, &scene->engine->stripes, engine_link) {
		if (sock_unacknowledged(stripe->fd) == 0)
			return false;
	}
	return true;
}

/* The server sends until the relay takes no more, with small buffers of its own. */
static void fill(struct scene *scene, int server)
{
	static const uint8_t bytes[65536];
	const int size = 4096;
	struct stripe *stripe;
	struct counters *counters = &scene->engine->counters;
	double deadline = ev_time() + PATIENCE;
	uint64_t before = 0;
	unsigned turns = 0;

	TAILQ_FOREACH(stripe, &scene->engine->stripes, engine_link)
		ck_assert_int_eq(setsockopt(stripe->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	while (turns++ < SETTLED || !all_full(scene)) {
		ck_assert(ev_time() < deadline);
		ck_assert(send(server, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || errno == EAGAIN);
		turn(scene);
		if (counter_read(&counters->bytes_out) != before)
			turns = 0;
		before = counter_read(&counters->bytes_out);
	}
}

/* A flow on two stripes, both full, of which the client reads nothing. Returns the server's connection. */
static int open_full(struct scene *scene, int *first, int *second)
{
	int server;

	set_up(scene);
	*first = greeted_stripe(scene, 0);
	*second = greeted_stripe(scene, 0);
	server = open_group(scene, *first, *second);
	fill(scene, server);
	return server;
}

/* Reads whole datagrams up to the control. False if the stripe ends before. */
static bool hear_control(struct scene *scene, int fd, enum control_type type)
{
	static uint8_t payload[DATAGRAM_MAX_EXTENDED];
	uint8_t header[DATAGRAM_HEADER];
	struct datagram datagram;
	struct control control;

	while (hear(scene, fd, header, sizeof(header))) {
		datagram = datagram_decode(header);
		ck_assert(hear(scene, fd, payload, datagram.size));
		if (datagram.serial == SERIAL_CONTROL && control_decode(&control, payload, datagram.size) == CONTROL_OK &&
		    control.type == type)
			return true;
	}
	return false;
}

/* Reads all that the stripe carries, and says so. */
static void answer_ping(struct scene *scene, int fd)
{
	ck_assert(hear_control(scene, fd, CONTROL_DETACH));
	ck_assert(hear_control(scene, fd, CONTROL_PING));
	say_control(fd, &(struct control){.type = CONTROL_PONG});
}

/* A stripe that is given back while the relay is being stopped still has data, and Detach, for a flow that goes on. */
START_TEST(test_given_back_while_draining)
{
	struct scene scene;
	int first, second, server;
	double deadline = ev_time() + PATIENCE;

	server = open_full(&scene, &first, &second);
	relay_drain(scene.relay, on_drained, &scene);
	say_control(second, &(struct control){.type = CONTROL_DETACH});
	for (unsigned i = 0; i < SETTLED; i++)
		turn(&scene);
	ck_assert_uint_eq(counter_read(&scene.engine->counters.stripes_idle_now), 1);
	answer_ping(&scene, second);
	while (!TAILQ_EMPTY(&scene.relay->idle)) {
		ck_assert(ev_time() < deadline);
		turn(&scene);
	}
	ck_assert(!hear_control(&scene, second, CONTROL_DETACH));
	ck_assert_uint_eq(counter_read(&scene.engine->counters.flows_now), 1);
	ck_assert(!scene.drained);
	sock_abort(first);
	while (!scene.drained) {
		ck_assert(ev_time() < deadline);
		turn(&scene);
	}
	close(second);
	close(server);
	tear_down(&scene);
}
END_TEST

/* As if it had been idle for long. */
static void sweep_later(struct scene *scene)
{
	TAILQ_FIRST(&scene->relay->idle)->role_time -= scene->settings.idle_timeout + 1.;
	guest_sweep(scene->relay);
}

static void sweep_until_closed(struct scene *scene)
{
	double deadline = ev_time() + PATIENCE;

	while (!TAILQ_EMPTY(&scene->relay->idle)) {
		ck_assert(ev_time() < deadline);
		turn(scene);
		sweep_later(scene);
	}
}

/* A client that pauses for long has the stripes that were given back meanwhile full of its flow's data, which nobody but its kernel has read. */
START_TEST(test_given_back_and_full)
{
	const int large = 1 << 20;
	struct stripe *given_back;
	struct scene scene;
	int first, second, server;
	double deadline = ev_time() + PATIENCE;

	server = open_full(&scene, &first, &second);
	say_control(second, &(struct control){.type = CONTROL_DETACH});
	while (counter_read(&scene.engine->counters.stripes_idle_now) == 0)
		turn(&scene);
	sweep_later(&scene);
	ck_assert_uint_eq(counter_read(&scene.engine->counters.stripes_idle_now), 1);
	/* All of it was acknowledged now. */
	given_back = TAILQ_FIRST(&scene.relay->idle);
	ck_assert_int_eq(setsockopt(second, SOL_SOCKET, SO_RCVBUF, &large, sizeof(large)), 0);
	ck_assert_int_eq(setsockopt(given_back->fd, SOL_SOCKET, SO_SNDBUF, &large, sizeof(large)), 0);
	while (!stripe_flush(given_back) || sock_unacknowledged(given_back->fd) > 0) {
		ck_assert(ev_time() < deadline);
		turn(&scene);
	}
	for (unsigned i = 0; i < 3; i++)
		sweep_later(&scene);
	ck_assert_uint_eq(counter_read(&scene.engine->counters.stripes_idle_now), 1);
	answer_ping(&scene, second);
	sweep_until_closed(&scene);
	ck_assert(!hear_control(&scene, second, CONTROL_DETACH));
	ck_assert_uint_eq(counter_read(&scene.engine->counters.flows_now), 1);
	close(first);
	close(second);
	close(server);
	tear_down(&scene);
}
END_TEST

/* The flow has ended here, but what it has sent last is still to be read there, when the stripe is given back. */
START_TEST(test_given_back_at_the_end)
{
	struct scene scene;
	int first, second, server;
	double deadline = ev_time() + PATIENCE;

	set_up(&scene);
	first = greeted_stripe(&scene, 0);
	second = greeted_stripe(&scene, 0);
	server = open_group(&scene, first, second);
	say_control(first, &(struct control){.type = CONTROL_FIN});
	say(server, "last", 4);
	close(server);
	while (counter_read(&scene.engine->counters.flows_finished) == 0) {
		ck_assert(ev_time() < deadline);
		turn(&scene);
	}
	say_control(second, &(struct control){.type = CONTROL_DETACH});
	while (counter_read(&scene.engine->counters.stripes_idle_now) == 0) {
		ck_assert(ev_time() < deadline);
		turn(&scene);
	}
	sweep_later(&scene);
	ck_assert_uint_eq(counter_read(&scene.engine->counters.stripes_idle_now), 1);
	answer_ping(&scene, second);
	sweep_until_closed(&scene);
	close(first);
	close(second);
	tear_down(&scene);
}
END_TEST

START_TEST(test_time_set_back)
{
	struct scene scene;
	struct stripe *stripe;
	int fd;

	set_up(&scene);
	fd = greeted_stripe(&scene, 0);
	while ((stripe = TAILQ_FIRST(&scene.relay->idle)) == NULL)
		turn(&scene);
	stripe->role_time += 3600.;
	guest_sweep(scene.relay);
	ck_assert_double_le(stripe->role_time, ev_now(scene.engine->loop));
	sweep_later(&scene);
	ck_assert(TAILQ_EMPTY(&scene.relay->idle));
	close(fd);
	tear_down(&scene);
}
END_TEST

/* Nobody is sent flags that he doesn't know. */
START_TEST(test_features)
{
	struct scene scene;
	struct stripe *stripe;
	int with, without;

	set_up(&scene);
	without = greeted_stripe(&scene, ~FEATURE_PARITY);
	while (counter_read(&scene.engine->counters.stripes_idle_now) < 1)
		turn(&scene);
	stripe = TAILQ_FIRST(&scene.engine->stripes);
	ck_assert(!stripe->parity);
	with = greeted_stripe(&scene, FEATURE_PARITY);
	while (counter_read(&scene.engine->counters.stripes_idle_now) < 2)
		turn(&scene);
	ck_assert(TAILQ_NEXT(stripe, engine_link)->parity);
	close(with);
	close(without);
	tear_down(&scene);
}
END_TEST

int main(void)
{
	return RUN_TESTS("guest", test_given_back_while_draining, test_given_back_and_full, test_given_back_at_the_end, test_time_set_back, test_features);
}
