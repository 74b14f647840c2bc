/* SPDX-License-Identifier: ISC */
#include "wire/parity.h"

#include <stdio.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "tests/unit/vectors.h"
#include "wire/bytes.h"
#include "wire/datagram.h"

#define LENGTH_MAX (PARITY_PREFIX + DATAGRAM_KEPT_MAX)

/* Behind each buffer is a byte that must not change. */
#define GUARD 0xa5

struct scene {
	unsigned k, m;
	size_t length;
	uint8_t pieces[PARITY_BLOCK][LENGTH_MAX];
	uint8_t parities[PARITY_BLOCK][LENGTH_MAX + 1];
	uint8_t found[PARITY_BLOCK][LENGTH_MAX + 1];
};

static struct scene scene;

static void set_up(unsigned k, unsigned m, size_t length)
{
	const uint8_t *pieces[PARITY_BLOCK];
	uint8_t *parities[PARITY_BLOCK];

	scene.k = k;
	scene.m = m;
	scene.length = length;
	for (unsigned i = 0; i < k; i++) {
		pieces[i] = scene.pieces[i];
		for (size_t at = 0; at < length; at++)
			scene.pieces[i][at] = (uint8_t)random();
	}
	for (unsigned i = 0; i < m; i++) {
		parities[i] = scene.parities[i];
		parities[i][length] = GUARD;
	}
	parity_make(k, m, length, pieces, parities);
	for (unsigned i = 0; i < m; i++)
		ck_assert_uint_eq(parities[i][length], GUARD);
}

/* Bits of a set. */
#define SET 64

/* Both are sets: of the pieces that are missing, and of as many parities. */
static void recover(uint64_t missing, uint64_t sent)
{
	const uint8_t *pieces[PARITY_BLOCK], *parities[PARITY_BLOCK];
	uint8_t indexes[PARITY_BLOCK], *found[PARITY_BLOCK];
	unsigned n = 0;

	for (unsigned i = 0; i < scene.m; i++) {
		if (!(sent >> i & 1))
			continue;
		indexes[n] = i;
		parities[n] = scene.parities[i];
		found[n] = scene.found[n];
		memset(found[n], GUARD, scene.length + 1);
		n++;
	}
	for (unsigned i = 0; i < scene.k; i++)
		pieces[i] = missing >> i & 1 ? NULL : scene.pieces[i];
	ck_assert(parity_recover(scene.k, scene.length, pieces, indexes, parities, found));
	n = 0;
	for (unsigned i = 0; i < scene.k; i++) {
		if (pieces[i] != NULL)
			continue;
		ck_assert_mem_eq(scene.found[n], scene.pieces[i], scene.length);
		ck_assert_uint_eq(scene.found[n++][scene.length], GUARD);
	}
}

static unsigned count(uint64_t set)
{
	return (unsigned)__builtin_popcountll(set);
}

START_TEST(test_all_patterns_of_few)
{
	for (unsigned k = 1; k <= 6; k++) {
		set_up(k, 6, 1 + (size_t)random() % 100);
		for (unsigned missing = 1; missing < 1u << k; missing++) {
			for (unsigned sent = 1; sent < 1u << scene.m; sent++) {
				if (count(sent) == count(missing))
					recover(missing, sent);
			}
		}
	}
}
END_TEST

