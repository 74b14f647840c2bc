/* SPDX-License-Identifier: ISC */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

/*
 * One line a message on standard error, with a syslog priority prefix ("<4>") when standard error
 * is the journal (JOURNAL_STREAM names its device and inode, see systemd.exec(5)). Safe to call
 * from any thread; lines never mix.
 */
enum log_level { LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Sets once, before threads start, what is written: up to this level. Default: LOG_LEVEL_INFO. */
void log_init(enum log_level level);

/* True if a debug message would be written: spares the work of making one. */
bool log_debugging(void);

/* The variants with an x do not append the text of errno. */
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warnx(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
