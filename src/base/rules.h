/* SPDX-License-Identifier: ISC */
#ifndef BASE_RULES_H
#define BASE_RULES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/addr.h"

/*
 * An ordered list of "CIDR[:ports]" rules that allow or deny a destination; the first that matches
 * decides.
 */
struct rule;

struct rules {
	struct rule *list;
	size_t count;
};

enum rules_verdict { RULES_NO_MATCH, RULES_ALLOW, RULES_DENY };

/*
 * Appends a rule. text: "10.0.0.0/8", "192.0.2.1:443", "[2001:db8::]/32:80,8000-8100",
 * "2001:db8::/32", "any:25", "any". "any" matches both families. Returns 0, or -1 with *why (a
 * constant text) if it isn't one.
 */
int rules_add(struct rules *rules, bool allow, const char *text, const char **why);

enum rules_verdict rules_judge(const struct rules *rules, const union addr *a);

/* Frees the list; rules itself stays the caller's. */
void rules_clear(struct rules *rules);

#endif
