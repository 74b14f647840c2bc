/* SPDX-License-Identifier: ISC */
#ifndef WIRE_BYTES_H
#define WIRE_BYTES_H

#include <stdint.h>

/* Numbers in network byte order at any alignment. */
static inline void put_u16(uint8_t *out, uint16_t value)
{
	out[0] = value >> 8;
	out[1] = value;
}

static inline void put_u32(uint8_t *out, uint32_t value)
{
	put_u16(out, value >> 16);
	put_u16(out + 2, value);
}

static inline uint16_t get_u16(const uint8_t *in)
{
	return in[0] << 8 | in[1];
}

static inline uint32_t get_u32(const uint8_t *in)
{
	return (uint32_t)get_u16(in) << 16 | get_u16(in + 2);
}

#endif
