/* SPDX-License-Identifier: ISC */
/*
 * Input: a text, of which the first byte's lowest bits say whether a port and a host may be
 * missing.
 */
#include <string.h>

#include "base/addr.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char formatted[ADDR_TEXT], *text;
	union addr a, again;
	int kinds;

	if (size == 0)
		return 0;
	text = malloc(size);
	MUST(text);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (addr_parse(&a, text, data[0] & 1 ? 9300 : 0, data[0] & 2) == 0) {
		MUST(addr_length(&a) > 0);
		addr_format(&a, formatted);
		MUST(strlen(formatted) < ADDR_TEXT);
		MUST(addr_parse(&again, formatted, 0, false) == 0);
		MUST(addr_equal(&a, &again) && addr_same_host(&a, &again));
		kinds = addr_is_loopback(&a) + addr_is_link_local(&a) + addr_is_multicast(&a) +
			addr_is_unspecified(&a);
		MUST(kinds <= 1);
	}
	free(text);
	return 0;
}
