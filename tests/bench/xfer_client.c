/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "xfer.h"

void client_init(struct client *client, struct run *run)
{
	client->run = run;
	client->epoll = epoll_create1(0);
	client->buffer = malloc(PIECE);
	if (client->epoll < 0 || !client->buffer)
		die("the client");
}

static void watch(struct client *client, struct flow *flow, uint32_t events, int operation)
{
	struct epoll_event event = { .events = events, .data.ptr = flow };

	if (epoll_ctl(client->epoll, operation, flow->fd, &event))
		die("epoll_ctl");
}

static void begin(struct flow *flow, const struct request *request)
{
	flow->request = *request;
	flow->asked = 0;
	flow->moved = 0;
	flow->received = 0;
	flow->to_come = request->operation == OP_UP ? 1 : request->size;
	flow->first_at = 0;
	flow->done_at = 0;
}

void flow_open(struct client *client, struct flow *flow, const struct sockaddr_in *to,
	       const struct request *request, const char *congestion)
{
	int type = SOCK_STREAM | SOCK_NONBLOCK;

	memset(flow, 0, sizeof(*flow));
	begin(flow, request);
	/* With a congestion control of its own it is plain TCP: mptcpize(8) must not touch it. */
	flow->fd = congestion ? (int)syscall(SYS_socket, AF_INET, type, 0) : socket(AF_INET, type, 0);
	if (flow->fd < 0)
		die("socket");
	setsockopt(flow->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	if (congestion &&
	    setsockopt(flow->fd, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion)))
		die("the client's congestion control");
	flow->state = FLOW_CONNECTING;
	flow->connect_at = now_ns();
	if (connect(flow->fd, (const struct sockaddr *)to, sizeof(*to)) && errno != EINPROGRESS)
		die("connect");
	watch(client, flow, EPOLLOUT, EPOLL_CTL_ADD);
}

void flow_ask(struct client *client, struct flow *flow, const struct request *request)
{
	begin(flow, request);
	flow->state = FLOW_ASKING;
	flow->ask_at = now_ns();
	watch(client, flow, EPOLLOUT, EPOLL_CTL_MOD);
}

void flow_close(struct flow *flow)
{
	if (flow->state != FLOW_CLOSED)
		close(flow->fd);
	flow->state = FLOW_CLOSED;
}

static ssize_t connect_step(struct flow *flow)
{
	socklen_t length = sizeof(int);
	int error;

	if (getsockopt(flow->fd, SOL_SOCKET, SO_ERROR, &error, &length) || error) {
		errno = error;
		return -1;
	}
	flow->connected_at = flow->ask_at = now_ns();
	flow->state = FLOW_ASKING;
	return 1;
}

static ssize_t ask_step(struct client *client, struct flow *flow)
{
	const uint8_t *rest = (const uint8_t *)&flow->request + flow->asked;
	ssize_t n = send(flow->fd, rest, sizeof(flow->request) - flow->asked, MSG_NOSIGNAL);

	if (n > 0)
		flow->asked += (size_t)n;
	if (flow->asked == sizeof(flow->request)) {
		flow->state = flow->request.operation == OP_UP ? FLOW_SENDING : FLOW_RECEIVING;
		if (flow->state == FLOW_RECEIVING)
			watch(client, flow, EPOLLIN, EPOLL_CTL_MOD);
	}
	return n;
}

static ssize_t send_step(struct client *client, struct flow *flow)
{
	ssize_t n = pattern_send(client->run, flow->fd, flow->moved, flow->request.size - flow->moved);

	if (n > 0)
		flow->moved += (uint64_t)n;
	if (flow->moved == flow->request.size) {
		flow->state = FLOW_RECEIVING;
		watch(client, flow, EPOLLIN, EPOLL_CTL_MOD);
	}
	return n;
}

static ssize_t receive_step(struct client *client, struct flow *flow)
{
	ssize_t n;

	/* The answer to an upload isn't counted with what was uploaded. */
	if (flow->request.operation == OP_UP)
		n = recv(flow->fd, client->buffer, 1, 0);
	else
		n = pattern_receive(client->run, flow->fd, client->buffer, flow->moved, flow->to_come,
				    flow->request.meter);
	if (n <= 0)
		return n;
	if (!flow->received)
		flow->first_at = now_ns();
	flow->received += (uint64_t)n;
	flow->to_come -= (uint64_t)n;
	if (flow->request.operation != OP_UP)
		flow->moved += (uint64_t)n;
	if (!flow->to_come) {
		flow->done_at = now_ns();
		flow->state = flow->request.operation == OP_CLOSE ? FLOW_ENDING : FLOW_DONE;
	}
	return n;
}

/* Waits for the server's end, so that its side is the one that keeps TIME_WAIT. */
static ssize_t end_step(struct client *client, struct flow *flow)
{
	ssize_t n = recv(flow->fd, client->buffer, 1, 0);

	if (n == 0) {
		flow->state = FLOW_DONE;
		return 1;
	}
	if (n > 0)
		errno = EPROTO;
	return -1;
}

static ssize_t step(struct client *client, struct flow *flow)
{
	switch (flow->state) {
	case FLOW_CONNECTING:
		return connect_step(flow);
	case FLOW_ASKING:
		return ask_step(client, flow);
	case FLOW_SENDING:
		return send_step(client, flow);
	case FLOW_RECEIVING:
		return receive_step(client, flow);
	case FLOW_ENDING:
		return end_step(client, flow);
	case FLOW_DONE: /* idle, and the other side has closed or reset it */
	default:
		errno = ECONNRESET;
		return -1;
	}
}

static bool drive(struct client *client, struct flow *flow)
{
	ssize_t n = step(client, flow);

	if (n == 0)
		errno = ECONNRESET;
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		flow->error = errno;
		flow->state = FLOW_FAILED;
		epoll_ctl(client->epoll, EPOLL_CTL_DEL, flow->fd, NULL);
	}
	return flow->state == FLOW_DONE || flow->state == FLOW_FAILED;
}

struct flow *client_wait(struct client *client, int64_t deadline)
{
	struct epoll_event event;

	for (;;) {
		int64_t left = deadline - now_ns();

		if (left <= 0)
			return NULL;
		/* One event at a time: the caller may close any flow before the next. */
		if (epoll_wait(client->epoll, &event, 1, (int)((left + 999999) / 1000000)) == 1 &&
		    drive(client, event.data.ptr))
			return event.data.ptr;
	}
}
