/* SPDX-License-Identifier: ISC */
#include "wire/datagram.h"

#include <arpa/inet.h>
#include <string.h>

void datagram_encode(uint8_t out[DATAGRAM_HEADER], uint32_t serial, uint32_t size)
{
	uint32_t words[2] = { htonl(serial), htonl(size) };

	memcpy(out, words, DATAGRAM_HEADER);
}

struct datagram datagram_decode(const uint8_t in[DATAGRAM_HEADER])
{
	uint32_t words[2];

	memcpy(words, in, DATAGRAM_HEADER);
	return (struct datagram){ .serial = ntohl(words[0]), .size = ntohl(words[1]) };
}

uint32_t serial_next(uint32_t serial)
{
	return serial == SERIAL_LAST ? SERIAL_FIRST : serial + 1;
}

uint32_t serial_previous(uint32_t serial)
{
	return serial == SERIAL_FIRST ? SERIAL_LAST : serial - 1;
}

uint32_t serial_distance(uint32_t from, uint32_t to)
{
	/* The cycle has 2^32 - 1 members: a way across the wrap is one shorter than arithmetic says. */
	return to >= from ? to - from : to - from - 1;
}
