/* SPDX-License-Identifier: ISC */
#ifndef WIRE_CONTROL_H
#define WIRE_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "wire/datagram.h"

/* Control datagrams of the extended protocol, doc/protocol.md section 3.2. */
#define CONTROL_MIN 4	/* payload bytes */
#define CONTROL_MAX 128 /* payload bytes */
#define CONTROL_OPTIONAL 0x8000u
#define TOKEN_SIZE 16
#define PING_SIZE 8

enum control_type {
	CONTROL_OPEN = 1,
	CONTROL_JOIN,
	CONTROL_NUMBER,
	CONTROL_CONNECTED,
	CONTROL_FAILED,
	CONTROL_FIN,
	CONTROL_RESET,
	CONTROL_DETACH,
	CONTROL_PING,
	CONTROL_PONG,
	CONTROL_WORN = CONTROL_OPTIONAL | 1,
};

enum reason {
	REASON_NONE,
	REASON_REFUSED,
	REASON_UNREACHABLE,
	REASON_TIMED_OUT,
	REASON_FORBIDDEN,
	REASON_NO_GROUP,
	REASON_OVERLOADED,
	REASON_INTERNAL,
	REASON_RESET,
	REASON_PROTOCOL,
	REASON_STRIPE_LOST,
	REASON_SHUTDOWN,
	REASON_COUNT,
};

struct control {
	enum control_type type;
	union {
		struct {
			uint8_t token[TOKEN_SIZE];
			union addr destination;
			union addr client;
		} open;
		struct {
			uint8_t token[TOKEN_SIZE];
		} join;
		struct {
			uint32_t number; /* 0: refused */
			enum reason reason;
		} number;
		struct {
			enum reason reason;
			uint32_t serial; /* the last before the reset, 0 if there was none */
		} reset;
		enum reason reason; /* Failed */
		uint32_t serial;    /* Fin: the last of its direction, 0 if there was none */
		uint8_t ping[PING_SIZE];
	};
};

enum control_verdict {
	CONTROL_OK,
	CONTROL_SKIP, /* unknown and optional */
	CONTROL_BAD,  /* ends the stripe */
};

/*
 * Encodes a whole datagram, header included, into out. Addresses must be IPv4 or IPv6. Returns its
 * length in bytes, at most DATAGRAM_HEADER + CONTROL_MAX.
 */
size_t control_encode(uint8_t out[DATAGRAM_HEADER + CONTROL_MAX], const struct control *c);

/* Decodes the payload (without the header) of a control datagram. *c is set only on CONTROL_OK. */
enum control_verdict control_decode(struct control *c, const uint8_t *payload, size_t size);

/* A word or two for logs: "refused", "timed out"; never NULL. */
const char *reason_text(enum reason reason);
const char *control_name(enum control_type type);

#endif
