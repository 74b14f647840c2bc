/* SPDX-License-Identifier: ISC */
#ifndef WIRE_KEYRING_H
#define WIRE_KEYRING_H

#include <stddef.h>

#include "wire/greeting.h"

/*
 * The keys of a key file. Its lines: "# comment", blank, or "ID:SECRET", both in hex (16 and 64
 * digits). The proxy uses the first, the relay accepts each: that's how keys are rotated, and how
 * each gateway can have its own.
 */
#define KEYRING_MAX 1024

struct keyring {
	struct key *keys;
	size_t count;
};

/*
 * Parses a key file's text. Returns 0, or -1 with the number of the bad line in *line and a
 * constant text in *why (also for an empty file, twice the same id, an all-zero id or secret). On
 * success the keys are the caller's: keyring_clear() them.
 */
int keyring_parse(struct keyring *ring, const char *text, size_t length, unsigned *line,
		  const char **why);

/* NULL if there's none with this id. */
const struct key *keyring_find(const struct keyring *ring, const uint8_t id[KEY_ID_SIZE]);

/* Wipes and frees the keys. */
void keyring_clear(struct keyring *ring);

/* Writes "ID:SECRET" with a terminating zero. */
#define KEY_TEXT (2 * KEY_ID_SIZE + 1 + 2 * KEY_SIZE + 1)
void key_format(const struct key *key, char text[KEY_TEXT]);

#endif
