/* SPDX-License-Identifier: ISC */
#include <config.h>
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/daemon.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "proxy", cmd_proxy, "take flows from the firewall and carry them to a relay" },
	{ "relay", cmd_relay, "take flows from proxies and carry them to the servers" },
	{ "keygen", cmd_keygen, "print a new key file" },
	{ "check", cmd_check, "check the options of a proxy or relay, start nothing" },
	{ "status", cmd_status, "print the counters of the daemons that run here" },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_usage(FILE *out)
{
	fputs("ro-ro-tcp SUBCOMMAND [OPTION]... | --version | --help\n\n", out);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].help);
	fputs("\nro-ro-tcp SUBCOMMAND --help describes its options.\n", out);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_usage(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		print_usage(stdout);
		return EXIT_GOOD;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("ro-ro-tcp " PACKAGE_VERSION);
		return EXIT_GOOD;
	}
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	}
	daemon_complain("\"%s\" is not a subcommand; see ro-ro-tcp --help", argv[1]);
	return EXIT_USAGE;
}
