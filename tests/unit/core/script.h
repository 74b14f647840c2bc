/* SPDX-License-Identifier: ISC */
#ifndef SCRIPT_H
#define SCRIPT_H

#include "tests/unit/core/pair.h"

/* What the peer sends on a raw stripe, all of it made before: for tests that send anything, in pieces of any length, to a client that reads when it likes. */
struct script {
	uint8_t *bytes;
	size_t length, room;
	size_t at; /* so much of it was sent */
};

/* From 0 to sides - 1, as srandom() has it. */
size_t dice(size_t sides);

void script_open(struct script *script, size_t room);
void script_append(struct script *script, const void *bytes, size_t n);
void script_header(struct script *script, uint32_t serial, size_t size, uint32_t flags);

/* Bytes of pattern(1, ...), in one piece. */
void script_pattern(uint8_t *bytes, size_t offset, size_t size);

/* Sends the scripts from first to end - 1, each on the stripe of its number, by as many bytes at a time as some() says, while the client reads. */
void scripts_play(struct pair *pair, struct script scripts[], unsigned first, unsigned end, size_t (*some)(void), struct pour *out);

/* The client gets all of so many datagrams, and the flow ends, after which nothing is left on the stripes. Frees the scripts. */
void scripts_finish(struct pair *pair, struct script scripts[], unsigned count, uint32_t datagrams, struct pour *out);

#endif
