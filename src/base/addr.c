/* SPDX-License-Identifier: ISC */
#include "base/addr.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The longest host name of DNS (RFC 1035, 2.3.4), and enough for an IPv6 address with scope. */
#define HOST_TEXT 256

socklen_t addr_length(const union addr *a)
{
	switch (a->sa.sa_family) {
	case AF_INET:
		return sizeof(a->in);
	case AF_INET6:
		return sizeof(a->in6);
	default:
		return 0;
	}
}

uint16_t addr_port(const union addr *a)
{
	switch (a->sa.sa_family) {
	case AF_INET:
		return ntohs(a->in.sin_port);
	case AF_INET6:
		return ntohs(a->in6.sin6_port);
	default:
		return 0;
	}
}

void addr_set_port(union addr *a, uint16_t port)
{
	if (a->sa.sa_family == AF_INET)
		a->in.sin_port = htons(port);
	else if (a->sa.sa_family == AF_INET6)
		a->in6.sin6_port = htons(port);
}

void addr_unmap(union addr *a)
{
	union addr v4 = { .in.sin_family = AF_INET };

	if (a->sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
		return;
	v4.in.sin_port = a->in6.sin6_port;
	memcpy(&v4.in.sin_addr, &a->in6.sin6_addr.s6_addr[12], sizeof(v4.in.sin_addr));
	*a = v4;
}

bool addr_same_host(const union addr *a, const union addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family)
		return false;
	switch (a->sa.sa_family) {
	case AF_INET:
		return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	case AF_INET6:
		return IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr);
	default:
		return true;
	}
}

bool addr_equal(const union addr *a, const union addr *b)
{
	return addr_same_host(a, b) && addr_port(a) == addr_port(b);
}

const char *addr_format(const union addr *a, char text[ADDR_TEXT])
{
	char host[INET6_ADDRSTRLEN], name[IF_NAMESIZE];
	char scope[IF_NAMESIZE + 1] = "";

	switch (a->sa.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof(host));
		snprintf(text, ADDR_TEXT, "%s:%u", host, addr_port(a));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
		if (a->in6.sin6_scope_id && if_indextoname(a->in6.sin6_scope_id, name))
			snprintf(scope, sizeof(scope), "%%%s", name);
		else if (a->in6.sin6_scope_id)
			snprintf(scope, sizeof(scope), "%%%u", a->in6.sin6_scope_id);
		snprintf(text, ADDR_TEXT, "[%s%s]:%u", host, scope, addr_port(a));
		break;
	default:
		snprintf(text, ADDR_TEXT, "(none)");
	}
	return text;
}

/* Digits only. Returns the port, or -1. */
static int parse_port(const char *text)
{
	size_t digits = strspn(text, "0123456789");
	unsigned long port;

	if (digits == 0 || digits > 5 || text[digits] != '\0')
		return -1;
	port = strtoul(text, NULL, 10);
	return port <= UINT16_MAX ? (int)port : -1;
}

/* An address without brackets and port, IPv6 also with a scope. Sets all of *a; its port is 0. */
static int parse_host(union addr *a, const char *text)
{
	const char *scope = strchr(text, '%');
	size_t length = scope ? (size_t)(scope - text) : strlen(text);
	char host[INET6_ADDRSTRLEN];

	memset(a, 0, sizeof(*a));
	if (inet_pton(AF_INET, text, &a->in.sin_addr) == 1) {
		a->sa.sa_family = AF_INET;
		return 0;
	}
	if (length >= sizeof(host))
		return -1;
	memcpy(host, text, length);
	host[length] = '\0';
	if (inet_pton(AF_INET6, host, &a->in6.sin6_addr) != 1)
		return -1;
	a->sa.sa_family = AF_INET6;
	if (scope) {
		a->in6.sin6_scope_id = if_nametoindex(scope + 1);
		if (a->in6.sin6_scope_id == 0)
			return -1;
	}
	return 0;
}

/*
 * Takes "HOST", "HOST:PORT", "[IPv6]" or "[IPv6]:PORT" apart; without brackets, two colons make it
 * an IPv6 address that has no port. *port is -1 where the text names none. Returns 0, or -1 if it's
 * none of these.
 */
