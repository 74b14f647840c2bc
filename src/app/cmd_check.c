/* SPDX-License-Identifier: ISC */
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/daemon.h"

int cmd_check(int argc, char **argv)
{
	static const char usage[] = "ro-ro-tcp check proxy|relay [OPTION]...";
	struct config c;
	enum options_role role;
	int code;

	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		printf("%s\n\nSays whether a daemon would take these options; starts nothing.\n",
		       usage);
		return EXIT_GOOD;
	}
	if (argc > 1 && strcmp(argv[1], "proxy") == 0) {
		role = OPTIONS_PROXY;
	} else if (argc > 1 && strcmp(argv[1], "relay") == 0) {
		role = OPTIONS_RELAY;
	} else {
		daemon_complain("check: say proxy or relay: %s", usage);
		return EXIT_USAGE;
	}
	if (!daemon_load(&c, role, argc - 1, argv + 1, &code))
		return code;
	puts("configuration is good");
	config_clear(&c);
	return EXIT_GOOD;
}