START_TEST(test_most)
{
	static const unsigned rows[][2] = {{0, 0}, {1, 1}, {8, 8}, {9, 8}, {10, 9}, {PARITY_BLOCK, PARITY_BLOCK / 2 + 4}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		ck_assert_uint_eq(parity_most(rows[i][0]), rows[i][1]);
}
END_TEST

/* n of the lowest bits. */
static uint64_t choose(unsigned bits, unsigned n)
{
	uint64_t set = 0;

	while (count(set) < n)
		set |= UINT64_C(1) << random() % bits;
	return set;
}

START_TEST(test_random)
{
	for (unsigned round = 0; round < 300; round++) {
		unsigned k = 1 + (unsigned)random() % SET;
		unsigned m = 1 + (unsigned)random() % SET;
		unsigned missing = 1 + (unsigned)random() % (k < m ? k : m);

		set_up(k, m, (size_t)random() % (round % 10 ? 300 : LENGTH_MAX + 1));
		recover(choose(k, missing), choose(m, missing));
	}
}
END_TEST

/* All that there can be is missing. And: any one parity of one piece will do. */
START_TEST(test_extremes)
{
	set_up(SET, SET, LENGTH_MAX);
	recover(UINT64_MAX, UINT64_MAX);
	for (unsigned i = 0; i < SET; i++) {
		recover(UINT64_C(1) << i, UINT64_C(1) << (SET - 1 - i));
		recover(UINT64_MAX ^ UINT64_C(1) << i, UINT64_MAX ^ UINT64_C(1) << i);
	}
	set_up(1, SET, 1452);
	for (unsigned i = 0; i < SET; i++)
		recover(1, UINT64_C(1) << i);
}
END_TEST

/* A block as large as can be, of which every other piece is missing, or all. */
START_TEST(test_largest)
{
	for (unsigned step = 1; step <= 2; step++) {
		const uint8_t *pieces[PARITY_BLOCK], *parities[PARITY_BLOCK];
		uint8_t indexes[PARITY_BLOCK], *found[PARITY_BLOCK];

		set_up(PARITY_BLOCK, PARITY_BLOCK, 500);
		for (unsigned i = 0; i < PARITY_BLOCK; i++) {
			pieces[i] = i % step == 0 ? NULL : scene.pieces[i];
			indexes[i] = (uint8_t)(PARITY_BLOCK - 1 - i);
			parities[i] = scene.parities[indexes[i]];
			found[i] = scene.found[i];
		}
		ck_assert(parity_recover(PARITY_BLOCK, 500, pieces, indexes, parities, found));
		for (unsigned i = 0; i < PARITY_BLOCK / step; i++)
			ck_assert_mem_eq(scene.found[i], scene.pieces[i * step], 500);
	}
}
END_TEST

START_TEST(test_same_parity_twice)
{
	static const uint8_t indexes[] = { 1, 3, 1 };
	const uint8_t *parities[] = { scene.parities[1], scene.parities[3], scene.parities[1] };
	const uint8_t *pieces[5] = { NULL, scene.pieces[1], NULL, NULL, scene.pieces[4] };
	uint8_t *found[] = { scene.found[0], scene.found[1], scene.found[2] };

	set_up(5, 4, 100);
	ck_assert(!parity_recover(5, 100, pieces, indexes, parities, found));
}
END_TEST

/* As the protocol has it: polynomial 0x11d. */
static uint8_t multiply(uint8_t a, uint8_t b)
{
	uint8_t product = 0;

	for (; b; b >>= 1, a = a << 1 ^ (a & 0x80 ? 0x1d : 0)) {
		if (b & 1)
			product ^= a;
	}
	return product;
}

static uint8_t invert(uint8_t a)
{
	uint8_t b = 1;

	while (multiply(a, b) != 1)
		b++;
	return b;
}

START_TEST(test_arithmetic)
{
	static const unsigned sizes[] = { 1, 2, 7, 33, PARITY_BLOCK };

	for (unsigned s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		set_up(sizes[s], PARITY_BLOCK, 70);
		for (unsigned i = 0; i < scene.m; i++) {
			uint8_t expected[70] = { 0 };

			for (unsigned j = 0; j < scene.k; j++) {
				uint8_t factor = invert((uint8_t)((scene.k + i) ^ j));

				for (size_t at = 0; at < sizeof(expected); at++)
					expected[at] ^= multiply(factor, scene.pieces[j][at]);
			}
			ck_assert_mem_eq(scene.parities[i], expected, sizeof(expected));
		}
	}
}
END_TEST

START_TEST(test_header_vector)
{
	const struct vector *v = vector_named("parity-header");
	uint8_t expected[PARITY_HEADER], out[PARITY_HEADER];
	uint32_t serials[PARITY_BLOCK];
	struct parity parity;
	char text[256] = "";

	vector_exactly(v, "bytes", expected, PARITY_HEADER);
	ck_assert(parity_decode(&parity, expected));
	ck_assert_uint_eq(parity.first, vector_number(v, "first"));
	vector_exactly(v, "set", out, sizeof(parity.set));
	ck_assert_mem_eq(parity.set, out, sizeof(parity.set));
	ck_assert_uint_eq(parity.blocks, vector_number(v, "blocks"));
	ck_assert_uint_eq(parity.block, vector_number(v, "block"));
	ck_assert_uint_eq(parity.index, vector_number(v, "index"));
	for (unsigned i = 0, n = parity_serials(&parity, serials); i < n; i++)
		sprintf(text + strlen(text), "%s%u", i ? " " : "", serials[i]);
	ck_assert_str_eq(text, vector_text(v, "serials"));
	parity_encode(out, &parity);
	ck_assert_mem_eq(out, expected, PARITY_HEADER);
}
END_TEST

/* The pieces as they are taken, and the parity as it is sent. */
START_TEST(test_datagram_vector)
{
	const struct vector *v = vector_named("parity");
	const uint8_t *pieces[] = { scene.pieces[0], scene.pieces[1], scene.pieces[2] };
	uint8_t expected[512], *parities[] = { scene.parities[0], scene.parities[1] };
	size_t size, length = 0;
	struct datagram datagram;
	struct parity parity;

	for (unsigned i = 0; i < 3; i++) {
		char name[] = { 'p', 'i', 'e', 'c', 'e', '_', (char)('0' + i), 0 };
		const uint8_t *payload = vector_bytes(v, name, &size);

		memcpy(scene.pieces[i] + PARITY_PREFIX, payload, size);
		parity_seal(scene.pieces[i], (uint32_t)size);
		length = PARITY_PREFIX + size > length ? PARITY_PREFIX + size : length;
	}
	memcpy(expected, vector_bytes(v, "bytes", &size), sizeof(expected));
	ck_assert_uint_eq(size, DATAGRAM_HEADER + PARITY_HEADER + length);
	datagram = datagram_decode(expected);
	ck_assert_uint_eq(datagram.serial, vector_number(v, "serial"));
	ck_assert_uint_eq(datagram.size, DATAGRAM_PARITY | vector_number(v, "size"));
	ck_assert(parity_decode(&parity, expected + DATAGRAM_HEADER));
	ck_assert_uint_eq(parity.first, datagram.serial);
	ck_assert_uint_eq(parity.index, 1);
	parity_make(3, 2, length, pieces, parities);
	ck_assert_mem_eq(parities[1], expected + DATAGRAM_HEADER + PARITY_HEADER, length);
}
END_TEST

/* What was recovered from other pieces than the peer's isn't taken for one of its own. */
START_TEST(test_seals)
{
	uint8_t piece[PARITY_PREFIX + 100];
	uint32_t size;

	for (unsigned i = 0; i < sizeof(piece); i++)
		piece[i] = (uint8_t)random();
	for (uint32_t n = 0; n <= 100; n++) {
		parity_seal(piece, n);
		ck_assert(parity_unseal(piece, sizeof(piece), &size));
		ck_assert_uint_eq(size, n);
		ck_assert(parity_unseal(piece, PARITY_PREFIX + n, &size));
		ck_assert(!parity_unseal(piece, PARITY_PREFIX + n - 1, &size));
		for (unsigned bit = 0; bit < 8 * (PARITY_PREFIX + n); bit++) {
			piece[bit / 8] ^= 1 << bit % 8;
			ck_assert(!parity_unseal(piece, sizeof(piece), &size));
			piece[bit / 8] ^= 1 << bit % 8;
		}
	}
	ck_assert(!parity_unseal(piece, 0, &size));
}
END_TEST

static void put_in(struct parity *parity, unsigned bit)
{
	parity->set[bit / 8] |= 1 << bit % 8;
}

/* What goes out comes in again, and each serial of the set is in one block. */
static void check_header(const struct parity *parity)
{
	uint8_t bytes[PARITY_HEADER], again[PARITY_HEADER], dealt[PARITY_SPAN / 8] = { 0 };
	uint32_t serials[PARITY_BLOCK];
	struct parity one = *parity;
	unsigned n;

	for (one.block = 0; one.block < one.blocks; one.block++) {
		struct parity decoded;

		parity_encode(bytes, &one);
		bytes[PARITY_HEADER - 1] = 0xff; /* ignored */
		ck_assert(parity_decode(&decoded, bytes));
		parity_encode(again, &decoded);
		ck_assert_mem_eq(again, bytes, PARITY_HEADER - 1);
		ck_assert_uint_eq(again[PARITY_HEADER - 1], 0);
		n = parity_serials(&decoded, serials);
		ck_assert(n >= 1 && n <= PARITY_BLOCK);
		for (unsigned i = 0; i < n; i++) {
			uint32_t bit = serial_distance(one.first, serials[i]);

			ck_assert(serials[i] != 0 && bit < PARITY_SPAN);
			ck_assert(i == 0 || serial_rises(serials[i - 1], serials[i]));
			ck_assert(!(dealt[bit / 8] & 1 << bit % 8));
			dealt[bit / 8] |= 1 << bit % 8;
		}
	}
	ck_assert_mem_eq(dealt, parity->set, sizeof(dealt));
}

START_TEST(test_headers)
{
	for (unsigned round = 0; round < 1000; round++) {
		struct parity parity = { .first = round % 2 ? 1 + (uint32_t)random()
							    : SERIAL_LAST -
								      (uint32_t)random() % 300 };
		unsigned n = 1 + (unsigned)random() % PARITY_SPAN, pieces = 0;

		for (unsigned i = 0; i < n; i++)
			put_in(&parity, (unsigned)random() % PARITY_SPAN);
		for (unsigned i = 0; i < sizeof(parity.set); i++)
			pieces += count(parity.set[i]);
		n = (pieces + PARITY_BLOCK - 1) / PARITY_BLOCK;
		parity.blocks = n + (unsigned)random() % ((pieces > 255 ? 255 : pieces) - n + 1);
		parity.index = (uint8_t)random() % PARITY_BLOCK;
		check_header(&parity);
	}
}
END_TEST

/* There is no serial 0. */
START_TEST(test_serials_wrap)
{
	struct parity parity = { .first = 0xfffffffe, .blocks = 2, .block = 0 };
	uint32_t serials[PARITY_BLOCK];

	for (unsigned bit = 0; bit < 6; bit++)
		put_in(&parity, bit);
	ck_assert_uint_eq(parity_serials(&parity, serials), 3);
	ck_assert_uint_eq(serials[0], 0xfffffffe);
	ck_assert_uint_eq(serials[1], 1);
	ck_assert_uint_eq(serials[2], 3);
	parity.block = 1;
	ck_assert_uint_eq(parity_serials(&parity, serials), 3);
	ck_assert_uint_eq(serials[0], 0xffffffff);
	ck_assert_uint_eq(serials[1], 2);
	ck_assert_uint_eq(serials[2], 4);
}
END_TEST

START_TEST(test_nonsense)
{
	static const struct {
		uint32_t first;
		unsigned pieces;
		uint8_t blocks, block, index;
		bool good;
	} rows[] = {
		{ 1, 1, 1, 0, 0, true },
		{ 0, 1, 1, 0, 0, false },
		{ 1, 1, 0, 0, 0, false },
		{ 1, 1, 1, 1, 0, false },
		{ 1, 2, 2, 1, 0, true },
		{ 1, 2, 2, 2, 0, false },
		{ 1, 1, 2, 0, 0, false },
		{ 1, 0, 1, 0, 0, false },
		{ 1, 1, 1, 0, 127, true },
		{ 1, 1, 1, 0, 128, false },
		{ 1, 1, 1, 0, 255, false },
		{ 1, 128, 1, 0, 0, true },
		{ 1, 129, 1, 0, 0, false },
		{ 1, 129, 2, 1, 0, true },
		{ 1, 256, 2, 1, 0, true },
		{ 1, 256, 4, 3, 0, true },
		{ 1, 256, 1, 0, 0, false },
		{ 1, 255, 255, 254, 0, true },
		{ 1, 254, 255, 0, 0, false },
		{ SERIAL_LAST, 256, 255, 0, 63, true },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct parity parity = { .first = rows[i].first,
					 .blocks = rows[i].blocks,
					 .block = rows[i].block,
					 .index = rows[i].index };
		uint8_t bytes[PARITY_HEADER];

		for (unsigned n = 0; n < rows[i].pieces; n++)
			put_in(&parity, rows[i].pieces <= 128 ? PARITY_SPAN - 1 - 2 * n : n);
		parity_encode(bytes, &parity);
		ck_assert_msg(parity_decode(&parity, bytes) == rows[i].good, "row %zu", i);
	}
}
END_TEST

int main(void)
{
	return RUN_TESTS("parity", test_all_patterns_of_few, test_most, test_random, test_extremes, test_largest,
			 test_same_parity_twice, test_arithmetic, test_header_vector,
			 test_datagram_vector, test_seals, test_headers, test_serials_wrap,
			 test_nonsense);
}
