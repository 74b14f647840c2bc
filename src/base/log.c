/* SPDX-License-Identifier: ISC */
#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Below PIPE_BUF, so that a line is written in one piece whatever standard error is (write(2)). */
#define LINE_SIZE 1024

/* Set once by log_init(). */
static enum log_level highest = LOG_LEVEL_INFO;
static bool to_journal;

/* LOG_WARNING, LOG_INFO and LOG_DEBUG of syslog(3). */
static const char journal_prefix[][4] = {
	[LOG_LEVEL_WARN] = "<4>",
	[LOG_LEVEL_INFO] = "<6>",
	[LOG_LEVEL_DEBUG] = "<7>",
};

static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_init(enum log_level level)
{
	highest = level;
	to_journal = stderr_is_journal();
}

bool log_debugging(void)
{
	return highest >= LOG_LEVEL_DEBUG;
}

static void write_all(const char *text, size_t size)
{
	while (size > 0) {
		ssize_t n = write(STDERR_FILENO, text, size);

		if (n < 0 && errno != EINTR)
			return; /* there is nobody left to tell */
		if (n > 0) {
			text += n;
			size -= n;
		}
	}
}

/* Writes one message; the text of error follows it unless that is -1. Leaves errno as it was. */
__attribute__((format(printf, 3, 0)))
static void write_line(enum log_level level, int error, const char *fmt, va_list args)
{
	char line[LINE_SIZE];
	const size_t room = sizeof(line) - 1; /* the newline's place is kept free */
	const int saved = errno;
	size_t start, used;
	int n;

	if (level > highest)
		return;
	start = used = to_journal ? strlen(strcpy(line, journal_prefix[level])) : 0;
	n = vsnprintf(line + used, room - used, fmt, args);
	if (n > 0)
		used += (size_t)n < room - used ? (size_t)n : room - used - 1;
	if (error >= 0) {
		errno = error;
		n = snprintf(line + used, room - used, ": %m");
		used += (size_t)n < room - used ? (size_t)n : room - used - 1;
	}
	/*
	 * What others chose (names, texts of configuration) must not make up lines or terminal
	 * commands.
	 */
	for (size_t i = start; i < used; i++)
		if (iscntrl((unsigned char)line[i]))
			line[i] = '?';
	line[used++] = '\n';
	write_all(line, used);
	errno = saved;
}

void log_warn(const char *fmt, ...)
{
	const int error = errno;
	va_list args;

	va_start(args, fmt);
	write_line(LOG_LEVEL_WARN, error, fmt, args);
	va_end(args);
}

void log_warnx(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	write_line(LOG_LEVEL_WARN, -1, fmt, args);
	va_end(args);
}

void log_info(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	write_line(LOG_LEVEL_INFO, -1, fmt, args);
	va_end(args);
}

void log_debug(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	write_line(LOG_LEVEL_DEBUG, -1, fmt, args);
	va_end(args);
}
