/* SPDX-License-Identifier: ISC */
#include "net/hangup.h"

#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/core/pair.h"

struct watched {
	struct hangup_watch watch;
	int fds[2]; /* [0] is watched */
	unsigned failed;
	struct watched *close_too;
};

static struct ev_loop *loop;
static struct hangup *hangup;

static void on_failed(struct hangup_watch *watch)
{
	struct watched *w = (struct watched *)watch;

	w->failed++;
	if (w->close_too != NULL) {
		close_socket(&w->close_too->fds[0]);
		close_socket(&w->fds[0]);
	}
}

static void watch(struct watched *w)
{
	tcp_pair(w->fds);
	w->watch.failed = on_failed;
	ck_assert_int_eq(hangup_add(hangup, w->fds[0], &w->watch), 0);
}

static void set_up(void)
{
	loop = ev_loop_new(EVFLAG_NOENV);
	hangup = hangup_new(loop);
	ck_assert_ptr_nonnull(hangup);
}

static void tear_down(void)
{
	hangup_free(hangup);
	ev_loop_destroy(loop);
}

/* Loopback delivers at once: some turns are more than enough. */
static void settle(void)
{
	for (int i = 0; i < 50; i++)
		ev_run(loop, EVRUN_NOWAIT);
}

static void close_both(struct watched *w)
{
	close_socket(&w->fds[0]);
	close_socket(&w->fds[1]);
}

START_TEST(test_reset)
{
	struct watched w = {0};

	set_up();
	watch(&w);
	settle();
	ck_assert_uint_eq(w.failed, 0);
	reset_socket(&w.fds[1]);
	while (w.failed == 0)
		ev_run(loop, EVRUN_ONCE);
	settle();
	ck_assert_uint_eq(w.failed, 1);
	/* The error itself is still there for who reads or writes. */
	ck_assert_int_ne(sock_error(w.fds[0]), 0);
	close_both(&w);
	tear_down();
}
END_TEST

START_TEST(test_reset_with_unread_bytes)
{
	struct watched w = {0};
	char byte;

	set_up();
	watch(&w);
	ck_assert_int_eq(send(w.fds[1], "x", 1, 0), 1);
	settle();
	ck_assert_uint_eq(w.failed, 0);
	reset_socket(&w.fds[1]);
	while (w.failed == 0)
		ev_run(loop, EVRUN_ONCE);
	ck_assert_int_eq(recv(w.fds[0], &byte, 1, 0), 1);
	close_both(&w);
	tear_down();
}
END_TEST

/* A FIN each way is no failure, in whichever order. */
START_TEST(test_orderly_end)
{
	struct watched w = {0};

	for (int order = 0; order < 3; order++) {
		set_up();
		watch(&w);
		shutdown(w.fds[order == 1], SHUT_WR);
		settle();
		if (order < 2)
			shutdown(w.fds[order == 0], SHUT_WR);
		else
			close_socket(&w.fds[1]);
		settle();
		ck_assert_uint_eq(w.failed, 0);
		close_both(&w);
		tear_down();
	}
}
END_TEST

START_TEST(test_removed)
{
	struct watched w = {0};

	set_up();
	watch(&w);
	hangup_remove(hangup, w.fds[0]);
	hangup_remove(hangup, w.fds[0]); /* harmless */
	reset_socket(&w.fds[1]);
	settle();
	ck_assert_uint_eq(w.failed, 0);
	/* It has failed already when it's watched again. */
	ck_assert_int_eq(hangup_add(hangup, w.fds[0], &w.watch), 0);
	settle();
	ck_assert_uint_eq(w.failed, 1);
	close_both(&w);
	tear_down();
}
END_TEST

/* Several fail at once, and what the first leads to closes, and frees, the next. */
START_TEST(test_closed_by_another)
{
	struct watched *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));

	set_up();
	watch(a);
	watch(b);
	a->close_too = b;
	b->close_too = a;
	reset_socket(&a->fds[1]);
	reset_socket(&b->fds[1]);
	while (a->failed + b->failed == 0)
		ev_run(loop, EVRUN_ONCE);
	settle();
	ck_assert_uint_eq(a->failed + b->failed, 1);
	free(a);
	free(b);
	tear_down();
}
END_TEST

START_TEST(test_bad_descriptor)
{
	struct hangup_watch w = {.failed = on_failed};

	set_up();
	ck_assert_int_eq(hangup_add(hangup, -1, &w), -1);
	tear_down();
}
END_TEST

int main(void)
{
	return RUN_TESTS("hangup", test_reset, test_reset_with_unread_bytes, test_orderly_end, test_removed,
			 test_closed_by_another, test_bad_descriptor);
}
