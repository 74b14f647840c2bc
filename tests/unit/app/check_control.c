/* SPDX-License-Identifier: ISC */
#include "app/control.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/report.h"
#include "tests/unit/unit.h"

static struct ev_loop *loop;
static char folder[64], path[128], why[300];

static void set_up(void)
{
	loop = ev_loop_new(EVFLAG_NOENV);
	strcpy(folder, "/tmp/check_control.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/made/sock", folder);
}

static void tear_down(void)
{
	ev_loop_destroy(loop);
	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
	rmdir(folder);
}

static char *say_hello(void *arg)
{
	return strdup(arg);
}

static struct control_socket *open_at(const char *at, char *text)
{
	return control_open(loop, at, geteuid(), getegid(), say_hello, text, why, sizeof(why));
}

/* What a client gets, up to the end. */
static const char *ask(void)
{
	static char answer[8192];
	int fd = control_connect(path);
	size_t used = 0;
	ssize_t got;

	ck_assert_int_ge(fd, 0);
	/* Others may stand before us in the queue. */
	while ((got = recv(fd, answer + used, sizeof(answer) - 1 - used, MSG_DONTWAIT)) != 0) {
		if (got > 0) {
			used += (size_t)got;
		} else {
			ck_assert_int_eq(errno, EAGAIN);
			ev_run(loop, EVRUN_ONCE);
		}
	}
	answer[used] = '\0';
	close(fd);
	return answer;
}

START_TEST(test_serve)
{
	char hello[] = "hello\n";
	struct control_socket *control;
	struct stat st;

	set_up();
	control = open_at(path, hello);
	ck_assert_msg(control != NULL, "%s", why);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode, S_IFSOCK | 0660);
	ck_assert_str_eq(ask(), "hello\n");
	ck_assert_str_eq(ask(), "hello\n");
	control_close(control);
	ck_assert_int_eq(stat(path, &st), -1);
	tear_down();
}
END_TEST

/* A client that goes away before it's served must not hurt, nor one that talks. */
START_TEST(test_rude_clients)
{
	char hello[] = "hello\n";
	struct control_socket *control;
	int fd;

	set_up();
	control = open_at(path, hello);
	fd = control_connect(path);
	close(fd);
	ev_run(loop, EVRUN_ONCE);
	fd = control_connect(path);
	ck_assert_int_eq(send(fd, "x", 1, 0), 1);
	ev_run(loop, EVRUN_ONCE);
	close(fd);
	ck_assert_str_eq(ask(), "hello\n");
	control_close(control);
	tear_down();
}
END_TEST

START_TEST(test_stale_and_live)
{
	char hello[] = "hello\n", other[] = "other\n";
	struct control_socket *control, *second;
	char expected[300], kept[256];

	set_up();
	control = open_at(path, hello);
	ck_assert_ptr_null(open_at(path, other));
	snprintf(expected, sizeof(expected),
		 "cannot make the control socket \"%s\": another daemon serves it", path);
	ck_assert_str_eq(why, expected);
	ck_assert_str_eq(ask(), "hello\n");
	/* As after kill -9: the file stays, nobody listens. */
	snprintf(kept, sizeof(kept), "%s.kept", path);
	ck_assert_int_eq(rename(path, kept), 0);
	control_close(control);
	ck_assert_int_eq(rename(kept, path), 0);
	ck_assert_int_eq(control_connect(path), -1);
	ck_assert_int_eq(errno, ECONNREFUSED);
	second = open_at(path, other);
	ck_assert_msg(second != NULL, "%s", why);
	ck_assert_str_eq(ask(), "other\n");
	control_close(second);
	tear_down();
}
END_TEST

/* Started by root, the daemon becomes another: socket and folder are his. */
START_TEST(test_given_away)
{
	const uid_t uid = geteuid() == 0 ? 65534 : geteuid();
	const gid_t gid = geteuid() == 0 ? 65534 : getegid();
	char hello[] = "hello\n";
	struct control_socket *control;
	struct stat st;

	set_up();
	control = control_open(loop, path, uid, gid, say_hello, hello, why, sizeof(why));
	ck_assert_msg(control != NULL, "%s", why);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_uid, uid);
	ck_assert_uint_eq(st.st_gid, gid);
	*strrchr(path, '/') = '\0';
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_uid, uid);
	ck_assert_uint_eq(st.st_mode & 0777, 0755);
	strcat(path, "/sock");
	ck_assert_str_eq(ask(), "hello\n");
	control_close(control);
	tear_down();
}
END_TEST

START_TEST(test_bad_paths)
{
	char expected[300], deep[128], long_path[200], hello[] = "hello\n";
	int fd;

	set_up();
	/* A file of somebody's is not removed, nor what a link points to. */
	snprintf(path, sizeof(path), "%s/file", folder);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	ck_assert_ptr_null(open_at(path, hello));
	snprintf(expected, sizeof(expected),
		 "cannot make the control socket \"%s\": there is a file that is not a socket",
		 path);
	ck_assert_str_eq(why, expected);
	ck_assert_int_eq(access(path, F_OK), 0);
	unlink(path);
	ck_assert_int_eq(symlink("/etc/passwd", path), 0);
	ck_assert_ptr_null(open_at(path, hello));
	ck_assert_str_eq(why, expected);
	unlink(path);
	snprintf(deep, sizeof(deep), "%s/a/b/sock", folder);
	ck_assert_ptr_null(open_at(deep, hello));
	ck_assert_ptr_nonnull(strstr(why, "No such file or directory"));
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	ck_assert_ptr_null(open_at(long_path, hello));
	ck_assert_ptr_nonnull(strstr(why, "File name too long"));
	ev_loop_destroy(loop);
	rmdir(folder);
}
END_TEST

