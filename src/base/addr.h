/* SPDX-License-Identifier: ISC */
#ifndef BASE_ADDR_H
#define BASE_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* An IPv4 or IPv6 address with a port. The family is AF_UNSPEC where there is none. */
union addr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

/* Longest text of an address: "[IPv6%scope]:port" and the terminating zero. */
#define ADDR_TEXT 80

/* The socket calls want to know how much of the union is used. */
socklen_t addr_length(const union addr *a);

/* Port in host order. */
uint16_t addr_port(const union addr *a);
void addr_set_port(union addr *a, uint16_t port);

/*
 * An IPv4 address in IPv6 clothes (::ffff:a.b.c.d), as dual-stack sockets report it, becomes an
 * IPv4 one.
 */
void addr_unmap(union addr *a);

/*
 * Same family, address and port (addr_same_host: port left out). Mapped addresses must have been
 * unmapped.
 */
bool addr_equal(const union addr *a, const union addr *b);
bool addr_same_host(const union addr *a, const union addr *b);

/* Writes "192.0.2.1:80" or "[2001:db8::1]:80" into text and returns text. */
const char *addr_format(const union addr *a, char text[ADDR_TEXT]);

/*
 * Parses "ADDR:PORT", "ADDR", "[IPv6]:PORT", "IPv6" or "PORT" (the last only if any_host, giving
 * [::]) without asking a resolver. default_port 0 means that a port must be given; a given port may
 * be 0 (for listening on any). A mapped address is unmapped. Returns 0, or -1 with *a unchanged if
 * the text is none of these.
 */
int addr_parse(union addr *a, const char *text, uint16_t default_port, bool any_host);

/*
 * Like addr_parse, but a host name is resolved (blocking; for start-up only) and port 0 is refused.
 * Returns 0, or -1 with *why pointing to a constant text.
 */
int addr_resolve(union addr *a, const char *text, uint16_t default_port, const char **why);

/*
 * Kinds of address that a flow can't or shouldn't go to. A mapped address is of the kind that its
 * IPv4 address is.
 */
bool addr_is_loopback(const union addr *a);
bool addr_is_link_local(const union addr *a);
bool addr_is_multicast(const union addr *a);   /* and IPv4 broadcast 255.255.255.255 */
bool addr_is_unspecified(const union addr *a); /* and all of 0.0.0.0/8 */

/*
 * True if this host itself has the address, on any interface, now. Asks the kernel for its route to
 * the address (binding a socket to it would say yes to all where net.ipv4.ip_nonlocal_bind is set),
 * so that addresses that come and go are seen. True also if the kernel can't be asked. routes: a
 * socket of addr_open_routes(), the caller's to close(), for who asks often; else -1.
 */
bool addr_is_local(int routes, const union addr *a);
int addr_open_routes(void);

#endif