static int split(char host[HOST_TEXT], int *port, const char *text)
{
	const char *start = text, *end, *colon;

	*port = -1;
	if (*text == '[') {
		start = text + 1;
		end = strchr(start, ']');
		if (!end || (end[1] != '\0' && end[1] != ':') || !memchr(start, ':', end - start))
			return -1;
		colon = end[1] == ':' ? end + 1 : NULL;
	} else {
		colon = strchr(text, ':');
		if (colon && strchr(colon + 1, ':'))
			colon = NULL;
		end = colon ? colon : text + strlen(text);
	}
	if (end == start || end - start >= HOST_TEXT)
		return -1;
	memcpy(host, start, end - start);
	host[end - start] = '\0';
	if (colon)
		*port = parse_port(colon + 1);
	return colon && *port < 0 ? -1 : 0;
}

int addr_parse(union addr *a, const char *text, uint16_t default_port, bool any_host)
{
	char host[HOST_TEXT];
	union addr parsed;
	int port = any_host ? parse_port(text) : -1;

	if (port >= 0) {
		*a = (union addr){ .in6.sin6_family = AF_INET6 };
		addr_set_port(a, port);
		return 0;
	}
	if (split(host, &port, text) < 0 || parse_host(&parsed, host) < 0)
		return -1;
	if (port < 0 && default_port == 0)
		return -1;
	addr_set_port(&parsed, port < 0 ? default_port : port);
	addr_unmap(&parsed);
	*a = parsed;
	return 0;
}

int addr_resolve(union addr *a, const char *text, uint16_t default_port, const char **why)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *found;
	char host[HOST_TEXT];
	union addr parsed;
	int port, error;

	*why = "it is not HOST:PORT";
	if (split(host, &port, text) < 0)
		return -1;
	*why = "the port is missing";
	if (port < 0 && default_port == 0)
		return -1;
	*why = "the port must be from 1 to 65535";
	if (port == 0)
		return -1;
	if (parse_host(&parsed, host) < 0) {
		/* getaddrinfo() takes "10.1" for 10.0.0.1: a typing error more likely than not. */
		*why = "it is not an address";
		if (strchr(host, ':') || strchr(host, '%') ||
		    strspn(host, "0123456789.") == strlen(host))
			return -1;
		error = getaddrinfo(host, NULL, &hints, &found);
		*why = gai_strerror(error);
		if (error)
			return -1;
		memset(&parsed, 0, sizeof(parsed));
		memcpy(&parsed, found->ai_addr, found->ai_addrlen);
		freeaddrinfo(found);
	}
	addr_set_port(&parsed, port < 0 ? default_port : port);
	addr_unmap(&parsed);
	*a = parsed;
	return 0;
}

/*
 * The IPv4 address of a, in host order, also if it wears IPv6 clothes: a question about an address
 * must get the same answer however it was written. False if a is another IPv6 address.
 */
static bool ipv4_of(const union addr *a, uint32_t *v4)
{
	union addr plain = *a;

	addr_unmap(&plain);
	*v4 = ntohl(plain.in.sin_addr.s_addr);
	return plain.sa.sa_family == AF_INET;
}

bool addr_is_loopback(const union addr *a)
{
	uint32_t v4;

	if (ipv4_of(a, &v4))
		return v4 >> 24 == 127;
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

bool addr_is_link_local(const union addr *a)
{
	uint32_t v4;

	if (ipv4_of(a, &v4))
		return v4 >> 16 == 0xa9fe; /* 169.254.0.0/16 */
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&a->in6.sin6_addr);
}

bool addr_is_multicast(const union addr *a)
{
	uint32_t v4;

	if (ipv4_of(a, &v4))
		return IN_MULTICAST(v4) || v4 == INADDR_BROADCAST;
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_MULTICAST(&a->in6.sin6_addr);
}

bool addr_is_unspecified(const union addr *a)
{
	uint32_t v4;

	if (ipv4_of(a, &v4))
		return v4 >> 24 == 0;
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
}
