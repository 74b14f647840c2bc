/* SPDX-License-Identifier: ISC */
#ifndef WIRE_DATAGRAM_H
#define WIRE_DATAGRAM_H

#include <stdbool.h>
#include <stdint.h>

/* The transmission protocol, doc/protocol.md section 1. */
#define DATAGRAM_HEADER 8
#define DATAGRAM_MAX_EXTENDED (1u << 20) /* payload bytes; the base protocol has no bound */

/*
 * In the size of a data datagram, on a stripe whose ends know FEATURE_PARITY: doc/protocol.md
 * section 3.6.
 */
#define DATAGRAM_KEPT 0x80000000u   /* parity that comes later may be over it */
#define DATAGRAM_PARITY 0x40000000u /* it is parity, and takes no serial */
#define DATAGRAM_KEPT_MAX 16384u    /* payload bytes of a kept one */

#define SERIAL_CONTROL 0u
#define SERIAL_FIRST 1u
#define SERIAL_LAST 0xffffffffu
#define SERIAL_WINDOW 0x80000000u /* a serial this far ahead of the one due makes no sense */

struct datagram {
	uint32_t serial;
	uint32_t size; /* bytes of payload behind the header */
};

void datagram_encode(uint8_t out[DATAGRAM_HEADER], uint32_t serial, uint32_t size);
struct datagram datagram_decode(const uint8_t in[DATAGRAM_HEADER]);

/* Serials go from 1 to 0xffffffff and then to 1 again: 0 is never one. serial must not be 0. */
uint32_t serial_next(uint32_t serial);
uint32_t serial_previous(uint32_t serial);

/* Steps up from one serial to another, 0 if they are equal. Neither may be 0. */
uint32_t serial_distance(uint32_t from, uint32_t to);

/* On one stripe serials rise: true if this one may follow the last, which is 0 before the first. */
bool serial_rises(uint32_t last, uint32_t serial);

#endif
