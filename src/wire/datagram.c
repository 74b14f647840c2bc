/* SPDX-License-Identifier: ISC */
#include "wire/datagram.h"

#include "wire/bytes.h"

void datagram_encode(uint8_t out[DATAGRAM_HEADER], uint32_t serial, uint32_t size)
{
	put_u32(out, serial);
	put_u32(out + 4, size);
}

struct datagram datagram_decode(const uint8_t in[DATAGRAM_HEADER])
{
	return (struct datagram){ .serial = get_u32(in), .size = get_u32(in + 4) };
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
	/* There are 2^32 - 1 serials: across the wrap it is one less than arithmetic says. */
	return to >= from ? to - from : to - from - 1;
}

bool serial_rises(uint32_t last, uint32_t serial)
{
	return last == 0 || (serial != last && serial_distance(last, serial) < SERIAL_WINDOW);
}
