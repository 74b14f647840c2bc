/* SPDX-License-Identifier: ISC */
#ifndef APP_DAEMON_H
#define APP_DAEMON_H

#include "app/config.h"
#include "app/worker.h"

/* The exit codes of the program. */
enum { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/*
 * Runs a role in c->workers threads until SIGTERM or SIGINT; context goes to ops->open(). detail
 * says what the role does, for the ready line: "ready: ROLE on ADDRESS<detail>, CONGESTION,
 * splice". Returns the exit code, and has logged why if it isn't EXIT_GOOD.
 */
int daemon_run(struct config *c, const struct role_ops *ops, void *context, const char *detail);

/*
 * Loads the configuration, for the subcommands. Returns true if there's one to go on with; else
 * *code is the exit code, all has been said, and there's nothing to clear.
 */
bool daemon_load(struct config *c, enum options_role role, int argc, char **argv, int *code);

/* Prints "ro-ro-tcp: " and the text as one line to standard error. */
void daemon_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
