/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/sock.h"
#include "role/dial.h"
#include "wire/bytes.h"

struct dial {
	struct ev_loop *loop;
	struct dial_plan plan;
	dial_done *done;
	void *arg;
	int fd;
	bool connected;
	ev_io io;
	ev_timer timer;
	uint8_t hello[HELLO_SIZE];
	uint8_t answer[CHALLENGE_SIZE]; /* Challenge, or the number of the base protocol */
	size_t have;
};

static void stop(struct dial *dial)
{
	ev_io_stop(dial->loop, &dial->io);
	ev_timer_stop(dial->loop, &dial->timer);
}

static void fail(struct dial *dial, const char *why)
{
	stop(dial);
	close(dial->fd);
	dial->done(dial->arg, dial, -1, NULL, why);
	free(dial);
}

static void finish(struct dial *dial, const struct dial_result *result)
{
	stop(dial);
	dial->done(dial->arg, dial, dial->fd, result, NULL);
	free(dial);
}

/* The first bytes on a new connection always fit into its send buffer. */
static bool send_all(int fd, const void *bytes, size_t length)
{
	return send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)length;
}

static bool say_hello(struct dial *dial)
{
	uint8_t nonce[NONCE_SIZE], number[4];

	if (dial->plan.base) {
		put_u32(number, dial->plan.number);
		return send_all(dial->fd, number, sizeof(number));
	}
	randombytes_buf(nonce, sizeof(nonce));
	hello_encode(dial->hello, dial->plan.key->id, nonce);
	return send_all(dial->fd, dial->hello, sizeof(dial->hello));
}

static void take_number(struct dial *dial)
{
	uint32_t number = get_u32(dial->answer);

	if (number == 0 || number >= EXTENSION_FIRST || (dial->plan.number != 0 && number != dial->plan.number))
		fail(dial, "the relay answered with a wrong connection number");
	else
		finish(dial, &(struct dial_result){.number = number});
}

static void take_challenge(struct dial *dial)
{
	enum greeting_error error = challenge_check(dial->answer, dial->hello, dial->plan.key->secret);
	uint8_t proof[PROOF_SIZE];

	if (error == GREETING_PROOF_BAD) {
		fail(dial, "the relay does not have our key");
		return;
	}
	if (error != GREETING_OK) {
		fail(dial, greeting_error_text(error));
		return;
	}
	proof_encode(proof, dial->hello, dial->answer, dial->plan.key->secret);
	if (send_all(dial->fd, proof, sizeof(proof)))
		finish(dial, &(struct dial_result){.features = challenge_features(dial->answer)});
	else
		fail(dial, "the relay closed the connection during the greeting");
}

static void on_readable(struct dial *dial)
{
	size_t want = dial->plan.base ? 4 : CHALLENGE_SIZE;
	ssize_t n = recv(dial->fd, dial->answer + dial->have, want - dial->have, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		fail(dial, "the relay closed the connection during the greeting");
		return;
	}
	dial->have += (size_t)n;
	if (dial->have < want)
		return;
	if (dial->plan.base)
		take_number(dial);
	else
		take_challenge(dial);
}

static const char *connect_error_text(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return "connection refused";
	case ETIMEDOUT:
		return "connection timed out";
	case ENETUNREACH:
	case EHOSTUNREACH:
		return "no route to it";
	default:
		return "connecting failed";
	}
}

static void on_event(struct ev_loop *loop, ev_io *io, int revents)
{
	struct dial *dial = io->data;
	int error;

	(void)revents;
	if (dial->connected) {
		on_readable(dial);
		return;
	}
	error = sock_error(dial->fd);
	if (error != 0) {
		fail(dial, connect_error_text(error));
		return;
	}
	dial->connected = true;
	if (!say_hello(dial)) {
		fail(dial, "the relay closed the connection during the greeting");
		return;
	}
	ev_io_stop(loop, io);
	ev_io_set(io, dial->fd, EV_READ);
	ev_io_start(loop, io);
}

static void on_timeout(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct dial *dial = timer->data;

	(void)loop;
	(void)revents;
	fail(dial, dial->connected ? "no answer to the greeting" : "connection timed out");
}

struct dial *dial_start(struct ev_loop *loop, const struct dial_plan *plan, dial_done *done, void *arg)
{
	struct dial *dial = calloc(1, sizeof(*dial));

	if (dial == NULL)
		return NULL;
	dial->loop = loop;
	dial->plan = *plan;
	dial->done = done;
	dial->arg = arg;
	dial->fd = sock_connect(plan->relay, plan->congestion, true);
	if (dial->fd < 0) {
		int saved = errno;

		free(dial);
		errno = saved;
		return NULL;
	}
	ev_io_init(&dial->io, on_event, dial->fd, EV_WRITE);
	ev_timer_init(&dial->timer, on_timeout, plan->timeout, 0.);
	dial->io.data = dial->timer.data = dial;
	/* The loop's clock may be old: it isn't read while callbacks run. */
	ev_now_update(loop);
	ev_io_start(loop, &dial->io);
	ev_timer_start(loop, &dial->timer);
	return dial;
}

void dial_cancel(struct dial *dial)
{
	stop(dial);
	close(dial->fd);
	free(dial);
}
