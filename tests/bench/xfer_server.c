/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "xfer.h"

struct peer {
	int fd;
	uint32_t events;
	size_t asked; /* bytes of the request that are here */
	struct request request;
	uint64_t to_send;
	uint64_t to_receive;
	uint64_t offset;
};

struct server {
	struct run *run;
	int epoll;
	int listener;
	int rival_listener;
	uint8_t *buffer;
};

static void watch(struct server *server, struct peer *peer, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = peer };

	if (peer->events == events)
		return;
	if (epoll_ctl(server->epoll, peer->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, peer->fd, &event))
		die("epoll_ctl");
	peer->events = events;
}

/*
 * A rival is plain TCP with CUBIC whatever the namespace's default and whatever mptcpize(8) makes
 * of socket(): hence the system call.
 */
static int listener(struct server *server, uint16_t port, bool rival)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct epoll_event event = { .events = EPOLLIN };
	int type = SOCK_STREAM | SOCK_NONBLOCK;
	int fd = rival ? (int)syscall(SYS_socket, AF_INET, type, 0) : socket(AF_INET, type, 0);

	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)))
		die("SO_REUSEADDR");
	if (rival && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", strlen("cubic")))
		die("the server's congestion control cubic");
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 4096))
		die("the server's listener");
	event.data.ptr = rival ? &server->rival_listener : &server->listener;
	if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event))
		die("epoll_ctl");
	return fd;
}

static void accept_all(struct server *server, int from)
{
	struct peer *peer;
	int fd;

	while ((fd = accept4(from, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
		peer = calloc(1, sizeof(*peer));
		if (!peer)
			die("a connection of the server");
		peer->fd = fd;
		watch(server, peer, EPOLLIN);
	}
	if (errno != EAGAIN && errno != ECONNABORTED)
		die("accept");
}

static void peer_free(struct peer *peer)
{
	close(peer->fd);
	free(peer);
}

/* The request is here: what it says is what we do next. */
static void obey(struct peer *peer)
{
	peer->asked = 0;
	peer->offset = 0;
	if (peer->request.operation == OP_UP) {
		peer->to_receive = peer->request.size;
		peer->to_send = 1;
	} else {
		peer->to_send = peer->request.size;
	}
}

static ssize_t receive_step(struct server *server, struct peer *peer)
{
	ssize_t n;

	if (peer->to_receive) {
		n = pattern_receive(server->run, peer->fd, server->buffer, peer->offset, peer->to_receive,
				    peer->request.meter);
		if (n > 0) {
			peer->offset += (uint64_t)n;
			peer->to_receive -= (uint64_t)n;
			if (!peer->to_receive)
				peer->offset = 0;
		}
		return n;
	}
	n = recv(peer->fd, (uint8_t *)&peer->request + peer->asked,
		 sizeof(peer->request) - peer->asked, 0);
	if (n > 0) {
		peer->asked += (size_t)n;
		if (peer->asked == sizeof(peer->request))
			obey(peer);
	}
	return n;
}

static ssize_t send_step(struct server *server, struct peer *peer)
{
	ssize_t n = pattern_send(server->run, peer->fd, peer->offset, peer->to_send);

	if (n > 0) {
		peer->offset += (uint64_t)n;
		peer->to_send -= (uint64_t)n;
	}
	return n;
}

/* One step of a connection; false when it has ended. */
static bool drive(struct server *server, struct peer *peer)
{
	bool sends = peer->to_send && !peer->to_receive;
	ssize_t n = sends ? send_step(server, peer) : receive_step(server, peer);

	if (n < 0 && errno != EAGAIN)
		return false;
	if (n == 0)
		return false;
	if (sends && !peer->to_send && peer->request.operation == OP_CLOSE)
		return false;
	watch(server, peer, peer->to_send && !peer->to_receive ? EPOLLOUT : EPOLLIN);
	return true;
}

void *server_main(void *argument)
{
	struct server server = { .run = argument };
	struct epoll_event events[64];
	int namespace = open(server.run->server_namespace, O_RDONLY);

	if (namespace < 0 || setns(namespace, CLONE_NEWNET))
		die(server.run->server_namespace);
	close(namespace);
	server.epoll = epoll_create1(0);
	server.buffer = malloc(PIECE);
	if (server.epoll < 0 || !server.buffer)
		die("the server");
	server.listener = listener(&server, server.run->port, false);
	server.rival_listener = listener(&server, server.run->port + 1, true);
	atomic_store(&server.run->serving, true);
	for (;;) {
		int count = epoll_wait(server.epoll, events, 64, -1);

		for (int i = 0; i < count; i++) {
			void *what = events[i].data.ptr;

			if (what == &server.listener || what == &server.rival_listener)
				accept_all(&server, *(int *)what);
			else if (!drive(&server, what))
				peer_free(what);
		}
	}
}
