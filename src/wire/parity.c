/* SPDX-License-Identifier: ISC */
#include "wire/parity.h"

#include <isa-l/crc.h>
#include <isa-l/erasure_code.h>
#include <string.h>

#include "wire/bytes.h"
#include "wire/datagram.h"

/* Where the fields stand. */
#define SET 4
#define BLOCKS (SET + PARITY_SPAN / 8)
#define BLOCK (BLOCKS + 1)
#define INDEX (BLOCK + 1)
#define ZERO (INDEX + 1)

_Static_assert(ZERO + 1 == PARITY_HEADER, "layout of the header");
_Static_assert(2 * PARITY_BLOCK <= 256, "pieces and parities are different numbers of the field");

/* ISA-L wants a table for each coefficient: those of all rows are too much for the stack. */
#define TABLE 32
#define ROWS 8

static bool in_set(const struct parity *parity, unsigned bit)
{
	return parity->set[bit / 8] & 1 << bit % 8;
}

/* As they are dealt out in turn, blocks differ by one piece at most. */
static bool makes_sense(const struct parity *parity)
{
	unsigned pieces = 0;

	for (unsigned bit = 0; bit < PARITY_SPAN; bit++)
		pieces += in_set(parity, bit);
	return parity->first != 0 && parity->block < parity->blocks &&
	       parity->index < PARITY_BLOCK && pieces >= parity->blocks &&
	       pieces <= (unsigned)parity->blocks * PARITY_BLOCK;
}

void parity_encode(uint8_t out[PARITY_HEADER], const struct parity *parity)
{
	put_u32(out, parity->first);
	memcpy(out + SET, parity->set, sizeof(parity->set));
	out[BLOCKS] = parity->blocks;
	out[BLOCK] = parity->block;
	out[INDEX] = parity->index;
	out[ZERO] = 0;
}

bool parity_decode(struct parity *parity, const uint8_t in[PARITY_HEADER])
{
	parity->first = get_u32(in);
	memcpy(parity->set, in + SET, sizeof(parity->set));
	parity->blocks = in[BLOCKS];
	parity->block = in[BLOCK];
	parity->index = in[INDEX];
	return makes_sense(parity);
}

unsigned parity_serials(const struct parity *parity, uint32_t serials[PARITY_BLOCK])
{
	uint32_t serial = parity->first;
	unsigned count = 0, turn = 0;

	for (unsigned bit = 0; bit < PARITY_SPAN; bit++, serial = serial_next(serial)) {
		if (in_set(parity, bit) && turn++ % parity->blocks == parity->block)
			serials[count++] = serial;
	}
	return count;
}

/*
 * A lost packet holds up all that is behind it on its stripe: at 1 % loss, of a megabyte on 24
 * stripes, a tenth to a third of the pieces. And more cost much: the matrix is inverted.
 */
unsigned parity_most(unsigned k)
{
	return k / 2 + 4 < k ? k / 2 + 4 : k;
}

/* CRC-32C, but not inverted in the end. ISA-L doesn't change the payload, whatever its type. */
static uint32_t checksum(const uint8_t *payload, uint32_t size)
{
	return crc32_iscsi((uint8_t *)payload, (int)size, 0xffffffffu);
}

void parity_seal(uint8_t *piece, uint32_t size)
{
	put_u32(piece, size);
	put_u32(piece + 4, checksum(piece + PARITY_PREFIX, size));
}

bool parity_unseal(const uint8_t *piece, size_t length, uint32_t *size)
{
	if (length < PARITY_PREFIX)
		return false;
	*size = get_u32(piece);
	return *size <= length - PARITY_PREFIX &&
	       get_u32(piece + 4) == checksum(piece + PARITY_PREFIX, *size);
}

/* These make a Cauchy matrix: any square part of it can be inverted. */
static uint8_t coefficient(unsigned k, unsigned index, unsigned piece)
{
	return gf_inv((k + index) ^ piece);
}

/* outputs = matrix * sources. ISA-L changes neither of these two, but its types don't say so. */
static void multiply(unsigned k, unsigned rows, size_t length, const uint8_t *matrix,
		     const uint8_t *const sources[], uint8_t *const outputs[])
{
	uint8_t tables[ROWS * PARITY_BLOCK * TABLE];

	for (unsigned row = 0; row < rows; row += ROWS) {
		unsigned n = rows - row < ROWS ? rows - row : ROWS;

		ec_init_tables(k, n, (uint8_t *)matrix + row * k, tables);
		ec_encode_data(length, k, n, tables, (uint8_t **)sources,
			       (uint8_t **)outputs + row);
	}
}

void parity_make(unsigned k, unsigned m, size_t length, const uint8_t *const pieces[],
		 uint8_t *const parities[])
{
	uint8_t matrix[PARITY_BLOCK * PARITY_BLOCK];

	for (unsigned index = 0; index < m; index++) {
		for (unsigned piece = 0; piece < k; piece++)
			matrix[index * k + piece] = coefficient(k, index, piece);
	}
	multiply(k, m, length, matrix, pieces, parities);
}

/*
 * The missing pieces as sums of what came. order: the numbers of the pieces that came, and then of
 * those that are missing. Each row of the matrix is one that is missing; its columns are the pieces
 * that came, and then the parities. False: these don't tell.
 */
static bool solve(unsigned k, unsigned missing, const uint8_t order[], const uint8_t indexes[],
		  uint8_t *matrix)
{
	uint8_t square[PARITY_BLOCK * PARITY_BLOCK], inverse[PARITY_BLOCK * PARITY_BLOCK];
	unsigned came = k - missing;

	for (unsigned p = 0; p < missing; p++) {
		for (unsigned i = 0; i < missing; i++)
			square[p * missing + i] = coefficient(k, indexes[p], order[came + i]);
	}
	if (gf_invert_matrix(square, inverse, missing) < 0)
		return false;
	for (unsigned i = 0; i < missing; i++, matrix += k) {
		const uint8_t *row = inverse + i * missing;

		memset(matrix, 0, came);
		for (unsigned p = 0; p < missing; p++) {
			for (unsigned c = 0; c < came; c++)
				matrix[c] ^= gf_mul(row[p], coefficient(k, indexes[p], order[c]));
		}
		memcpy(matrix + came, row, missing);
	}
	return true;
}

bool parity_recover(unsigned k, size_t length, const uint8_t *const pieces[],
		    const uint8_t indexes[], const uint8_t *const parities[],
		    uint8_t *const found[])
{
	uint8_t order[PARITY_BLOCK], matrix[PARITY_BLOCK * PARITY_BLOCK];
	const uint8_t *sources[PARITY_BLOCK];
	unsigned came = 0, missing = 0;

	for (unsigned i = 0; i < k; i++) {
		if (pieces[i] == NULL)
			continue;
		sources[came] = pieces[i];
		order[came++] = i;
	}
	for (unsigned i = 0; i < k; i++) {
		if (pieces[i] != NULL)
			continue;
		sources[came + missing] = parities[missing];
		order[came + missing++] = i;
	}
	if (!solve(k, missing, order, indexes, matrix))
		return false;
	multiply(k, missing, length, matrix, sources, found);
	return true;
}
