/* SPDX-License-Identifier: ISC */
#ifndef APP_COMMANDS_H
#define APP_COMMANDS_H

/* The subcommands: argv[0] is the subcommand's own name. Each returns the program's exit code. */
int cmd_proxy(int argc, char **argv);
int cmd_relay(int argc, char **argv);
int cmd_keygen(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_status(int argc, char **argv);

#endif
