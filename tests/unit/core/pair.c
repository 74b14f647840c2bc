/* SPDX-License-Identifier: ISC */
#include "tests/unit/core/pair.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 30.		/* seconds */
#define PATTERN_SIZE 1048573u /* a prime: no power of two hides an offset that is wrong by one */
#define CHUNK 65536u
#define SETTLE_TURNS 50

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void tcp_pair(int fds[2])
{
	union addr a = {.in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
	union addr peer;
	int listener = sock_listen(&a, false);

	ck_assert_int_ge(listener, 0);
	ck_assert_int_eq(sock_local(listener, &a), 0);
	fds[0] = sock_connect(&a, NULL, false);
	ck_assert_int_ge(fds[0], 0);
	do
		fds[1] = sock_accept(listener, &peer);
	while (fds[1] < 0 && errno == EAGAIN);
	ck_assert_int_ge(fds[1], 0);
	sock_tune_local(fds[1]);
	close(listener);
}

void reset_socket(int *fd)
{
	sock_abort(*fd);
	*fd = -1;
}

void close_socket(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* What the engines report */

static void on_ended(struct group *group, enum reason reason)
{
	struct end *end = group->owner;

	ck_assert_ptr_eq(end->group, group);
	ck_assert_int_eq(group->local, -1);
	ck_assert_uint_eq(group->stripe_count, 0);
	end->group = NULL;
	end->ended++;
	end->reason = reason;
}

static void on_grow(struct group *group)
{
	((struct end *)group->owner)->grown++;
}

static const struct group_ops group_ops = {.ended = on_ended, .grow = on_grow};

static bool on_control(struct stripe *stripe, const struct control *control)
{
	struct end *end = stripe->owner;

	end->controls++;
	end->control = *control;
	return true;
}

static void on_idle(struct stripe *stripe)
{
	struct end *end = stripe->owner;

	ck_assert_int_eq(stripe->state, STRIPE_IDLE);
	ck_assert_ptr_null(stripe->group);
	end->idle++;
	if (end->free_stripes)
		stripe_close(stripe, true, "not needed any more");
}

static void on_closed(struct stripe *stripe, const char *why)
{
	struct end *end = stripe->owner;

	end->closed++;
	end->why = why;
	for (unsigned i = 0; i < PAIR_STRIPES; i++) {
		if (end->stripes[i] == stripe)
			end->stripes[i] = NULL;
	}
}

static const struct stripe_ops stripe_ops = {.control = on_control, .idle = on_idle, .closed = on_closed};

/* Putting it together */

static void open_engine(struct end *end, int mode)
{
	const struct engine_settings settings = {.splice = mode & MODE_SPLICE};

	end->engine = engine_new(&settings);
	ck_assert_ptr_nonnull(end->engine);
	end->local = -1;
}

static struct stripe *new_stripe(struct end *end, int fd, int mode)
{
	struct stripe *stripe;

	sock_tune_stripe(fd, end->engine->settings.congestion);
	stripe = stripe_new(end->engine, fd, mode & MODE_BASE, &stripe_ops, end);
	ck_assert_ptr_nonnull(stripe);
	return stripe;
}

void pair_connect(struct pair *pair, unsigned count, int mode, bool raw)
{
	int fds[2];

	signal(SIGPIPE, SIG_IGN);
	memset(pair, 0, sizeof(*pair));
	pair->count = count;
	pair->mode = mode;
	open_engine(&pair->a, mode);
	if (!raw)
		open_engine(&pair->b, mode);
	pair->b.local = -1;
	for (unsigned i = 0; i < PAIR_STRIPES; i++)
		pair->raw[i] = -1;
	for (unsigned i = 0; i < count; i++) {
		tcp_pair(fds);
		pair->a.stripes[i] = new_stripe(&pair->a, fds[0], mode);
		if (raw)
			pair->raw[i] = fds[1];
		else
			pair->b.stripes[i] = new_stripe(&pair->b, fds[1], mode);
	}
}

void end_open_group(struct end *end, int mode)
{
	int fds[2];

	tcp_pair(fds);
	end->local = fds[0];
	end->group = group_new(end->engine, mode & MODE_BASE, &group_ops, end);
	ck_assert_ptr_nonnull(end->group);
	group_set_local(end->group, fds[1]);
}

void end_bind(struct end *end, unsigned index)
{
	group_add(end->group, end->stripes[index], NULL);
}

static void open_all(struct pair *pair, unsigned count, int mode, bool raw)
{
	pair_connect(pair, count, mode, raw);
	end_open_group(&pair->a, mode);
	if (!raw)
		end_open_group(&pair->b, mode);
	for (unsigned i = 0; i < count; i++) {
		end_bind(&pair->a, i);
		if (!raw)
			end_bind(&pair->b, i);
	}
}

void pair_open(struct pair *pair, unsigned count, int mode)
{
	open_all(pair, count, mode, false);
}

void pair_open_raw(struct pair *pair, unsigned count, int mode)
{
	open_all(pair, count, mode, true);
}

void pair_turn(struct pair *pair)
{
	ev_run(pair->a.engine->loop, EVRUN_NOWAIT);
	if (pair->b.engine != NULL)
		ev_run(pair->b.engine->loop, EVRUN_NOWAIT);
	sched_yield();
}

void pair_start_clock(struct pair *pair)
{
	pair->deadline = now() + PATIENCE;
}

bool pair_is_late(const struct pair *pair)
{
	return now() > pair->deadline;
}

void pair_settle(struct pair *pair)
{
	for (unsigned i = 0; i < SETTLE_TURNS; i++)
		pair_turn(pair);
}

void end_crowd(struct end *end, unsigned flows)
{
	uint64_t span;

	end->engine->busy = end->engine->busy_before = 0;
	while (flows-- > 0) {
		span = 0;
		engine_note_busy(end->engine, &span);
	}
}

void pair_begin_startup(struct pair *pair)
{
	struct govern *govern = calloc(1, sizeof(*govern));

	ck_assert_ptr_nonnull(govern);
	govern->on = govern->startup = true;
	govern->used_at = ev_now(pair->a.engine->loop);
	pair->a.group->govern = govern;
}

static void close_end(struct pair *pair, struct end *end)
{
	struct counters *counters = &end->engine->counters;

	if (end->group != NULL)
		group_end(end->group, GROUP_ABORT, REASON_SHUTDOWN);
	ck_assert_uint_eq(end->ended, counter_read(&counters->flows_finished) + counter_read(&counters->flows_reset) +
					      counter_read(&counters->flows_refused));
	stripe_close_all(end->engine);
	pair_turn(pair);
	ck_assert_uint_eq(counter_read(&counters->flows_now), 0);
	ck_assert_uint_eq(counter_read(&counters->stripes_now), 0);
	ck_assert_uint_eq(counter_read(&counters->stripes_idle_now), 0);
	ck_assert_uint_eq(counter_read(&counters->pipes_busy_now), 0);
	ck_assert_uint_eq(counter_read(&counters->buffers_busy_now), 0);
	ck_assert_uint_eq(end->engine->leaving, 0);
	ck_assert(TAILQ_EMPTY(&end->engine->stripes));
	close_socket(&end->local);
}

void pair_close(struct pair *pair)
{
	close_end(pair, &pair->a);
	if (pair->b.engine != NULL) {
		close_end(pair, &pair->b);
		engine_free(pair->b.engine);
	}
	engine_free(pair->a.engine);
	for (unsigned i = 0; i < PAIR_STRIPES; i++)
		close_socket(&pair->raw[i]);
}

/* Bytes */

const uint8_t *pattern(unsigned seed, size_t offset, size_t *length)
{
	static uint8_t bytes[PATTERN_SIZE];
	size_t start = (offset + seed * 7919u) % PATTERN_SIZE;
	uint32_t state = 1;

	for (size_t i = 0; bytes[0] == 0 && i < PATTERN_SIZE; i++) {
		state = state * 1664525u + 1013904223u;
		bytes[PATTERN_SIZE - 1 - i] = state >> 24 | 1;
	}
	if (*length > PATTERN_SIZE - start)
		*length = PATTERN_SIZE - start;
	return bytes + start;
}

static void pour_in(struct pour *p)
{
	size_t length = p->size - p->sent;
	const uint8_t *bytes;
	ssize_t n;

	if (p->piece > 0 && length > p->piece)
		length = p->piece;
	bytes = pattern(p->seed, p->sent, &length);
	n = length > 0 ? send(p->from, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
	if (n > 0)
		p->sent += (size_t)n;
	else if (n < 0)
		ck_assert_int_eq(errno, EAGAIN);
	if (p->sent == p->size && !p->shut && !p->keep) {
		ck_assert_int_eq(shutdown(p->from, SHUT_WR), 0);
		p->shut = true;
	}
}

static void pour_out(struct pour *p)
{
	static uint8_t buffer[CHUNK];
	ssize_t n = recv(p->to, buffer, sizeof(buffer), MSG_DONTWAIT);

	if (n == 0)
		p->ended = true;
	else if (n < 0 && errno == ECONNRESET)
		p->ended = p->reset = true;
	else if (n < 0)
		ck_assert_int_eq(errno, EAGAIN);
	for (size_t i = 0; n > 0 && i < (size_t)n;) {
		size_t length = (size_t)n - i;
		const uint8_t *wanted = pattern(p->seed, p->got, &length);

		ck_assert_uint_le(p->got + length, p->sent);
		ck_assert_mem_eq(buffer + i, wanted, length);
		i += length;
		p->got += length;
	}
}

void pour(struct pour *p)
{
	if (p->from >= 0 && !p->shut)
		pour_in(p);
	if (p->to >= 0 && !p->ended && !p->lazy)
		pour_out(p);
}

bool pour_done(const struct pour *p)
{
	return p->got == p->size && (p->keep || p->ended);
}

/* Raw stripes */

void raw_write(struct pair *pair, unsigned index, const void *bytes, size_t length)
{
	const uint8_t *next = bytes;
	ssize_t n;

	pair_start_clock(pair);
	while (length > 0) {
		n = send(pair->raw[index], next, length, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0) {
			ck_assert_int_eq(errno, EAGAIN);
			ck_assert(!pair_is_late(pair));
			pair_turn(pair);
			continue;
		}
		next += n;
		length -= (size_t)n;
	}
}

void raw_header(struct pair *pair, unsigned index, uint32_t serial, uint32_t size)
{
	uint8_t header[DATAGRAM_HEADER];

	datagram_encode(header, serial, size);
	raw_write(pair, index, header, sizeof(header));
}

void raw_data(struct pair *pair, unsigned index, uint32_t serial, const char *text)
{
	raw_header(pair, index, serial, (uint32_t)strlen(text));
	raw_write(pair, index, text, strlen(text));
}

void raw_control(struct pair *pair, unsigned index, const struct control *control)
{
	uint8_t bytes[DATAGRAM_HEADER + CONTROL_MAX];

	raw_write(pair, index, bytes, control_encode(bytes, control));
}

void raw_read(struct pair *pair, unsigned index, void *bytes, size_t n)
{
	size_t have = 0;
	ssize_t got;

	pair_start_clock(pair);
	while (have < n) {
		got = recv(pair->raw[index], (uint8_t *)bytes + have, n - have, MSG_DONTWAIT);
		ck_assert_msg(got > 0 || (got < 0 && errno == EAGAIN), "stripe %u has ended", index);
		ck_assert_msg(!pair_is_late(pair), "waited in vain for stripe %u to say something", index);
		if (got > 0)
			have += (size_t)got;
		pair_turn(pair);
	}
}

struct control raw_expect(struct pair *pair, unsigned index, enum control_type type)
{
	static uint8_t payload[DATAGRAM_MAX_EXTENDED];
	uint8_t header[DATAGRAM_HEADER];
	struct datagram datagram;
	struct control control = {0};

	do {
		raw_read(pair, index, header, sizeof(header));
		datagram = datagram_decode(header);
		ck_assert_uint_le(datagram.size, sizeof(payload));
		raw_read(pair, index, payload, datagram.size);
	} while (datagram.serial != SERIAL_CONTROL);
	ck_assert_int_eq(control_decode(&control, payload, datagram.size), CONTROL_OK);
	ck_assert_msg(control.type == type, "%s in place of %s", control_name(control.type), control_name(type));
	return control;
}

bool raw_ended_by_reset(struct pair *pair, unsigned index)
{
	static uint8_t buffer[CHUNK];
	ssize_t n;

	pair_start_clock(pair);
	while ((n = recv(pair->raw[index], buffer, sizeof(buffer), MSG_DONTWAIT)) > 0 || (n < 0 && errno == EAGAIN)) {
		ck_assert_msg(!pair_is_late(pair), "waited in vain for the end of stripe %u", index);
		pair_turn(pair);
	}
	return n < 0;
}

/* Client and server */

void local_write(struct end *end, const char *text)
{
	ck_assert_int_eq(send(end->local, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL), (int)strlen(text));
}

/* Turns until there's something to read; what recv() gives. */
static ssize_t local_read(struct pair *pair, struct end *end, void *bytes, size_t length)
{
	ssize_t n;

	pair_start_clock(pair);
	while ((n = recv(end->local, bytes, length, MSG_DONTWAIT)) < 0 && errno == EAGAIN) {
		ck_assert_msg(!pair_is_late(pair), "waited in vain for the local socket");
		pair_turn(pair);
	}
	return n;
}

void local_expect(struct pair *pair, struct end *end, const char *text)
{
	char got[256];
	ssize_t n;

	while (*text != '\0') {
		n = local_read(pair, end, got, strlen(text) < sizeof(got) ? strlen(text) : sizeof(got));
		ck_assert_msg(n > 0, "the local socket ended before: %s", text);
		ck_assert_mem_eq(got, text, (size_t)n);
		text += n;
	}
}

void local_expect_end(struct pair *pair, struct end *end)
{
	char byte;

	ck_assert_int_eq(local_read(pair, end, &byte, 1), 0);
}

void local_expect_reset(struct pair *pair, struct end *end)
{
	char byte;

	ck_assert_int_eq(local_read(pair, end, &byte, 1), -1);
	ck_assert_int_eq(errno, ECONNRESET);
}

void local_expect_nothing(struct pair *pair, struct end *end)
{
	char byte;

	pair_settle(pair);
	ck_assert_int_eq(recv(end->local, &byte, 1, MSG_DONTWAIT), -1);
	ck_assert_int_eq(errno, EAGAIN);
}

int run_looped(const char *module, const struct looped_test *tests)
{
	Suite *suite = suite_create(module);
	TCase *tcase = tcase_create(module);
	SRunner *runner;
	int failed;

	tcase_set_timeout(tcase, 120);
	for (size_t i = 0; tests[i].test != NULL; i++)
		tcase_add_loop_test(tcase, tests[i].test, 0, tests[i].times);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
