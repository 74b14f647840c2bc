/* SPDX-License-Identifier: ISC */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define THREADS 8
#define LINES 200

static FILE *captured;
static int real_stderr;

/* From here on standard error goes into a file. */
static void capture(void)
{
	captured = tmpfile();
	ck_assert_ptr_nonnull(captured);
	ck_assert_int_eq(fcntl(fileno(captured), F_SETFL, O_APPEND), 0);
	real_stderr = dup(STDERR_FILENO);
	ck_assert_int_eq(dup2(fileno(captured), STDERR_FILENO), STDERR_FILENO);
}

/* Ends capture() and gives what was written. */
static const char *written(void)
{
	static char text[65536];
	size_t length;

	ck_assert_int_eq(dup2(real_stderr, STDERR_FILENO), STDERR_FILENO);
	close(real_stderr);
	rewind(captured);
	length = fread(text, 1, sizeof(text) - 1, captured);
	text[length] = '\0';
	fclose(captured);
	return text;
}

static void write_one_of_each(void)
{
	errno = ENOENT;
	log_warn("cannot open %s", "x");
	log_warnx("odd %d", 1);
	log_info("hello");
	log_debug("detail");
}

START_TEST(test_levels)
{
	capture();
	write_one_of_each();
	ck_assert_str_eq(written(), "cannot open x: No such file or directory\nodd 1\nhello\n");
	ck_assert(!log_debugging());

	capture();
	log_init(LOG_LEVEL_WARN);
	write_one_of_each();
	ck_assert_str_eq(written(), "cannot open x: No such file or directory\nodd 1\n");
	ck_assert(!log_debugging());

	capture();
	log_init(LOG_LEVEL_DEBUG);
	write_one_of_each();
	ck_assert_str_eq(written(),
			 "cannot open x: No such file or directory\nodd 1\nhello\ndetail\n");
	ck_assert(log_debugging());
}
END_TEST

START_TEST(test_journal)
{
	char stream[64];
	struct stat st;

	capture();
	ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	ck_assert_int_eq(setenv("JOURNAL_STREAM", stream, 1), 0);
	log_init(LOG_LEVEL_DEBUG);
	write_one_of_each();
	ck_assert_str_eq(
		written(),
		"<4>cannot open x: No such file or directory\n<4>odd 1\n<6>hello\n<7>detail\n");
}
END_TEST

/* The variable is inherited also by those whose standard error is elsewhere by now. */
START_TEST(test_not_the_journal)
{
	static const char *const streams[] = {
		"1:1", "", "x", "5", "5:", ":5", "99999999999999999999999:1"
	};

	for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
		ck_assert_int_eq(setenv("JOURNAL_STREAM", streams[i], 1), 0);
		capture();
		log_init(LOG_LEVEL_INFO);
		log_info("hello");
		ck_assert_str_eq(written(), "hello\n");
	}
}
END_TEST

START_TEST(test_errno_stays)
{
	capture();
	errno = EMFILE;
	log_warn("a");
	ck_assert_int_eq(errno, EMFILE);
	log_info("b");
	log_debug("c");
	ck_assert_int_eq(errno, EMFILE);
	ck_assert_str_eq(written(), "a: Too many open files\nb\n");
}
END_TEST

START_TEST(test_long)
{
	char message[5000];
	const char *text;

	memset(message, 'm', sizeof(message) - 1);
	message[sizeof(message) - 1] = '\0';
	capture();
	errno = ENOENT;
	log_warn("%s", message);
	log_info("%.1021s", message);
	log_info("%.1022s", message);
	log_info("%.1023s", message);
	text = written();
	for (int i = 0; i < 4; i++) {
		size_t length = strspn(text, "m");

		ck_assert_uint_ge(length, 1000);
		ck_assert_uint_lt(length, 1024);
		ck_assert_int_eq(text[length], '\n');
		text += length + 1;
	}
	ck_assert_str_eq(text, "");
}
END_TEST

START_TEST(test_one_line)
{
	capture();
	log_info("a\nb\r\x1b[31mc\td\x7f");
	log_info("%s", "gr\xc3\xbc\xc3\x9f"); /* UTF-8 stays */
	log_info("%s", "");
	ck_assert_str_eq(written(), "a?b??[31mc?d?\ngr\xc3\xbc\xc3\x9f\n\n");
}
END_TEST

static void *write_lines(void *arg)
{
	const char letter = 'a' + *(int *)arg;
	char message[64];

	memset(message, letter, sizeof(message) - 1);
	message[sizeof(message) - 1] = '\0';
	for (int i = 0; i < LINES / THREADS * 4; i++)
		log_info("%s", message);
	return NULL;
}

START_TEST(test_threads)
{
	pthread_t threads[THREADS];
	int numbers[THREADS];
	unsigned lines = 0;
	const char *text;

	capture();
	for (int i = 0; i < THREADS; i++) {
		numbers[i] = i;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, write_lines, &numbers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
	for (text = written(); *text; text += 64, lines++) {
		const char letter[] = { *text, '\0' };

		ck_assert_uint_eq(strspn(text, letter), 63);
		ck_assert_int_eq(text[63], '\n');
	}
	ck_assert_uint_eq(lines, LINES * 4);
}
END_TEST

/* There is nobody to tell: go on. */
START_TEST(test_closed)
{
	int saved = dup(STDERR_FILENO);

	close(STDERR_FILENO);
	errno = EMFILE;
	log_info("hello");
	ck_assert_int_eq(errno, EMFILE);
	dup2(saved, STDERR_FILENO);
	close(saved);
}
END_TEST

int main(void)
{
	return RUN_TESTS("log", test_levels, test_journal, test_not_the_journal, test_errno_stays,
			 test_long, test_one_line, test_threads, test_closed);
}
