/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/control.h"
#include "app/daemon.h"
#include "app/report.h"

#define ANSWER_MAX 65536

/* Seconds that a daemon may take to answer. */
#define PATIENCE 5

static const char *const default_paths[] = { "/run/ro-ro-tcp/proxy.sock",
					     "/run/ro-ro-tcp/relay.sock" };

/* Reads up to the end. Returns 0, or -1 with errno set. */
static int read_answer(int fd, char answer[ANSWER_MAX])
{
	const struct timeval patience = { .tv_sec = PATIENCE };
	size_t used = 0;
	ssize_t got;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	while ((got = recv(fd, answer + used, ANSWER_MAX - 1 - used, 0)) > 0)
		used += (size_t)got;
	answer[used] = '\0';
	if (got < 0 && errno == EAGAIN)
		errno = ETIMEDOUT;
	return got < 0 ? -1 : 0;
}

/* Returns an exit code. */
static int show(const char *path, int fd, bool json)
{
	char answer[ANSWER_MAX];
	const char *why;

	if (read_answer(fd, answer) < 0) {
		daemon_complain("status: \"%s\": %s", path, strerror(errno));
		return EXIT_FAILED;
	}
	if (json) {
		fputs(answer, stdout);
		return EXIT_GOOD;
	}
	if (report_print(answer, stdout, &why) < 0) {
		daemon_complain("status: \"%s\": %s", path, why);
		return EXIT_FAILED;
	}
	return EXIT_GOOD;
}

static int show_path(const char *path, bool json)
{
	int fd = control_connect(path), code;

	if (fd < 0) {
		daemon_complain("status: no daemon answers at \"%s\": %s", path, strerror(errno));
		return EXIT_FAILED;
	}
	code = show(path, fd, json);
	close(fd);
	return code;
}

/*
 * Whatever runs at the default paths; what doesn't is not worth a word as long as something does.
 *
 */
static int show_defaults(bool json)
{
	int code = EXIT_GOOD, error = 0;
	bool found = false;

	for (size_t i = 0; i < sizeof(default_paths) / sizeof(default_paths[0]); i++) {
		int fd = control_connect(default_paths[i]);

		if (fd < 0) {
			error = errno;
			continue;
		}
		if (found && !json)
			putchar('\n');
		found = true;
		if (show(default_paths[i], fd, json) != EXIT_GOOD)
			code = EXIT_FAILED;
		close(fd);
	}
	if (found)
		return code;
	daemon_complain("status: no daemon answers at \"%s\" or \"%s\": %s; name another socket "
			"with --control",
			default_paths[0], default_paths[1], strerror(error));
	return EXIT_FAILED;
}

int cmd_status(int argc, char **argv)
{
	static const struct option options[] = {
		{ "control", required_argument, NULL, 'c' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	const char *path = NULL;
	bool json = false;
	int got;

	opterr = 0;
	optind = 0;
	while ((got = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
		if (got == 'c') {
			path = optarg;
		} else if (got == 'j') {
			json = true;
		} else if (got == 'h') {
			puts("ro-ro-tcp status [--control PATH] [--json]\n\nPrints the counters of "
			     "the daemons that run here.");
			return EXIT_GOOD;
		} else {
			daemon_complain("%s: %s; see ro-ro-tcp status --help", argv[optind - 1],
					got == ':' ? "needs a value" : "no such option");
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		daemon_complain("\"%s\" is not an option; see ro-ro-tcp status --help",
				argv[optind]);
		return EXIT_USAGE;
	}
	return path ? show_path(path, json) : show_defaults(json);
}
