/* SPDX-License-Identifier: ISC */
#include "base/rules.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PORT_RANGES_MAX 16

/* All that a rule's first part can be long: "[", an IPv6 address, "]/128". */
#define NETWORK_TEXT (INET6_ADDRSTRLEN + 8)

struct port_range {
	uint16_t low, high;
};

struct rule {
	bool allow;
	sa_family_t family; /* AF_UNSPEC: any */
	unsigned bits;
	uint8_t network[sizeof(struct in6_addr)];
	size_t range_count; /* 0: all ports */
	struct port_range ranges[PORT_RANGES_MAX];
};

/* Reads a decimal number up to max and moves *text behind it. Returns -1 if there is none. */
static long read_number(const char **text, long max)
{
	long value = 0;
	const char *p = *text;

	while (*p >= '0' && *p <= '9' && value <= max)
		value = 10 * value + (*p++ - '0');
	if (p == *text || value > max)
		return -1;
	*text = p;
	return value;
}

/* "80,443,8000-8100" */
static int parse_ports(struct rule *rule, const char *text, const char **why)
{
	long low, high;

	do {
		*why = "a port or a range of ports is from 1 to 65535";
		low = high = read_number(&text, UINT16_MAX);
		if (*text == '-') {
			text++;
			high = read_number(&text, UINT16_MAX);
		}
		if (low < 1 || high < low || (*text != '\0' && *text != ','))
			return -1;
		*why = "a rule has at most 16 ports or ranges";
		if (rule->range_count == PORT_RANGES_MAX)
			return -1;
		rule->ranges[rule->range_count++] = (struct port_range){ low, high };
	} while (*text++ == ',');
	return 0;
}

/* An IPv4 network that is written as an IPv6 one must match what is judged as IPv4. */
static void unmap(struct rule *rule)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (rule->family != AF_INET6 || rule->bits < 96 || memcmp(rule->network, mapped, 12) != 0)
		return;
	rule->family = AF_INET;
	rule->bits -= 96;
	memmove(rule->network, rule->network + 12, 4);
}

/* "10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "[2001:db8::]/32", "any"; text is changed. */
static int parse_network(struct rule *rule, char *text)
{
	const char *slash = strchr(text, '/');
	long width, bits;

	if (strcmp(text, "any") == 0) {
		rule->family = AF_UNSPEC;
		return 0;
	}
	text[slash ? (size_t)(slash - text) : strlen(text)] = '\0';
	if (*text == '[') {
		if (text[strlen(text) - 1] != ']')
			return -1;
		text[strlen(text) - 1] = '\0';
		if (inet_pton(AF_INET6, text + 1, rule->network) == 1)
			rule->family = AF_INET6;
	} else if (inet_pton(AF_INET, text, rule->network) == 1) {
		rule->family = AF_INET;
	} else if (inet_pton(AF_INET6, text, rule->network) == 1) {
		rule->family = AF_INET6;
	}
	if (rule->family == AF_UNSPEC)
		return -1;
	width = rule->family == AF_INET ? 32 : 128;
	bits = width;
	if (slash) {
		slash++;
		bits = read_number(&slash, width);
		if (bits < 0 || *slash != '\0')
			return -1;
	}
	rule->bits = bits;
	unmap(rule);
	return 0;
}

/*
 * Where the ports begin: behind "any", "]", or an address that has no other colon. NULL if there
 * are none.
 */
static const char *find_ports(const char *text)
{
	const char *bracket = strchr(text, ']');
	const char *colon = strchr(bracket ? bracket : text, ':');

	return colon && !strchr(colon + 1, ':') ? colon : NULL;
}

int rules_add(struct rules *rules, bool allow, const char *text, const char **why)
{
	struct rule rule = { .allow = allow };
	const char *colon = find_ports(text);
	size_t length = colon ? (size_t)(colon - text) : strlen(text);
	char network[NETWORK_TEXT];
	struct rule *list;

	*why = "it is not any[:PORTS] or ADDRESS/BITS[:PORTS], IPv6 as [ADDRESS]/BITS[:PORTS]";
	if (length >= sizeof(network))
		return -1;
	memcpy(network, text, length);
	network[length] = '\0';
	if (parse_network(&rule, network) < 0)
		return -1;
	if (colon && parse_ports(&rule, colon + 1, why) < 0)
		return -1;
	*why = "out of memory";
	list = realloc(rules->list, (rules->count + 1) * sizeof(*list));
	if (!list)
		return -1;
	rules->list = list;
	rules->list[rules->count++] = rule;
	return 0;
}

static bool same_network(const uint8_t *a, const uint8_t *b, unsigned bits)
{
	const unsigned whole = bits / 8, rest = bits % 8;

	return memcmp(a, b, whole) == 0 && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0);
}

static bool matches_port(const struct rule *rule, uint16_t port)
{
	for (size_t i = 0; i < rule->range_count; i++)
		if (port >= rule->ranges[i].low && port <= rule->ranges[i].high)
			return true;
	return rule->range_count == 0;
}

static bool matches(const struct rule *rule, const union addr *a)
{
	const bool v4 = a->sa.sa_family == AF_INET;
	const void *bytes = v4 ? (const void *)&a->in.sin_addr : &a->in6.sin6_addr;

	if (rule->family != AF_UNSPEC &&
	    (rule->family != a->sa.sa_family || !same_network(rule->network, bytes, rule->bits)))
		return false;
	return matches_port(rule, addr_port(a));
}

enum rules_verdict rules_judge(const struct rules *rules, const union addr *a)
{
	union addr plain = *a;

	addr_unmap(&plain);
	for (size_t i = 0; i < rules->count; i++)
		if (matches(&rules->list[i], &plain))
			return rules->list[i].allow ? RULES_ALLOW : RULES_DENY;
	return RULES_NO_MATCH;
}

void rules_clear(struct rules *rules)
{
	free(rules->list);
	*rules = (struct rules){ 0 };
}
