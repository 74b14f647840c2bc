/* SPDX-License-Identifier: ISC */
#include "wire/control.h"

#include <netinet/in.h>
#include <string.h>

#include "wire/bytes.h"

/* Type and zero, in front of the body. */
#define PREFIX 4

/* family, zero, port, address */
#define ENDPOINT_ADDRESS 4
#define ENDPOINT_SIZE 20

static const struct type {
	enum control_type type;
	const char *name;
	size_t body; /* bytes */
} types[] = {
	{ CONTROL_OPEN, "Open", TOKEN_SIZE + 2 * ENDPOINT_SIZE },
	{ CONTROL_JOIN, "Join", TOKEN_SIZE },
	{ CONTROL_NUMBER, "Number", 8 },
	{ CONTROL_CONNECTED, "Connected", 0 },
	{ CONTROL_FAILED, "Failed", 4 },
	{ CONTROL_FIN, "Fin", 4 },
	{ CONTROL_RESET, "Reset", 8 },
	{ CONTROL_DETACH, "Detach", 0 },
	{ CONTROL_PING, "Ping", PING_SIZE },
	{ CONTROL_PONG, "Pong", PING_SIZE },
	{ CONTROL_WORN, "Worn", 0 },
};
#define TYPE_COUNT (sizeof(types) / sizeof(types[0]))

static const char *const reasons[REASON_COUNT] = {
	[REASON_NONE] = "none",
	[REASON_REFUSED] = "refused",
	[REASON_UNREACHABLE] = "unreachable",
	[REASON_TIMED_OUT] = "timed out",
	[REASON_FORBIDDEN] = "forbidden",
	[REASON_NO_GROUP] = "no such group",
	[REASON_OVERLOADED] = "overloaded",
	[REASON_INTERNAL] = "internal",
	[REASON_RESET] = "reset",
	[REASON_PROTOCOL] = "protocol",
	[REASON_STRIPE_LOST] = "stripe lost",
	[REASON_SHUTDOWN] = "shutdown",
};

static void endpoint_encode(uint8_t out[ENDPOINT_SIZE], const union addr *a)
{
	memset(out, 0, ENDPOINT_SIZE);
	put_u16(out + 2, addr_port(a));
	if (a->sa.sa_family == AF_INET) {
		out[0] = 4;
		memcpy(out + ENDPOINT_ADDRESS, &a->in.sin_addr, sizeof(a->in.sin_addr));
	} else {
		out[0] = 6;
		memcpy(out + ENDPOINT_ADDRESS, &a->in6.sin6_addr, sizeof(a->in6.sin6_addr));
	}
}

static int endpoint_decode(union addr *a, const uint8_t in[ENDPOINT_SIZE])
{
	static const uint8_t zero[ENDPOINT_SIZE];
	const uint8_t *address = in + ENDPOINT_ADDRESS;
	const size_t v4 = sizeof(a->in.sin_addr);

	memset(a, 0, sizeof(*a));
	if (in[0] == 4) {
		a->sa.sa_family = AF_INET;
		memcpy(&a->in.sin_addr, address, v4);
		if (memcmp(address + v4, zero, ENDPOINT_SIZE - ENDPOINT_ADDRESS - v4) != 0)
			return -1;
	} else if (in[0] == 6) {
		a->sa.sa_family = AF_INET6;
		memcpy(&a->in6.sin6_addr, address, sizeof(a->in6.sin6_addr));
	} else {
		return -1;
	}
	addr_set_port(a, get_u16(in + 2));
	return 0;
}

/* Who does not know a reason takes it as Internal. */
static enum reason reason_decode(const uint8_t *in)
{
	uint32_t reason = get_u32(in);

	return reason < REASON_COUNT ? (enum reason)reason : REASON_INTERNAL;
}

