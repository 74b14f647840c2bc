/* SPDX-License-Identifier: ISC */
#include "wire/control.h"

#include <string.h>

#include "tests/unit/unit.h"
#include "tests/unit/vectors.h"

#define WHOLE_MAX (DATAGRAM_HEADER + CONTROL_MAX)

/* Offsets in the payload of an Open. */
#define DESTINATION 20
#define CLIENT 40

static void fill_from(struct control *c, const struct vector *v)
{
	memset(c, 0, sizeof(*c));
	c->type = vector_number(v, "type");
	switch (c->type) {
	case CONTROL_OPEN:
		vector_exactly(v, "token", c->open.token, TOKEN_SIZE);
		vector_addr(v, "destination", &c->open.destination);
		vector_addr(v, "client", &c->open.client);
		break;
	case CONTROL_JOIN:
		vector_exactly(v, "token", c->join.token, TOKEN_SIZE);
		break;
	case CONTROL_NUMBER:
		c->number.number = vector_number(v, "number");
		c->number.reason = vector_number(v, "reason");
		break;
	case CONTROL_FAILED:
		c->reason = vector_number(v, "reason");
		break;
	case CONTROL_FIN:
		c->serial = vector_number(v, "serial");
		break;
	case CONTROL_RESET:
		c->reset.reason = vector_number(v, "reason");
		c->reset.serial = vector_number(v, "serial");
		break;
	case CONTROL_PING:
	case CONTROL_PONG:
		vector_exactly(v, "ping", c->ping, PING_SIZE);
		break;
	case CONTROL_CONNECTED:
	case CONTROL_DETACH:
	case CONTROL_WORN:
		break;
	}
}

static void assert_same(const struct control *a, const struct control *b)
{
	ck_assert_int_eq(a->type, b->type);
	switch (a->type) {
	case CONTROL_OPEN:
		ck_assert_mem_eq(a->open.token, b->open.token, TOKEN_SIZE);
		ck_assert(addr_equal(&a->open.destination, &b->open.destination));
		ck_assert(addr_equal(&a->open.client, &b->open.client));
		break;
	case CONTROL_JOIN:
		ck_assert_mem_eq(a->join.token, b->join.token, TOKEN_SIZE);
		break;
	case CONTROL_NUMBER:
		ck_assert_uint_eq(a->number.number, b->number.number);
		ck_assert_int_eq(a->number.reason, b->number.reason);
		break;
	case CONTROL_FAILED:
		ck_assert_int_eq(a->reason, b->reason);
		break;
	case CONTROL_FIN:
		ck_assert_uint_eq(a->serial, b->serial);
		break;
	case CONTROL_RESET:
		ck_assert_int_eq(a->reset.reason, b->reset.reason);
		ck_assert_uint_eq(a->reset.serial, b->reset.serial);
		break;
	case CONTROL_PING:
	case CONTROL_PONG:
		ck_assert_mem_eq(a->ping, b->ping, PING_SIZE);
		break;
	case CONTROL_CONNECTED:
	case CONTROL_DETACH:
	case CONTROL_WORN:
		break;
	}
}

/* Decodes from memory of exactly this size: the address sanitizer sees what is read behind it. */
static enum control_verdict decode(struct control *c, const uint8_t *payload, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1);
	enum control_verdict verdict;

	memcpy(exact, payload, size);
	verdict = control_decode(c, exact, size);
	free(exact);
	return verdict;
}

START_TEST(test_vectors)
{
	unsigned seen[CONTROL_WORN + 1] = { 0 };
	unsigned skipped = 0, refused = 0;

	for (const struct vector *v = vector_first(); v; v = vector_next(v)) {
		const char *verdict = vector_text(v, "verdict");
		uint8_t out[WHOLE_MAX];
		struct control wanted, c;
		const uint8_t *bytes;
		size_t size;

		if (!verdict)
			continue;
		bytes = vector_bytes(v, "bytes", &size);
		ck_assert_uint_eq(datagram_decode(bytes).serial, SERIAL_CONTROL);
		ck_assert_uint_eq(datagram_decode(bytes).size, size - DATAGRAM_HEADER);
		if (strcmp(verdict, "ok") != 0) {
			bool skip = strcmp(verdict, "skip") == 0;

			*(skip ? &skipped : &refused) += 1;
			ck_assert_msg(decode(&c, bytes + DATAGRAM_HEADER, size - DATAGRAM_HEADER) ==
					      (skip ? CONTROL_SKIP : CONTROL_BAD),
				      "%s", vector_name(v));
			continue;
		}
		ck_assert_int_eq(decode(&c, bytes + DATAGRAM_HEADER, size - DATAGRAM_HEADER),
				 CONTROL_OK);
		fill_from(&wanted, v);
		bytes = vector_bytes(v, "bytes", &size);
		assert_same(&c, &wanted);
		ck_assert_uint_eq(control_encode(out, &wanted), size);
		ck_assert_mem_eq(out, bytes, size);
		seen[c.type]++;
	}
	for (int type = CONTROL_OPEN; type <= CONTROL_PONG; type++)
		ck_assert_uint_gt(seen[type], 0);
	ck_assert_uint_gt(seen[CONTROL_WORN], 0);
	ck_assert_uint_gt(skipped, 0);
	ck_assert_uint_gt(refused, 0);
}
END_TEST

