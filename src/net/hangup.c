/* SPDX-License-Identifier: ISC */
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "net/hangup.h"

struct hangup {
	int epoll;
	struct ev_loop *loop;
	ev_io io;
};

/* One event at a time: what it leads to may close, and free, the socket that the next event would name. */
static void on_event(struct ev_loop *loop, ev_io *io, int revents)
{
	struct hangup *hangup = io->data;
	struct epoll_event event;
	struct hangup_watch *watch;

	(void)loop;
	(void)revents;
	while (epoll_wait(hangup->epoll, &event, 1, 0) == 1) {
		watch = event.data.ptr;
		/* EPOLLHUP alone means that both directions were closed in order. */
		if (event.events & EPOLLERR)
			watch->failed(watch);
	}
}

struct hangup *hangup_new(struct ev_loop *loop)
{
	struct hangup *hangup = malloc(sizeof(*hangup));

	if (hangup == NULL)
		return NULL;
	hangup->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (hangup->epoll < 0) {
		free(hangup);
		return NULL;
	}
	hangup->loop = loop;
	ev_io_init(&hangup->io, on_event, hangup->epoll, EV_READ);
	hangup->io.data = hangup;
	ev_io_start(loop, &hangup->io);
	return hangup;
}

void hangup_free(struct hangup *hangup)
{
	ev_io_stop(hangup->loop, &hangup->io);
	close(hangup->epoll);
	free(hangup);
}

int hangup_add(struct hangup *hangup, int fd, struct hangup_watch *watch)
{
	struct epoll_event event = {.events = EPOLLET, .data.ptr = watch};

	return epoll_ctl(hangup->epoll, EPOLL_CTL_ADD, fd, &event);
}

void hangup_remove(struct hangup *hangup, int fd)
{
	epoll_ctl(hangup->epoll, EPOLL_CTL_DEL, fd, NULL);
}
