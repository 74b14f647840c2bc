/* SPDX-License-Identifier: ISC */
#include "wire/keyring.h"

#include <sodium.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ID_DIGITS (2 * KEY_ID_SIZE)
#define SECRET_DIGITS (2 * KEY_SIZE)
#define LINE_LENGTH (ID_DIGITS + 1 + SECRET_DIGITS)

_Static_assert(KEYRING_MAX == 1024, "an error message below says so");

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static bool from_hex(uint8_t *out, size_t size, const char *digits)
{
	size_t decoded;

	return sodium_hex2bin(out, size, digits, 2 * size, NULL, &decoded, NULL) == 0 &&
	       decoded == size;
}

/* One "ID:SECRET" without blanks around it. Returns NULL, or why it isn't one. */
static const char *parse_key(struct key *key, const char *text, size_t length)
{
	if (length != LINE_LENGTH || text[ID_DIGITS] != ':' ||
	    !from_hex(key->id, KEY_ID_SIZE, text) ||
	    !from_hex(key->secret, KEY_SIZE, text + ID_DIGITS + 1))
		return "a key is ID:SECRET, 16 and 64 hexadecimal digits";
	if (sodium_is_zero(key->id, KEY_ID_SIZE) || sodium_is_zero(key->secret, KEY_SIZE))
		return "an id or secret of zeros only means that there is no key";
	return NULL;
}

/* One line of a key file, without the newline. Returns NULL, or why it's wrong. */
static const char *parse_line(struct keyring *ring, const char *text, size_t length)
{
	const char *why;
	struct key *key;

	while (length > 0 && is_blank(text[length - 1]))
		length--;
	for (; length > 0 && is_blank(*text); length--)
		text++;
	if (length == 0 || *text == '#')
		return NULL;
	if (ring->count == KEYRING_MAX)
		return "there are more than 1024 keys";
	key = &ring->keys[ring->count];
	why = parse_key(key, text, length);
	if (!why && keyring_find(ring, key->id))
		why = "there is another key with this id";
	if (!why)
		ring->count++;
	return why;
}

int keyring_parse(struct keyring *ring, const char *text, size_t length, unsigned *line,
		  const char **why)
{
	const char *const end = text + length;

	/* One piece, large enough: a secret that was moved would stay behind in freed memory. */
	*ring = (struct keyring){ .keys = calloc(KEYRING_MAX, sizeof(*ring->keys)) };
	*line = 1;
	*why = ring->keys ? NULL : "out of memory";
	for (unsigned i = 1; text < end && !*why; i++) {
		const char *newline = memchr(text, '\n', end - text);

		*line = i;
		*why = parse_line(ring, text, (newline ? newline : end) - text);
		text = newline ? newline + 1 : end;
	}
	if (!*why && ring->count == 0)
		*why = "there is no key in it";
	if (!*why)
		return 0;
	keyring_clear(ring);
	return -1;
}

const struct key *keyring_find(const struct keyring *ring, const uint8_t id[KEY_ID_SIZE])
{
	for (size_t i = 0; i < ring->count; i++)
		if (memcmp(ring->keys[i].id, id, KEY_ID_SIZE) == 0)
			return &ring->keys[i];
	return NULL;
}

void keyring_clear(struct keyring *ring)
{
	if (ring->keys)
		sodium_memzero(ring->keys, KEYRING_MAX * sizeof(*ring->keys));
	free(ring->keys);
	*ring = (struct keyring){ 0 };
}

void key_format(const struct key *key, char text[KEY_TEXT])
{
	sodium_bin2hex(text, ID_DIGITS + 1, key->id, KEY_ID_SIZE);
	text[ID_DIGITS] = ':';
	sodium_bin2hex(text + ID_DIGITS + 1, SECRET_DIGITS + 1, key->secret, KEY_SIZE);
}
