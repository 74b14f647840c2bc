/* SPDX-License-Identifier: ISC */
#include "role/acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/core/pair.h"

#define MANY 200

struct scene {
	struct acceptor acceptor;
	struct ev_loop *loop;
	struct counters counters;
	union addr address;
	int fds[MANY];
	unsigned accepted;
	bool close_after_first;
};

static void on_accepted(struct acceptor *acceptor, int fd, const union addr *peer)
{
	struct scene *scene = (struct scene *)acceptor;

	ck_assert_int_eq(peer->sa.sa_family, AF_INET);
	ck_assert_uint_lt(scene->accepted, MANY);
	scene->fds[scene->accepted++] = fd;
	if (scene->close_after_first)
		acceptor_close(acceptor);
}

static void set_up(struct scene *scene)
{
	memset(scene, 0, sizeof(*scene));
	scene->loop = ev_loop_new(EVFLAG_NOENV);
	ck_assert_int_eq(addr_parse(&scene->address, "[::]:0", 0, false), 0);
	ck_assert_int_eq(sock_claim(&scene->address), 0);
	scene->acceptor.accepted = on_accepted;
	ck_assert_int_eq(acceptor_open(&scene->acceptor, scene->loop, &scene->counters, &scene->address, false), 0);
	ck_assert_int_eq(addr_parse(&scene->address, "127.0.0.1", addr_port(&scene->address), false), 0);
}

static void tear_down(struct scene *scene)
{
	acceptor_close(&scene->acceptor);
	acceptor_close(&scene->acceptor);
	for (unsigned i = 0; i < scene->accepted; i++)
		close(scene->fds[i]);
	ev_loop_destroy(scene->loop);
}

START_TEST(test_drains)
{
	struct scene scene;
	int clients[MANY];

	set_up(&scene);
	for (unsigned i = 0; i < MANY; i++)
		clients[i] = sock_connect(&scene.address, NULL, false);
	while (scene.accepted < MANY)
		ev_run(scene.loop, EVRUN_ONCE);
	for (unsigned i = 0; i < MANY; i++)
		close(clients[i]);
	ck_assert_uint_eq(counter_read(&scene.counters.accepts_paused), 0);
	tear_down(&scene);
}
END_TEST

START_TEST(test_closed_from_within)
{
	struct scene scene;
	int clients[5];

	set_up(&scene);
	scene.close_after_first = true;
	for (unsigned i = 0; i < 5; i++)
		clients[i] = sock_connect(&scene.address, NULL, false);
	while (scene.accepted == 0)
		ev_run(scene.loop, EVRUN_ONCE);
	ev_run(scene.loop, EVRUN_NOWAIT);
	ck_assert_uint_eq(scene.accepted, 1);
	for (unsigned i = 0; i < 5; i++)
		close(clients[i]);
	tear_down(&scene);
}
END_TEST

/* Without descriptors callers are turned away one by one, the loop rests between, and later all is well again. */
START_TEST(test_out_of_descriptors)
{
	struct scene scene;
	struct rlimit limit, low;
	int clients[3], filler[256];
	unsigned fillers = 0, turns = 0;
	ssize_t n;
	char byte;

	set_up(&scene);
	for (unsigned i = 0; i < 3; i++)
		clients[i] = sock_connect(&scene.address, NULL, false);
	ev_now_update(scene.loop);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = limit;
	low.rlim_cur = 128;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
	while ((filler[fillers] = open("/dev/null", O_RDONLY)) >= 0)
		fillers++;
	ck_assert_int_eq(errno, EMFILE);
	while (counter_read(&scene.counters.accepts_paused) < 2) {
		ev_run(scene.loop, EVRUN_ONCE);
		ck_assert_uint_lt(++turns, 100); /* it doesn't spin */
	}
	ck_assert_uint_eq(scene.accepted, 0);
	while ((n = recv(clients[0], &byte, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
		ev_run(scene.loop, EVRUN_NOWAIT);
	ck_assert_int_eq(n, -1);
	ck_assert_int_eq(errno, ECONNRESET);
	while (fillers > 0)
		close(filler[--fillers]);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (scene.accepted == 0)
		ev_run(scene.loop, EVRUN_ONCE);
	ck_assert_int_ge(scene.acceptor.reserve, 0);
	for (unsigned i = 0; i < 3; i++)
		close(clients[i]);
	tear_down(&scene);
}
END_TEST

START_TEST(test_port_in_use)
{
	struct scene scene;
	struct acceptor other = {.fd = -1};
	union addr foreign;

	set_up(&scene);
	ck_assert_int_eq(addr_parse(&foreign, "192.0.2.1:9", 0, false), 0);
	ck_assert_int_eq(acceptor_open(&other, scene.loop, &scene.counters, &foreign, false), -1);
	ck_assert_int_eq(errno, EADDRNOTAVAIL);
	acceptor_close(&other);
	tear_down(&scene);
}
END_TEST

int main(void)
{
	return RUN_TESTS("acceptor", test_drains, test_closed_from_within, test_out_of_descriptors, test_port_in_use);
}
