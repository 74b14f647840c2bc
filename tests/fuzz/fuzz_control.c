/* SPDX-License-Identifier: ISC */
/* Input: the payload of a control datagram. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "wire/control.h"

/* What was understood can be sent again, and then means the same. */
static void check_again(const struct control *c, size_t size)
{
	uint8_t once[DATAGRAM_HEADER + CONTROL_MAX], twice[DATAGRAM_HEADER + CONTROL_MAX];
	struct control again;

	MUST(control_encode(once, c) == DATAGRAM_HEADER + size);
	MUST(datagram_decode(once).serial == SERIAL_CONTROL);
	MUST(datagram_decode(once).size == size);
	MUST(control_decode(&again, once + DATAGRAM_HEADER, size) == CONTROL_OK);
	MUST(control_encode(twice, &again) == DATAGRAM_HEADER + size);
	MUST(memcmp(once, twice, DATAGRAM_HEADER + size) == 0);
}

/* The optional type that's known. */
static bool is_worn(const uint8_t *data)
{
	return data[0] == 0x80 && data[1] == 0x01;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct control c;
	enum control_verdict verdict = control_decode(&c, data, size);

	if (size < CONTROL_MIN || size > CONTROL_MAX)
		MUST(verdict == CONTROL_BAD);
	else if ((data[0] & 0x80) && !is_worn(data))
		MUST(verdict == CONTROL_SKIP);
	else
		MUST(verdict == CONTROL_OK || verdict == CONTROL_BAD);
	if (verdict != CONTROL_OK)
		return 0;
	MUST(strcmp(control_name(c.type), "unknown") != 0);
	if (c.type == CONTROL_FAILED)
		MUST(c.reason < REASON_COUNT);
	if (c.type == CONTROL_RESET)
		MUST(c.reset.reason < REASON_COUNT);
	if (c.type == CONTROL_NUMBER)
		MUST(c.number.reason < REASON_COUNT);
	if (c.type == CONTROL_OPEN)
		MUST(addr_length(&c.open.destination) > 0 && addr_length(&c.open.client) > 0 &&
		     addr_port(&c.open.destination) != 0);
	check_again(&c, size);
	return 0;
}
