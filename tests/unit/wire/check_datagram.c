/* SPDX-License-Identifier: ISC */
#include <string.h>

#include "tests/unit/unit.h"
#include "tests/unit/vectors.h"
#include "wire/datagram.h"

START_TEST(test_vectors)
{
	static const char *const names[] = { "datagram-first", "datagram-empty", "datagram-last" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const struct vector *v = vector_named(names[i]);
		uint8_t expected[DATAGRAM_HEADER], out[DATAGRAM_HEADER];
		struct datagram d;
		size_t size;

		memcpy(expected, vector_bytes(v, "bytes", &size), DATAGRAM_HEADER);
		d = datagram_decode(expected);
		ck_assert_uint_eq(d.serial, vector_number(v, "serial"));
		ck_assert_uint_eq(d.size, vector_number(v, "size"));
		ck_assert_uint_eq(d.size, size - DATAGRAM_HEADER);
		datagram_encode(out, d.serial, d.size);
		ck_assert_mem_eq(out, expected, DATAGRAM_HEADER);
	}
}
END_TEST

/* The flags are the stripe's to take off. */
START_TEST(test_kept)
{
	const struct vector *v = vector_named("datagram-kept");
	size_t size;
	struct datagram d = datagram_decode(vector_bytes(v, "bytes", &size));

	ck_assert_uint_eq(d.serial, vector_number(v, "serial"));
	ck_assert_uint_eq(d.size, DATAGRAM_KEPT | vector_number(v, "size"));
}
END_TEST

START_TEST(test_every_bit)
{
	for (unsigned bit = 0; bit < 64; bit++) {
		uint8_t in[DATAGRAM_HEADER] = { 0 }, out[DATAGRAM_HEADER];
		struct datagram d;

		in[bit / 8] = 0x80 >> bit % 8;
		d = datagram_decode(in);
		ck_assert_uint_eq(d.serial, bit < 32 ? 0x80000000u >> bit : 0);
		ck_assert_uint_eq(d.size, bit < 32 ? 0 : 0x80000000u >> (bit - 32));
		datagram_encode(out, d.serial, d.size);
		ck_assert_mem_eq(out, in, DATAGRAM_HEADER);
	}
}
END_TEST

START_TEST(test_neighbours)
{
	static const uint32_t row[] = { 0xfffffffe, 0xffffffff, 1, 2, 3 };

	for (size_t i = 0; i + 1 < sizeof(row) / sizeof(row[0]); i++) {
		ck_assert_uint_eq(serial_next(row[i]), row[i + 1]);
		ck_assert_uint_eq(serial_previous(row[i + 1]), row[i]);
	}
	ck_assert_uint_eq(serial_next(0x7fffffff), 0x80000000);
	ck_assert_uint_eq(serial_previous(0x80000000), 0x7fffffff);
}
END_TEST

START_TEST(test_distance)
{
	static const struct {
		uint32_t from, to, distance;
	} rows[] = {
		{ 1, 1, 0 },
		{ 1, 2, 1 },
		{ 0xffffffff, 0xffffffff, 0 },
		{ 0xffffffff, 1, 1 },
		{ 0xfffffffe, 1, 2 },
		{ 0xfffffffe, 3, 4 },
		{ 1, 0xffffffff, 0xfffffffe },
		{ 2, 1, 0xfffffffe },
		{ 1, 0x80000000, 0x7fffffff },
		{ 1, 0x80000001, SERIAL_WINDOW },
		{ 0x80000000, 0xffffffff, 0x7fffffff },
		{ 0x80000000, 1, 0x80000000 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		ck_assert_uint_eq(serial_distance(rows[i].from, rows[i].to), rows[i].distance);
}
END_TEST

START_TEST(test_distance_counts_steps)
{
	uint32_t serial = 0xfffffff0;

	for (uint32_t steps = 0; steps < 64; steps++, serial = serial_next(serial)) {
		ck_assert_uint_ne(serial, 0);
		ck_assert_uint_eq(serial_distance(0xfffffff0, serial), steps);
	}
}
END_TEST

START_TEST(test_rising)
{
	ck_assert(serial_rises(0, 1));
	ck_assert(serial_rises(0, 0xffffffff));
	ck_assert(serial_rises(7, 8));
	ck_assert(serial_rises(0xffffffff, 1));
	ck_assert(serial_rises(1, 0x80000000));
	ck_assert(!serial_rises(7, 7));
	ck_assert(!serial_rises(8, 7));
	ck_assert(!serial_rises(1, 0xffffffff));
	ck_assert(!serial_rises(1, 0x80000001));
}
END_TEST

int main(void)
{
	return RUN_TESTS("datagram", test_vectors, test_kept, test_every_bit, test_neighbours,
			 test_distance, test_distance_counts_steps, test_rising);
}
