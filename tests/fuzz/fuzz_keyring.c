/* SPDX-License-Identifier: ISC */
/* Input: a key file. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "wire/keyring.h"

/* A key that is written is read as the same key. */
static void check_key(const struct keyring *ring, const struct key *key)
{
	char text[KEY_TEXT];
	struct keyring again;
	const char *why;
	unsigned line;

	MUST(keyring_find(ring, key->id) == key);
	key_format(key, text);
	MUST(strlen(text) == KEY_TEXT - 1);
	MUST(keyring_parse(&again, text, strlen(text), &line, &why) == 0);
	MUST(again.count == 1 && memcmp(&again.keys[0], key, sizeof(*key)) == 0);
	keyring_clear(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *why = NULL;
	struct keyring ring;
	unsigned line = 0;

	if (keyring_parse(&ring, (const char *)data, size, &line, &why) < 0) {
		MUST(why && line >= 1 && line <= size + 1);
		MUST(!ring.keys && ring.count == 0);
		return 0;
	}
	MUST(ring.count >= 1 && ring.count <= KEYRING_MAX);
	for (size_t i = 0; i < ring.count; i++)
		check_key(&ring, &ring.keys[i]);
	keyring_clear(&ring);
	return 0;
}
