/* SPDX-License-Identifier: ISC */
/* Input: 19 bytes of an address (family, port, IPv6 or IPv4 address), then rules, one a line. */
#include <arpa/inet.h>
#include <string.h>

#include "base/rules.h"
#include "tests/fuzz/fuzz.h"

#define ADDRESS 19

static union addr address_of(const uint8_t data[ADDRESS])
{
	union addr a = { 0 };

	if (data[0] & 1) {
		a.in6.sin6_family = AF_INET6;
		memcpy(&a.in6.sin6_addr, data + 3, sizeof(a.in6.sin6_addr));
	} else {
		a.in.sin_family = AF_INET;
		memcpy(&a.in.sin_addr, data + 3, sizeof(a.in.sin_addr));
	}
	addr_set_port(&a, data[1] << 8 | data[2]);
	return a;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rules rules = { 0 };
	char *text, *rest, *line;
	union addr a;

	if (size < ADDRESS)
		return 0;
	a = address_of(data);
	text = rest = strndup((const char *)data + ADDRESS, size - ADDRESS);
	MUST(text);
	while ((line = strsep(&rest, "\n"))) {
		const enum rules_verdict before = rules_judge(&rules, &a);
		const size_t count = rules.count;
		const char *why = NULL;

		if (rules_add(&rules, count % 2, line, &why) < 0)
			MUST(why && rules.count == count);
		else
			MUST(rules.count == count + 1);
		/* The first that matches decides: a later rule changes nothing. */
		if (before != RULES_NO_MATCH)
			MUST(rules_judge(&rules, &a) == before);
	}
	rules_clear(&rules);
	free(text);
	return 0;
}