static void count(struct ev_loop *l, ev_check *check, int events)
{
	(void)l;
	(void)events;
	++*(unsigned *)check->data;
}

/* Out of descriptors the loop must not spin, and the client is served when there are some again. */
START_TEST(test_no_descriptors)
{
	char hello[] = "hello\n", answer[16] = "";
	struct control_socket *control;
	struct rlimit limit;
	unsigned turns = 0;
	ev_check check;
	int fd, spare;

	set_up();
	control = open_at(path, hello);
	ck_assert_ptr_nonnull(control);
	fd = control_connect(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	spare = dup(fd);
	close(spare);
	limit.rlim_cur = (rlim_t)spare; /* the next descriptor would be this one */
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ev_check_init(&check, count);
	check.data = &turns;
	ev_check_start(loop, &check);
	ev_run(loop, EVRUN_ONCE); /* accepting fails */
	limit.rlim_cur = (rlim_t)spare + 8;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (recv(fd, answer, sizeof(answer) - 1, MSG_DONTWAIT) < 0)
		ev_run(loop, EVRUN_ONCE);
	ck_assert_str_eq(answer, "hello\n");
	ck_assert_uint_le(turns, 5);
	ev_check_stop(loop, &check);
	close(fd);
	control_close(control);
	tear_down();
}
END_TEST

static char *make_report(void)
{
	const struct report report = {
		.role = "relay",
		.version = "1.2.3",
		.pid = 77,
		.uptime = 90061.5,
		.workers = 2,
		.congestion = "bbr",
		.splice = true,
	};
	struct report_counters sum = { 0 };
	struct counters one = { 0 }, two = { 0 };
	char *text;

	counter_add(&one.flows_total, 1234567);
	counter_add(&two.flows_total, 1);
	counter_add(&one.bytes_in, 5000000000);
	counter_add(&two.conntrack_missing, 3);
	report_add(&sum, &one);
	report_add(&sum, &two);
	text = report_json(&report, &sum);
	ck_assert_ptr_nonnull(text);
	return text;
}

START_TEST(test_report_is_json)
{
	char *text = make_report();
	json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	json_t *counters = json_object_get(root, "counters");

	ck_assert_str_eq(json_string_value(json_object_get(root, "role")), "relay");
	ck_assert_str_eq(json_string_value(json_object_get(root, "version")), "1.2.3");
	ck_assert_int_eq(json_integer_value(json_object_get(root, "pid")), 77);
	ck_assert_double_eq(json_real_value(json_object_get(root, "uptime_seconds")), 90061.5);
	ck_assert_int_eq(json_integer_value(json_object_get(root, "workers")), 2);
	ck_assert_str_eq(json_string_value(json_object_get(root, "congestion")), "bbr");
	ck_assert(json_is_true(json_object_get(root, "splice")));
	ck_assert_int_eq(json_integer_value(json_object_get(counters, "flows_total")), 1234568);
	ck_assert_int_eq(json_integer_value(json_object_get(counters, "bytes_in")), 5000000000);
#define IS_THERE(name, text) ck_assert(json_is_integer(json_object_get(counters, #name)));
	COUNTERS(IS_THERE)
#undef IS_THERE
	ck_assert_int_eq(text[strlen(text) - 1], '\n');
	ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
	json_decref(root);
	free(text);
}
END_TEST

START_TEST(test_report_for_humans)
{
	char *json = make_report(), *text = NULL;
	const char *reason;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	ck_assert_int_eq(report_print(json, out, &reason), 0);
	fclose(out);
	ck_assert_ptr_nonnull(strstr(
		text, "relay 1.2.3, process 77, up 1 day 01:01:01, 2 workers, bbr, splice\n"));
	ck_assert_ptr_nonnull(
		strstr(text, " 1 234 568  flows accepted (proxy) or opened (relay)\n"));
	ck_assert_ptr_nonnull(
		strstr(text, " 5 000 000 000  payload bytes received over stripes (5 GB)\n"));
	ck_assert_ptr_nonnull(strstr(text, "conntrack has no entry for some captured flows"));
	free(text);
	free(json);
}
END_TEST

START_TEST(test_not_a_report)
{
	static const char *const texts[] = {
		"",
		"{",
		"[]",
		"{}",
		"{\"role\": 1}",
		"{\"role\": \"x\", \"version\": \"1\", \"pid\": 1, \"uptime_seconds\": 1, "
		"\"workers\": 1, "
		"\"congestion\": \"x\", \"splice\": true, \"counters\": 5}",
	};
	const char *reason;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		ck_assert_int_eq(report_print(texts[i], stderr, &reason), -1);
		ck_assert_str_eq(reason,
				 i < 2 ? "the answer is not JSON" : "the answer is not a report");
	}
}
END_TEST

int main(void)
{
	return RUN_TESTS("control", test_serve, test_rude_clients, test_stale_and_live,
			 test_given_away, test_bad_paths, test_no_descriptors, test_report_is_json,
			 test_report_for_humans, test_not_a_report);
}
