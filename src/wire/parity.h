/* SPDX-License-Identifier: ISC */
#ifndef WIRE_PARITY_H
#define WIRE_PARITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Parity over datagrams of a flow, doc/protocol.md section 3.6: any so many parities of a block
 * make up for as many of its pieces (Reed-Solomon). Pure functions; the caller brings all memory.
 */
#define PARITY_SPAN 256 /* serials that one set can name */
#define PARITY_BLOCK 128 /* most pieces of a block, and most parities of one */
#define PARITY_HEADER 40
#define PARITY_PREFIX 8 /* what stands before a piece's payload where parity is reckoned */

/*
 * Which serials the pieces have: bit i of the set (of byte i / 8, value 1 << i % 8) is the one
 * that is i steps (serial_next) after first. The set's serials are dealt out to the blocks in turn.
 */
struct parity {
	uint32_t first; /* not 0 */
	uint8_t set[PARITY_SPAN / 8];
	uint8_t blocks;
	uint8_t block; /* the one that this is of */
	uint8_t index; /* which of the block's parities */
};

void parity_encode(uint8_t out[PARITY_HEADER], const struct parity *parity);

/*
 * False if it makes no sense: first is 0, there is no such block or index, or any of the blocks has
 * no piece or more than PARITY_BLOCK. Then *parity is not to be used.
 */
bool parity_decode(struct parity *parity, const uint8_t in[PARITY_HEADER]);

/* The serials of its block, in order; returns how many. It must make sense. */
unsigned parity_serials(const struct parity *parity, uint32_t serials[PARITY_BLOCK]);

/*
 * A piece as parity is of it: its size and a checksum, then the payload, then zero bytes up to the
 * length of the longest. Seal puts the first two before the payload of that size. Unseal is false
 * if they don't fit what is behind them: then it was made from other pieces than the peer's.
 */
void parity_seal(uint8_t *piece, uint32_t size);
bool parity_unseal(const uint8_t *piece, size_t length, uint32_t *size);

/* So many parities of k pieces are of use; a receiver takes no more. */
unsigned parity_most(unsigned k);

/* Makes the first m parities of k pieces, all of them length bytes long. k, m <= PARITY_BLOCK. */
void parity_make(unsigned k, unsigned m, size_t length, const uint8_t *const pieces[],
		 uint8_t *const parities[]);

/*
 * pieces[i] is NULL where one is missing, which is at least one; there are as many parities, and
 * their indexes, as missing pieces. Writes these, in order, to found[]. Returns false only if it
 * can't be done, since an index is there twice.
 */
bool parity_recover(unsigned k, size_t length, const uint8_t *const pieces[],
		    const uint8_t indexes[], const uint8_t *const parities[],
		    uint8_t *const found[]);

#endif
