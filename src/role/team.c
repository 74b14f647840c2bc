/* SPDX-License-Identifier: ISC */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "net/sock.h"
#include "role/team.h"

STAILQ_HEAD(handover_list, handover);

struct member {
	pthread_mutex_t lock; /* of inbox and here; taken when groups begin, never for data */
	struct handover_list inbox;
	bool here;
	struct ev_loop *loop;
	ev_async wake;
	team_receive *receive;
	void *arg;
};

struct relay_team {
	unsigned size;
	struct member members[];
};

struct relay_team *relay_team_new(unsigned size)
{
	struct relay_team *team = calloc(1, sizeof(*team) + size * sizeof(team->members[0]));

	if (team == NULL)
		return NULL;
	team->size = size;
	for (unsigned i = 0; i < size; i++) {
		pthread_mutex_init(&team->members[i].lock, NULL);
		STAILQ_INIT(&team->members[i].inbox);
	}
	return team;
}

void relay_team_free(struct relay_team *team)
{
	for (unsigned i = 0; i < team->size; i++)
		pthread_mutex_destroy(&team->members[i].lock);
	free(team);
}

unsigned team_size(const struct relay_team *team)
{
	return team->size;
}

unsigned team_owner(const struct relay_team *team, uint32_t number)
{
	return number % team->size;
}

static void on_wake(struct ev_loop *loop, ev_async *async, int revents)
{
	struct member *member = async->data;
	struct handover_list list = STAILQ_HEAD_INITIALIZER(list);
	struct handover *handover;

	(void)loop;
	(void)revents;
	pthread_mutex_lock(&member->lock);
	STAILQ_CONCAT(&list, &member->inbox);
	pthread_mutex_unlock(&member->lock);
	while ((handover = STAILQ_FIRST(&list)) != NULL) {
		STAILQ_REMOVE_HEAD(&list, link);
		member->receive(member->arg, handover);
	}
}

void team_join(struct relay_team *team, unsigned index, struct ev_loop *loop, team_receive *receive, void *arg)
{
	struct member *member = &team->members[index];

	member->loop = loop;
	member->receive = receive;
	member->arg = arg;
	ev_async_init(&member->wake, on_wake);
	member->wake.data = member;
	ev_async_start(loop, &member->wake);
	pthread_mutex_lock(&member->lock);
	member->here = true;
	pthread_mutex_unlock(&member->lock);
}

static void throw_away(struct handover *handover)
{
	if (handover->stripe != NULL)
		stripe_throw_away(handover->stripe);
	else
		sock_abort(handover->fd);
	free(handover);
}

void team_leave(struct relay_team *team, unsigned index)
{
	struct member *member = &team->members[index];
	struct handover *handover;

	pthread_mutex_lock(&member->lock);
	member->here = false;
	while ((handover = STAILQ_FIRST(&member->inbox)) != NULL) {
		STAILQ_REMOVE_HEAD(&member->inbox, link);
		throw_away(handover);
	}
	pthread_mutex_unlock(&member->lock);
	ev_async_stop(member->loop, &member->wake);
}

void team_send(struct relay_team *team, unsigned index, struct handover *handover)
{
	struct member *member = &team->members[index];
	bool here;

	pthread_mutex_lock(&member->lock);
	here = member->here;
	if (here) {
		STAILQ_INSERT_TAIL(&member->inbox, handover, link);
		/* Within the lock: afterwards the loop may be gone. */
		ev_async_send(member->loop, &member->wake);
	}
	pthread_mutex_unlock(&member->lock);
	if (!here)
		throw_away(handover);
}
