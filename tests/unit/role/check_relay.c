/* SPDX-License-Identifier: ISC */
/* A relay of two workers, each in a thread of its own: stripes find their groups whichever worker took them in. */
#include "role/relay.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "net/sock.h"
#include "tests/unit/role/local_relay.h"
#include "wire/control.h"
#include "wire/greeting.h"

#define WORKERS 2
#define GROUPS 24
#define STRIPES 3

/*
 * libev doesn't take a descriptor out of its epoll set when the watcher stops, only when the kernel reports it once more (epoll_modify()
 * in ev_epoll.c). So the worker that gave a stripe up may still do so while the new one closes it: epoll_ctl(2) fails then, and libev makes
 * a new set. No memory is shared by that.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:epoll_ctl\n";
}

struct worker {
	struct engine *engine;
	struct relay *relay;
	pthread_t thread;
	ev_async stop;
};

struct scene {
	struct relay_settings settings;
	struct relay_team *team;
	struct worker workers[WORKERS];
	int server;
	union addr server_address;
};

static void on_stop(struct ev_loop *loop, ev_async *async, int revents)
{
	(void)async;
	(void)revents;
	ev_break(loop, EVBREAK_ALL);
}

static void *run(void *arg)
{
	ev_run(((struct worker *)arg)->engine->loop, 0);
	return NULL;
}

static void set_up(struct scene *scene)
{
	const struct engine_settings engine_settings = {.splice = true};

	memset(scene, 0, sizeof(*scene));
	scene->server = local_relay(&scene->settings, &scene->server_address);
	scene->team = relay_team_new(WORKERS);
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *w = &scene->workers[i];

		w->engine = engine_new(&engine_settings);
		ck_assert_ptr_nonnull(w->engine);
		w->relay = relay_new(w->engine, &scene->settings, scene->team, i);
		ck_assert_ptr_nonnull(w->relay);
		ev_async_init(&w->stop, on_stop);
		ev_async_start(w->engine->loop, &w->stop);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		ck_assert_int_eq(pthread_create(&scene->workers[i].thread, NULL, run, &scene->workers[i]), 0);
}

static uint64_t flows(const struct scene *scene, unsigned i)
{
	return counter_read(&scene->workers[i].engine->counters.flows_total);
}

static void tear_down(struct scene *scene)
{
	for (unsigned i = 0; i < WORKERS; i++) {
		ev_async_send(scene->workers[i].engine->loop, &scene->workers[i].stop);
		pthread_join(scene->workers[i].thread, NULL);
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		relay_free(scene->workers[i].relay);
		ck_assert_uint_eq(counter_read(&scene->workers[i].engine->counters.stripes_now), 0);
		ck_assert_uint_eq(counter_read(&scene->workers[i].engine->counters.flows_now), 0);
		ev_async_stop(scene->workers[i].engine->loop, &scene->workers[i].stop);
		engine_free(scene->workers[i].engine);
	}
	relay_team_free(scene->team);
	rules_clear(&scene->settings.rules);
	close(scene->server);
}

/* A blocking socket that gives up in the end. */
static int connect_to(const union addr *a)
{
	const struct timeval patience = {.tv_sec = PATIENCE};
	int fd = socket(a->sa.sa_family, SOCK_STREAM, 0);

	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	ck_assert_int_eq(connect(fd, &a->sa, addr_length(a)), 0);
	return fd;
}

static void hear(int fd, void *bytes, size_t n)
{
	ck_assert_int_eq(recv(fd, bytes, n, MSG_WAITALL), (int)n);
}

static void say(int fd, const void *bytes, size_t n)
{
	ck_assert_int_eq(send(fd, bytes, n, MSG_NOSIGNAL), (int)n);
}

static int greeted_stripe(const struct scene *scene)
{
	static const struct key key;
	static const uint8_t nonce[NONCE_SIZE];
	uint8_t hello[HELLO_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE];
	int fd = connect_to(&scene->settings.listen);

	hello_encode(hello, key.id, nonce);
	say(fd, hello, sizeof(hello));
	hear(fd, challenge, sizeof(challenge));
	ck_assert_int_eq(challenge_check(challenge, hello, key.secret), GREETING_OK);
	proof_encode(proof, hello, challenge, key.secret);
	say(fd, proof, sizeof(proof));
	return fd;
}