/* Each message with every other length that fits into 128 bytes, and then some. */
START_TEST(test_lengths)
{
	for (const struct vector *v = vector_first(); v; v = vector_next(v)) {
		const char *verdict = vector_text(v, "verdict");
		uint8_t payload[2 * CONTROL_MAX] = { 0 };
		struct control c;
		size_t size;

		if (!verdict || strcmp(verdict, "ok") != 0)
			continue;
		memcpy(payload, vector_bytes(v, "bytes", &size) + DATAGRAM_HEADER, WHOLE_MAX);
		size -= DATAGRAM_HEADER;
		for (size_t i = 0; i <= sizeof(payload); i++)
			ck_assert_int_eq(decode(&c, payload, i),
					 i == size ? CONTROL_OK : CONTROL_BAD);
	}
}
END_TEST

START_TEST(test_size_limits_of_optional)
{
	static const struct {
		size_t size;
		enum control_verdict verdict;
	} rows[] = {
		{ 0, CONTROL_BAD },   { 1, CONTROL_BAD },    { 3, CONTROL_BAD },
		{ 4, CONTROL_SKIP },  { 127, CONTROL_SKIP }, { 128, CONTROL_SKIP },
		{ 129, CONTROL_BAD }, { 256, CONTROL_BAD },
	};
	const uint8_t payload[256] = { 0x80, 0x02 };
	struct control c;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		ck_assert_int_eq(decode(&c, payload, rows[i].size), rows[i].verdict);
}
END_TEST

START_TEST(test_types)
{
	uint8_t payload[CONTROL_MIN] = { 0 };
	struct control c;

	for (unsigned type = 0; type <= 0xffff; type++) {
		enum control_verdict wanted = CONTROL_BAD;

		if (type == CONTROL_CONNECTED || type == CONTROL_DETACH || type == 0x8001)
			wanted = CONTROL_OK;
		else if (type & CONTROL_OPTIONAL)
			wanted = CONTROL_SKIP;
		payload[0] = type >> 8;
		payload[1] = type;
		ck_assert_int_eq(control_decode(&c, payload, sizeof(payload)), wanted);
	}
}
END_TEST

START_TEST(test_zero_is_ignored)
{
	const uint8_t payload[CONTROL_MIN] = { 0, CONTROL_DETACH, 0xab, 0xcd };
	struct control c;

	ck_assert_int_eq(decode(&c, payload, sizeof(payload)), CONTROL_OK);
	ck_assert_int_eq(c.type, CONTROL_DETACH);
}
END_TEST

START_TEST(test_reasons)
{
	static const uint32_t unknown[] = { REASON_COUNT, REASON_COUNT + 1, 255,
					    256,	  0x80000000,	    0xffffffff };
	struct control c = { .type = CONTROL_FAILED }, decoded;
	uint8_t out[WHOLE_MAX];

	for (c.reason = 0; c.reason < REASON_COUNT; c.reason++) {
		ck_assert_uint_eq(control_encode(out, &c), DATAGRAM_HEADER + 8);
		ck_assert_int_eq(decode(&decoded, out + DATAGRAM_HEADER, 8), CONTROL_OK);
		ck_assert_int_eq(decoded.reason, c.reason);
	}
	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
		const uint32_t r = unknown[i];
		uint8_t failed[8] = { 0, CONTROL_FAILED, 0, 0, r >> 24, r >> 16, r >> 8, r };
		uint8_t reset[12] = { 0, CONTROL_RESET, 0, 0, r >> 24, r >> 16, r >> 8, r };
		uint8_t number[12] = { 0, CONTROL_NUMBER };

		ck_assert_int_eq(decode(&c, failed, sizeof(failed)), CONTROL_OK);
		ck_assert_int_eq(c.reason, REASON_INTERNAL);
		ck_assert_int_eq(decode(&c, reset, sizeof(reset)), CONTROL_OK);
		ck_assert_int_eq(c.reset.reason, REASON_INTERNAL);
		memcpy(number + 8, failed + 4, 4);
		ck_assert_int_eq(decode(&c, number, sizeof(number)), CONTROL_OK);
		ck_assert_int_eq(c.number.reason, REASON_INTERNAL);
	}
}
END_TEST

static size_t open_payload(uint8_t payload[CONTROL_MAX], const char *name)
{
	size_t size;

	memcpy(payload, vector_bytes(vector_named(name), "bytes", &size) + DATAGRAM_HEADER,
	       CONTROL_MAX);
	return size - DATAGRAM_HEADER;
}

