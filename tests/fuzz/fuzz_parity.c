/* SPDX-License-Identifier: ISC */
/* Input: the header of a parity, and a piece, which is as good as any for all of its block. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "wire/datagram.h"
#include "wire/parity.h"

static void check_header(const struct parity *parity, const uint8_t *data)
{
	uint8_t again[PARITY_HEADER];
	uint32_t serials[PARITY_BLOCK];
	unsigned n = parity_serials(parity, serials);

	parity_encode(again, parity);
	MUST(memcmp(again, data, PARITY_HEADER - 1) == 0 && again[PARITY_HEADER - 1] == 0);
	MUST(n >= 1 && n <= PARITY_BLOCK);
	for (unsigned i = 0; i < n; i++) {
		MUST(serials[i] != 0);
		MUST(serial_distance(parity->first, serials[i]) < PARITY_SPAN);
		MUST(i == 0 || serial_rises(serials[i - 1], serials[i]));
	}
}

/* All pieces of the block are the same. The last is missing, and this parity of them comes. */
static void check_recovery(const struct parity *parity, const uint8_t *piece, size_t length)
{
	const uint8_t *pieces[PARITY_BLOCK], *parities[1];
	uint8_t *made[PARITY_BLOCK], *found[1];
	uint8_t *memory = malloc((PARITY_BLOCK + 1) * (length + 1));
	uint32_t serials[PARITY_BLOCK];
	unsigned k = parity_serials(parity, serials);

	MUST(memory);
	for (unsigned i = 0; i < PARITY_BLOCK; i++) {
		pieces[i] = piece;
		made[i] = memory + i * length;
	}
	found[0] = memory + PARITY_BLOCK * length;
	parity_make(k, parity->index + 1, length, pieces, made);
	parities[0] = made[parity->index];
	pieces[k - 1] = NULL;
	MUST(parity_recover(k, length, pieces, &parity->index, parities, found));
	MUST(memcmp(found[0], piece, length) == 0);
	free(memory);
}

/* What is taken is what a sender would have made of it. */
static void check_seal(const uint8_t *piece, size_t length)
{
	uint32_t size;
	uint8_t *again;

	if (!parity_unseal(piece, length, &size))
		return;
	MUST(length >= PARITY_PREFIX && size <= length - PARITY_PREFIX);
	again = malloc(length);
	MUST(again);
	memset(again, 0, PARITY_PREFIX);
	memcpy(again + PARITY_PREFIX, piece + PARITY_PREFIX, length - PARITY_PREFIX);
	parity_seal(again, size);
	MUST(memcmp(again, piece, length) == 0);
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct parity parity;

	if (size < PARITY_HEADER)
		return 0;
	check_seal(data + PARITY_HEADER, size - PARITY_HEADER);
	if (!parity_decode(&parity, data))
		return 0;
	check_header(&parity, data);
	check_recovery(&parity, data + PARITY_HEADER, size - PARITY_HEADER);
	return 0;
}