static void body_encode(uint8_t *body, const struct control *c)
{
	switch (c->type) {
	case CONTROL_OPEN:
		memcpy(body, c->open.token, TOKEN_SIZE);
		endpoint_encode(body + TOKEN_SIZE, &c->open.destination);
		endpoint_encode(body + TOKEN_SIZE + ENDPOINT_SIZE, &c->open.client);
		break;
	case CONTROL_JOIN:
		memcpy(body, c->join.token, TOKEN_SIZE);
		break;
	case CONTROL_NUMBER:
		put_u32(body, c->number.number);
		put_u32(body + 4, c->number.reason);
		break;
	case CONTROL_FAILED:
		put_u32(body, c->reason);
		break;
	case CONTROL_RESET:
		put_u32(body, c->reset.reason);
		put_u32(body + 4, c->reset.serial);
		break;
	case CONTROL_FIN:
		put_u32(body, c->serial);
		break;
	case CONTROL_PING:
	case CONTROL_PONG:
		memcpy(body, c->ping, PING_SIZE);
		break;
	case CONTROL_CONNECTED:
	case CONTROL_DETACH:
	case CONTROL_WORN:
		break;
	}
}

/* NULL if it isn't known. */
static const struct type *find(enum control_type type)
{
	for (size_t i = 0; i < TYPE_COUNT; i++) {
		if (types[i].type == type)
			return &types[i];
	}
	return NULL;
}

size_t control_encode(uint8_t out[DATAGRAM_HEADER + CONTROL_MAX], const struct control *c)
{
	const size_t size = PREFIX + find(c->type)->body;
	uint8_t *payload = out + DATAGRAM_HEADER;

	datagram_encode(out, SERIAL_CONTROL, size);
	put_u16(payload, c->type);
	put_u16(payload + 2, 0);
	body_encode(payload + PREFIX, c);
	return DATAGRAM_HEADER + size;
}

/* The body has the size of its type. */
static int body_decode(struct control *c, const uint8_t *body)
{
	switch (c->type) {
	case CONTROL_OPEN:
		memcpy(c->open.token, body, TOKEN_SIZE);
		if (endpoint_decode(&c->open.destination, body + TOKEN_SIZE) < 0 ||
		    endpoint_decode(&c->open.client, body + TOKEN_SIZE + ENDPOINT_SIZE) < 0)
			return -1;
		return addr_port(&c->open.destination) == 0 ? -1 : 0;
	case CONTROL_JOIN:
		memcpy(c->join.token, body, TOKEN_SIZE);
		break;
	case CONTROL_NUMBER:
		c->number.number = get_u32(body);
		c->number.reason = reason_decode(body + 4);
		break;
	case CONTROL_FAILED:
		c->reason = reason_decode(body);
		break;
	case CONTROL_RESET:
		c->reset.reason = reason_decode(body);
		c->reset.serial = get_u32(body + 4);
		break;
	case CONTROL_FIN:
		c->serial = get_u32(body);
		break;
	case CONTROL_PING:
	case CONTROL_PONG:
		memcpy(c->ping, body, PING_SIZE);
		break;
	case CONTROL_CONNECTED:
	case CONTROL_DETACH:
	case CONTROL_WORN:
		break;
	}
	return 0;
}

enum control_verdict control_decode(struct control *c, const uint8_t *payload, size_t size)
{
	struct control decoded = { 0 };
	const struct type *type;

	if (size < CONTROL_MIN || size > CONTROL_MAX)
		return CONTROL_BAD;
	type = find(get_u16(payload));
	if (type == NULL)
		return get_u16(payload) & CONTROL_OPTIONAL ? CONTROL_SKIP : CONTROL_BAD;
	if (size != PREFIX + type->body)
		return CONTROL_BAD;
	decoded.type = type->type;
	if (body_decode(&decoded, payload + PREFIX) < 0)
		return CONTROL_BAD;
	*c = decoded;
	return CONTROL_OK;
}

const char *reason_text(enum reason reason)
{
	return (unsigned)reason < REASON_COUNT ? reasons[reason] : "unknown";
}

const char *control_name(enum control_type type)
{
	const struct type *known = find(type);

	return known != NULL ? known->name : "unknown";
}