/* The request and one byte of data behind it, as serial. */
static void ask(const struct scene *scene, int fd, uint8_t group, uint32_t serial)
{
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX + DATAGRAM_HEADER + 1];
	struct control control = {.type = serial == 1 ? CONTROL_OPEN : CONTROL_JOIN};
	size_t length;

	memset(control.open.token, group, TOKEN_SIZE);
	if (serial == 1) {
		control.open.destination = scene->server_address;
		control.open.client = scene->server_address;
	} else {
		memset(control.join.token, group, TOKEN_SIZE);
	}
	length = control_encode(bytes, &control);
	datagram_encode(bytes + length, serial, 1);
	bytes[length + DATAGRAM_HEADER] = (uint8_t)('a' + serial - 1);
	say(fd, bytes, length + DATAGRAM_HEADER + 1);
}

static uint32_t hear_number(int fd)
{
	uint8_t header[DATAGRAM_HEADER], payload[CONTROL_MAX];
	struct control control;

	do {
		hear(fd, header, sizeof(header));
		ck_assert_uint_eq(datagram_decode(header).serial, SERIAL_CONTROL);
		ck_assert_uint_le(datagram_decode(header).size, CONTROL_MAX);
		hear(fd, payload, datagram_decode(header).size);
		ck_assert_int_eq(control_decode(&control, payload, datagram_decode(header).size), CONTROL_OK);
	} while (control.type == CONTROL_CONNECTED);
	ck_assert_int_eq(control.type, CONTROL_NUMBER);
	return control.number.number;
}

/* Joins before and after their Open, taken in by any worker; the server gets all of it in order. */
START_TEST(test_stripes_find_their_group)
{
	const struct timeval patience = {.tv_sec = PATIENCE};
	int stripes[GROUPS][STRIPES], server[GROUPS];
	struct scene scene;
	char got[STRIPES];

	set_up(&scene);
	for (unsigned g = 0; g < GROUPS; g++) {
		uint32_t number;

		for (unsigned i = 0; i < STRIPES; i++)
			stripes[g][i] = greeted_stripe(&scene);
		for (unsigned i = 0; i < STRIPES; i++) {
			unsigned which = (i + g) % STRIPES; /* which of them is first */

			ask(&scene, stripes[g][which], (uint8_t)g, which + 1);
		}
		while ((server[g] = accept(scene.server, NULL, NULL)) < 0)
			sched_yield();
		setsockopt(server[g], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		hear(server[g], got, STRIPES);
		ck_assert_mem_eq(got, "abc", STRIPES);
		number = hear_number(stripes[g][0]);
		ck_assert_uint_ne(number, 0);
		for (unsigned i = 1; i < STRIPES; i++)
			ck_assert_uint_eq(hear_number(stripes[g][i]), number);
	}
	/* The token says whose group it is. */
	ck_assert_uint_eq(flows(&scene, 0), GROUPS / 2);
	ck_assert_uint_eq(flows(&scene, 1), GROUPS / 2);
	for (unsigned g = 0; g < GROUPS; g++) {
		for (unsigned i = 0; i < STRIPES; i++)
			close(stripes[g][i]);
		ck_assert_int_le(recv(server[g], got, 1, 0), 0);
		close(server[g]);
	}
	tear_down(&scene);
}
END_TEST

/* Stripes that end on their way from one worker to the other. */
START_TEST(test_gone_on_the_way)
{
	struct scene scene;
	int fd;

	set_up(&scene);
	for (unsigned g = 0; g < 100; g++) {
		fd = greeted_stripe(&scene);
		ask(&scene, fd, (uint8_t)g, 2);
		if (g % 2)
			sock_abort(fd);
		else
			close(fd);
	}
	/* Some may still be on their way when the workers stop. */
	tear_down(&scene);
}
END_TEST

int main(void)
{
	return RUN_TESTS("relay", test_stripes_find_their_group, test_gone_on_the_way);
}
