/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "net/sock.h"
#include "role/acceptor.h"

/* Connections that are accepted before others of the loop get their turn. */
#define ACCEPT_BUDGET 64

/* Seconds until another try when there was no descriptor. */
#define PAUSE 0.1

/* Out of descriptors: the caller hears at once that it's of no use to wait, then no more are taken for a while. */
static void turn_away(struct acceptor *acceptor)
{
	union addr peer;
	int fd;

	log_warn("accepting a connection");
	close(acceptor->reserve);
	fd = sock_accept(acceptor->fd, &peer);
	if (fd >= 0)
		sock_abort(fd);
	acceptor->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	counter_add(&acceptor->counters->accepts_paused, 1);
	ev_io_stop(acceptor->loop, &acceptor->io);
	ev_timer_set(&acceptor->pause, PAUSE, 0.);
	ev_timer_start(acceptor->loop, &acceptor->pause);
}

static void on_pause_over(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct acceptor *acceptor = timer->data;

	(void)revents;
	ev_io_start(loop, &acceptor->io);
}

static void on_connection(struct ev_loop *loop, ev_io *io, int revents)
{
	struct acceptor *acceptor = io->data;
	union addr peer;
	int fd;

	(void)loop;
	(void)revents;
	for (unsigned i = 0; i < ACCEPT_BUDGET && acceptor->fd >= 0; i++) {
		fd = sock_accept(acceptor->fd, &peer);
		if (fd >= 0) {
			acceptor->accepted(acceptor, fd, &peer);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			turn_away(acceptor);
			return;
		} else if (errno == EAGAIN) {
			return;
		}
		/* Any other error is that of a connection which has gone before it was accepted: accept(2). */
	}
}

int acceptor_open(struct acceptor *acceptor, struct ev_loop *loop, struct counters *counters, const union addr *listen,
		  bool transparent)
{
	acceptor->fd = sock_listen(listen, transparent);
	if (acceptor->fd < 0)
		return -1;
	acceptor->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	acceptor->loop = loop;
	acceptor->counters = counters;
	ev_timer_init(&acceptor->pause, on_pause_over, 0., 0.);
	ev_io_init(&acceptor->io, on_connection, acceptor->fd, EV_READ);
	acceptor->io.data = acceptor->pause.data = acceptor;
	ev_io_start(loop, &acceptor->io);
	return 0;
}

void acceptor_close(struct acceptor *acceptor)
{
	if (acceptor->fd < 0)
		return;
	ev_io_stop(acceptor->loop, &acceptor->io);
	ev_timer_stop(acceptor->loop, &acceptor->pause);
	close(acceptor->fd);
	if (acceptor->reserve >= 0)
		close(acceptor->reserve);
	acceptor->fd = acceptor->reserve = -1;
}