START_TEST(test_endpoint_families)
{
	uint8_t payload[CONTROL_MAX];
	const size_t size = open_payload(payload, "open-ipv6");
	struct control c;

	for (int family = 0; family < 256; family++) {
		/* The address has bytes where an IPv4 one must have zeros. */
		const enum control_verdict wanted = family == 6 ? CONTROL_OK : CONTROL_BAD;

		payload[DESTINATION] = family;
		ck_assert_int_eq(decode(&c, payload, size), wanted);
		payload[DESTINATION] = 6;
		payload[CLIENT] = family;
		ck_assert_int_eq(decode(&c, payload, size), wanted);
		payload[CLIENT] = 6;
	}
}
END_TEST

START_TEST(test_endpoint_bytes_behind_ipv4)
{
	uint8_t payload[CONTROL_MAX];
	const size_t size = open_payload(payload, "open-ipv4");
	struct control c;

	for (size_t i = 8; i < 20; i++) {
		payload[DESTINATION + i] = 1;
		ck_assert_int_eq(decode(&c, payload, size), CONTROL_BAD);
		payload[DESTINATION + i] = 0;
		payload[CLIENT + i] = 0x80;
		ck_assert_int_eq(decode(&c, payload, size), CONTROL_BAD);
		payload[CLIENT + i] = 0;
	}
	ck_assert_int_eq(decode(&c, payload, size), CONTROL_OK);
}
END_TEST

START_TEST(test_ports)
{
	uint8_t payload[CONTROL_MAX];
	const size_t size = open_payload(payload, "open-ipv4");
	struct control c;

	memset(payload + CLIENT + 2, 0, 2);
	ck_assert_int_eq(decode(&c, payload, size), CONTROL_OK);
	ck_assert_uint_eq(addr_port(&c.open.client), 0);
	payload[DESTINATION + 2] = 0;
	payload[DESTINATION + 3] = 1;
	ck_assert_int_eq(decode(&c, payload, size), CONTROL_OK);
	ck_assert_uint_eq(addr_port(&c.open.destination), 1);
	payload[DESTINATION + 3] = 0;
	ck_assert_int_eq(decode(&c, payload, size), CONTROL_BAD);
}
END_TEST

/*
 * A mapped address is an IPv6 one on the wire; what it may reach is for the rules to say, which see
 * through it.
 */
START_TEST(test_mapped_address)
{
	static const uint8_t loopback[16] = { [10] = 0xff, [11] = 0xff, 127, 0, 0, 1 };
	uint8_t payload[CONTROL_MAX];
	const size_t size = open_payload(payload, "open-ipv6");
	struct control c;

	memcpy(payload + DESTINATION + 4, loopback, sizeof(loopback));
	ck_assert_int_eq(decode(&c, payload, size), CONTROL_OK);
	ck_assert_int_eq(c.open.destination.sa.sa_family, AF_INET6);
	ck_assert(addr_is_loopback(&c.open.destination));
}
END_TEST

START_TEST(test_unchanged_unless_ok)
{
	uint8_t payload[CONTROL_MAX];
	const size_t size = open_payload(payload, "open-ipv4");
	struct control before, c;

	memset(&before, 0x5a, sizeof(before));
	memset(&c, 0x5a, sizeof(c));
	payload[CLIENT] = 5;
	ck_assert_int_eq(decode(&c, payload, size), CONTROL_BAD);
	ck_assert_mem_eq(&c, &before, sizeof(c));
	payload[0] = 0xff;
	ck_assert_int_eq(decode(&c, payload, size), CONTROL_SKIP);
	ck_assert_mem_eq(&c, &before, sizeof(c));
}
END_TEST

START_TEST(test_names)
{
	for (int i = 0; i < REASON_COUNT; i++)
		ck_assert_str_ne(reason_text(i), "unknown");
	ck_assert_str_eq(reason_text(REASON_REFUSED), "refused");
	ck_assert_str_eq(reason_text(REASON_TIMED_OUT), "timed out");
	ck_assert_str_eq(reason_text(REASON_COUNT), "unknown");
	ck_assert_str_eq(reason_text((enum reason) - 1), "unknown");
	for (int i = CONTROL_OPEN; i <= CONTROL_PONG; i++)
		ck_assert_str_ne(control_name(i), "unknown");
	ck_assert_str_eq(control_name(CONTROL_WORN), "Worn");
	ck_assert_str_eq(control_name(CONTROL_OPEN), "Open");
	ck_assert_str_eq(control_name(0), "unknown");
	ck_assert_str_eq(control_name(CONTROL_PONG + 1), "unknown");
	ck_assert_str_eq(control_name(CONTROL_WORN + 1), "unknown");
	ck_assert_str_eq(control_name((enum control_type) - 1), "unknown");
}
END_TEST

int main(void)
{
	return RUN_TESTS("control", test_vectors, test_lengths, test_size_limits_of_optional,
			 test_types, test_zero_is_ignored, test_reasons, test_endpoint_families,
			 test_endpoint_bytes_behind_ipv4, test_ports, test_mapped_address,
			 test_unchanged_unless_ok, test_names);
}
