/* SPDX-License-Identifier: ISC */
#include "role/team.h"

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/core/pair.h"

#define MANY 2000

struct worker {
	struct relay_team *team;
	struct ev_loop *loop;
	unsigned index;
	unsigned received, until;
};

static void on_handover(void *arg, struct handover *handover)
{
	struct worker *w = arg;

	ck_assert_uint_eq(team_owner(w->team, handover->number), w->index);
	ck_assert_ptr_null(handover->stripe);
	close(handover->fd);
	free(handover);
	if (++w->received == w->until)
		ev_break(w->loop, EVBREAK_ALL);
}

static void join(struct worker *w, struct relay_team *team, unsigned index, unsigned until)
{
	memset(w, 0, sizeof(*w));
	w->team = team;
	w->loop = ev_loop_new(EVFLAG_NOENV);
	w->index = index;
	w->until = until;
	team_join(team, index, w->loop, on_handover, w);
}

static void leave(struct worker *w)
{
	team_leave(w->team, w->index);
	ev_loop_destroy(w->loop);
}

static void send_one(struct relay_team *team, uint32_t number, int fd)
{
	struct handover *handover = calloc(1, sizeof(*handover));

	handover->number = number;
	handover->fd = fd;
	team_send(team, team_owner(team, number), handover);
}

START_TEST(test_owner)
{
	struct relay_team *team = relay_team_new(3);
	unsigned owned[3] = {0};

	ck_assert_uint_eq(team_size(team), 3);
	for (uint32_t number = 0; number < 300; number++)
		owned[team_owner(team, number)]++;
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(owned[i], 100);
	relay_team_free(team);
}
END_TEST

/* Nobody is there, or not any more: the stripe is reset, and its peer hears of it. */
START_TEST(test_nobody_there)
{
	struct relay_team *team = relay_team_new(2);
	struct worker w;
	int fds[2];
	char byte;

	tcp_pair(fds);
	send_one(team, 1, fds[1]);
	ck_assert_int_eq(recv(fds[0], &byte, 1, 0), -1);
	close(fds[0]);
	join(&w, team, 1, 1);
	tcp_pair(fds);
	send_one(team, 1, fds[1]);
	/* It waits in the inbox when the worker leaves. */
	leave(&w);
	ck_assert_uint_eq(w.received, 0);
	ck_assert_int_eq(recv(fds[0], &byte, 1, 0), -1);
	close(fds[0]);
	tcp_pair(fds);
	send_one(team, 1, fds[1]);
	ck_assert_int_eq(recv(fds[0], &byte, 1, 0), -1);
	close(fds[0]);
	relay_team_free(team);
}
END_TEST

static void *run(void *arg)
{
	struct worker *w = arg;

	ev_run(w->loop, 0);
	return NULL;
}

/* Two threads, each giving to the other and receiving at the same time. */
struct sender {
	struct relay_team *team;
	uint32_t number;
};

static void *send_many(void *arg)
{
	struct sender *s = arg;

	for (unsigned i = 0; i < MANY; i++)
		send_one(s->team, s->number, socket(AF_UNIX, SOCK_STREAM, 0));
	return NULL;
}

START_TEST(test_two_threads)
{
	struct relay_team *team = relay_team_new(2);
	struct sender senders[2] = {{team, 0}, {team, 1}};
	pthread_t runs[2], sends[2];
	struct worker workers[2];

	for (unsigned i = 0; i < 2; i++) {
		join(&workers[i], team, i, MANY);
		ck_assert_int_eq(pthread_create(&runs[i], NULL, run, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&sends[i], NULL, send_many, &senders[i]), 0);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(sends[i], NULL);
		pthread_join(runs[i], NULL);
		ck_assert_uint_eq(workers[i].received, MANY);
		leave(&workers[i]);
	}
	relay_team_free(team);
}
END_TEST

/* One leaves while another still sends: each stripe is received or closed, none is lost. */
START_TEST(test_leaving_while_others_send)
{
	struct relay_team *team = relay_team_new(2);
	struct sender sender = {team, 0};
	pthread_t send, loop;
	struct worker w;

	join(&w, team, 0, 10);
	ck_assert_int_eq(pthread_create(&loop, NULL, run, &w), 0);
	ck_assert_int_eq(pthread_create(&send, NULL, send_many, &sender), 0);
	pthread_join(loop, NULL);
	leave(&w);
	pthread_join(send, NULL);
	ck_assert_uint_ge(w.received, 10);
	relay_team_free(team);
}
END_TEST

int main(void)
{
	return RUN_TESTS("team", test_owner, test_nobody_there, test_two_threads, test_leaving_while_others_send);
}
