/* SPDX-License-Identifier: ISC */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/daemon.h"
#include "wire/keyring.h"

int cmd_keygen(int argc, char **argv)
{
	char text[KEY_TEXT];
	struct key key;

	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		puts("ro-ro-tcp keygen > FILE\n\nPrints a new key file, for --key of proxy and "
		     "relay.");
		return EXIT_GOOD;
	}
	if (argc > 1) {
		daemon_complain("keygen: takes no arguments, and prints to standard output");
		return EXIT_USAGE;
	}
	if (sodium_init() < 0) {
		daemon_complain("there is no source of random numbers");
		return EXIT_FAILED;
	}
	randombytes_buf(&key, sizeof(key));
	key_format(&key, text);
	printf("# A key of ro-ro-tcp, for --key of proxy and relay. Who has it can use the relay:\n"
	       "# keep it secret (chmod 600), and copy it by a safe way (scp).\n"
	       "# One key a line, ID:SECRET. A proxy uses the first; a relay takes each of them, "
	       "so that every\n"
	       "# proxy can have its own, and a new one can be added before an old one is "
	       "removed.\n"
	       "%s\n",
	       text);
	sodium_memzero(&key, sizeof(key));
	sodium_memzero(text, sizeof(text));
	if (fflush(stdout) != 0 || ferror(stdout)) {
		daemon_complain("keygen: cannot write the key");
		return EXIT_FAILED;
	}
	return EXIT_GOOD;
}
