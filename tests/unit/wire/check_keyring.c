/* SPDX-License-Identifier: ISC */
#include "wire/keyring.h"

#include <stdio.h>
#include <string.h>

#include "tests/unit/unit.h"

#define ID "00112233445566ff"
#define ID_2 "0011223344556700"
#define SECRET "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define ZEROS_16 "0000000000000000"
#define ZEROS_64 ZEROS_16 ZEROS_16 ZEROS_16 ZEROS_16

/* Parses memory of exactly this length, without a zero behind it. */
static int parse_bytes(struct keyring *ring, const char *text, size_t length, unsigned *line,
		       const char **why)
{
	char *exact = malloc(length ? length : 1);
	int result;

	memcpy(exact, text, length);
	result = keyring_parse(ring, exact, length, line, why);
	free(exact);
	return result;
}

static int parse(struct keyring *ring, const char *text)
{
	const char *why;
	unsigned line;

	return parse_bytes(ring, text, strlen(text), &line, &why);
}

START_TEST(test_good)
{
	static const struct {
		const char *text;
		size_t count;
	} rows[] = {
		{ ID ":" SECRET "\n", 1 },
		{ ID ":" SECRET, 1 }, /* no newline at the end */
		{ ID ":" SECRET "\r\n", 1 },
		{ ID ":" SECRET "\r", 1 },
		{ " \t" ID ":" SECRET " \t\n", 1 },
		{ "# the branch office\n\n   \n" ID ":" SECRET "\n# the end", 1 },
		{ "#\r\n\r\n" ID ":" SECRET "\r\n" ID_2 ":" SECRET "\r\n", 2 },
		{ ID ":" SECRET "\n" ID_2 ":" SECRET, 2 },
		{ "\n\n\n" ID ":" SECRET "\n\n\n", 1 },
		{ "00112233445566FF:" SECRET, 1 }, /* either case */
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct keyring ring;

		ck_assert_msg(parse(&ring, rows[i].text) == 0, "%s", rows[i].text);
		ck_assert_uint_eq(ring.count, rows[i].count);
		ck_assert_uint_eq(ring.keys[0].id[7], 0xff);
		ck_assert_uint_eq(ring.keys[0].secret[31], 0x1f);
		keyring_clear(&ring);
		ck_assert_ptr_null(ring.keys);
		ck_assert_uint_eq(ring.count, 0);
	}
}
END_TEST

START_TEST(test_bad)
{
	static const struct {
		const char *text;
		unsigned line;
		const char *why; /* how it begins */
	} rows[] = {
		{ "", 1, "there is no key" },
		{ "\n", 1, "there is no key" },
		{ "# only a comment\n\n", 2, "there is no key" },
		{ ID "\n", 1, "a key is" },
		{ ":" SECRET, 1, "a key is" },
		{ ID ":", 1, "a key is" },
		{ ID SECRET, 1, "a key is" },
		{ ID " " SECRET, 1, "a key is" },
		{ ID "::" SECRET, 1, "a key is" },
		{ ID ":" SECRET "0", 1, "a key is" },
		{ ID ":" SECRET "00", 1, "a key is" },
		{ ID "0:" SECRET, 1, "a key is" },
		{ "0011223344556:" SECRET, 1, "a key is" },
		{ "001122334455x6ff:" SECRET, 1, "a key is" },
		{ "g0112233445566ff:" SECRET, 1, "a key is" },
		{ ID ":x00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 1,
		  "a key is" },
		{ ID ":000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1", 1,
		  "a key is" },
		{ ID ":000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1 ", 1,
		  "a key is" },
		{ ID ":00 102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1", 1,
		  "a key is" },
		{ ID ":" SECRET " # the branch office", 1, "a key is" },
		{ ID ":" SECRET "\r\r\nx", 2, "a key is" },
		{ ID ":" SECRET "\r" ID_2 ":" SECRET, 1, "a key is" },
		{ "\xef\xbb\xbf" ID ":" SECRET, 1, "a key is" },
		{ ZEROS_16 ":" SECRET, 1, "an id or secret of zeros" },
		{ "\n" ID ":" ZEROS_64, 2, "an id or secret of zeros" },
		{ ID ":" SECRET "\n\n" ID ":" SECRET, 3, "there is another key" },
		{ ID ":" SECRET "\n00112233445566FF:" SECRET, 2, "there is another key" },
		{ ID ":" SECRET "\n#\n" ID_2, 3, "a key is" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *why = NULL;
		struct keyring ring;
		unsigned line = 0;

		ck_assert_msg(parse_bytes(&ring, rows[i].text, strlen(rows[i].text), &line, &why) ==
				      -1,
			      "%s", rows[i].text);
		ck_assert_uint_eq(line, rows[i].line);
		ck_assert_msg(strncmp(why, rows[i].why, strlen(rows[i].why)) == 0, "%s: %s",
			      rows[i].text, why);
		ck_assert_ptr_null(ring.keys);
		ck_assert_uint_eq(ring.count, 0);
	}
}
END_TEST

/* A key is never cut out of a file that ends too early. */
START_TEST(test_truncated)
{
	static const char text[] = ID ":" SECRET;

	for (size_t length = 0; length < sizeof(text) - 1; length++) {
		struct keyring ring;
		const char *why;
		unsigned line;

		ck_assert_int_eq(parse_bytes(&ring, text, length, &line, &why), -1);
		ck_assert_uint_eq(line, 1);
	}
}
END_TEST

START_TEST(test_zero_byte)
{
	static const char inside[] = ID ":" SECRET "\0\n", line_of_it[] = ID ":" SECRET "\n\0";
	struct keyring ring;
	const char *why;
	unsigned line;

	ck_assert_int_eq(parse_bytes(&ring, inside, sizeof(inside) - 1, &line, &why), -1);
	ck_assert_uint_eq(line, 1);
	ck_assert_int_eq(parse_bytes(&ring, line_of_it, sizeof(line_of_it) - 1, &line, &why), -1);
	ck_assert_uint_eq(line, 2);
}
END_TEST

/* A file of count keys; the caller frees it. */
static char *many_keys(unsigned count, size_t *length)
{
	char *text = malloc(count * KEY_TEXT + 1);

	*length = 0;
	for (unsigned i = 1; i <= count; i++)
		*length += sprintf(text + *length, "%016x:%s\n", i, SECRET);
	return text;
}

START_TEST(test_most)
{
	struct keyring ring;
	const char *why;
	unsigned line;
	size_t length;
	char *text = many_keys(KEYRING_MAX, &length);

	ck_assert_int_eq(parse_bytes(&ring, text, length, &line, &why), 0);
	ck_assert_uint_eq(ring.count, KEYRING_MAX);
	for (size_t i = 0; i < KEYRING_MAX; i++)
		ck_assert_ptr_eq(keyring_find(&ring, ring.keys[i].id), &ring.keys[i]);
	keyring_clear(&ring);
	free(text);
	text = many_keys(KEYRING_MAX + 1, &length);
	ck_assert_int_eq(parse_bytes(&ring, text, length, &line, &why), -1);
	ck_assert_uint_eq(line, KEYRING_MAX + 1);
	ck_assert_str_eq(why, "there are more than 1024 keys");
	free(text);
}
END_TEST

START_TEST(test_huge)
{
	const size_t length = 8 << 20;
	char *text = malloc(length);
	struct keyring ring;
	const char *why;
	unsigned line;

	memset(text, 'a', length);
	ck_assert_int_eq(parse_bytes(&ring, text, length, &line, &why), -1);
	ck_assert_uint_eq(line, 1);
	memset(text, '\n', length);
	ck_assert_int_eq(parse_bytes(&ring, text, length, &line, &why), -1);
	ck_assert_uint_eq(line, length);
	memset(text, ' ', length);
	ck_assert_int_eq(parse_bytes(&ring, text, length, &line, &why), -1);
	free(text);
}
END_TEST

START_TEST(test_find)
{
	static const uint8_t id_2[KEY_ID_SIZE] = { 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x67, 0x00 };
	static const uint8_t second[KEY_ID_SIZE] = { 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0xfe };
	static const uint8_t zero[KEY_ID_SIZE];
	struct keyring ring;

	ck_assert_int_eq(parse(&ring, ID ":" SECRET "\n" ID_2 ":" SECRET "\n"), 0);
	ck_assert_ptr_eq(keyring_find(&ring, ring.keys[0].id), &ring.keys[0]);
	ck_assert_ptr_eq(keyring_find(&ring, id_2), &ring.keys[1]);
	ck_assert_ptr_null(keyring_find(&ring, second));
	ck_assert_ptr_null(keyring_find(&ring, zero));
	keyring_clear(&ring);
	ck_assert_ptr_null(keyring_find(&ring, id_2));
	keyring_clear(&ring);
}
END_TEST

START_TEST(test_format)
{
	char text[KEY_TEXT];
	struct keyring ring;

	ck_assert_int_eq(parse(&ring, ID ":" SECRET), 0);
	key_format(&ring.keys[0], text);
	ck_assert_str_eq(text, ID ":" SECRET);
	ck_assert_uint_eq(strlen(text) + 1, KEY_TEXT);
	keyring_clear(&ring);
}
END_TEST

int main(void)
{
	return RUN_TESTS("keyring", test_good, test_bad, test_truncated, test_zero_byte, test_most,
			 test_huge, test_find, test_format);
}
