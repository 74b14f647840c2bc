/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "core/group.h"
#include "core/stripe.h"

/* Steps (headers, pieces of payload) of one stripe before others get their turn. */
#define READ_BUDGET 64

/* A violation of the protocol ends the stripe, and with it the group that it belongs to. */
static void violate(struct stripe *stripe, const char *why)
{
	union addr peer;
	char text[ADDR_TEXT];

	if (sock_peer(stripe->fd, &peer) < 0)
		peer.sa.sa_family = AF_UNSPEC;
	log_warnx("stripe with %s: protocol error: %s", addr_format(&peer, text), why);
	stripe_close(stripe, false, why);
}

static bool take_control(struct stripe *stripe, const struct control *control)
{
	switch (control->type) {
	case CONTROL_PING: {
		struct control pong = {.type = CONTROL_PONG};

		memcpy(pong.ping, control->ping, PING_SIZE);
		stripe_send(stripe, &pong);
		return true;
	}
	case CONTROL_PONG:
		return true;
	case CONTROL_DETACH:
		return stripe_take_detach(stripe);
	case CONTROL_FIN:
	case CONTROL_RESET:
		if (stripe->state == STRIPE_BOUND)
			return group_control(stripe->group, control);
		return stripe->state == STRIPE_LEAVING;
	case CONTROL_OPEN:
	case CONTROL_JOIN:
		/* Who asks anew has seen our Detach, and so all that was before it. */
		return stripe->state == STRIPE_IDLE && hold_empty(&stripe->out.datagram) &&
		       stripe->ops->control(stripe, control);
	default:
		if (stripe->state == STRIPE_LEAVING)
			return true;
		return stripe->state == STRIPE_BOUND && stripe->ops->control(stripe, control);
	}
}

/* These return 1 for done, go on; 0 for wait until readable; -1 for ended (the stripe is closed or no longer to be read). */

static int read_failed(struct stripe *stripe, ssize_t n)
{
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0)
		stripe_close(stripe, false, strerror(errno));
	else if (stripe->base && stripe->state == STRIPE_BOUND && stripe->in.have == 0 && !stripe->in.parsed) {
		stripe->in.eof = true;
		ev_io_stop(stripe->engine->loop, &stripe->rd);
		merge_stripe_ended(stripe->group);
	} else {
		stripe_close(stripe, true, "closed by the peer");
	}
	return -1;
}

static int read_control(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;
	struct control control;
	size_t have = in->datagram.size - in->left;
	ssize_t n = recv(stripe->fd, in->control + have, in->left, MSG_DONTWAIT);

	if (n <= 0)
		return read_failed(stripe, n);
	in->left -= (uint32_t)n;
	if (in->left > 0)
		return 1;
	in->parsed = false;
	switch (control_decode(&control, in->control, in->datagram.size)) {
	case CONTROL_SKIP:
		return 1;
	case CONTROL_OK:
		if (take_control(stripe, &control))
			break;
		log_debug("%s is out of place", control_name(control.type));
		if (!stripe->closed)
			violate(stripe, "control datagram out of place");
		return -1;
	case CONTROL_BAD:
		violate(stripe, "malformed control datagram");
		return -1;
	}
	return stripe->closed ? -1 : 1;
}

static int drop_payload(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;
	ssize_t n;

	if (in->left > 0) {
		n = hold_skip(stripe->engine->pool, stripe->fd, in->left);
		if (n <= 0)
			return read_failed(stripe, n);
		in->left -= (uint32_t)n;
	}
	if (in->left == 0)
		in->parsed = false;
	return 1;
}

static int read_data(struct stripe *stripe)
{
	switch (stripe->state) {
	case STRIPE_BOUND:
		if (stripe->group->merge.current != stripe && !merge_arrived(stripe->group, stripe)) {
			violate(stripe, "a serial that makes no sense");
			return -1;
		}
		if (!stripe->in.parked)
			merge_pump(stripe->group);
		return -1;
	case STRIPE_HELD:
		stripe_park(stripe);
		return -1;
	case STRIPE_LEAVING:
		return drop_payload(stripe);
	case STRIPE_IDLE:
		break;
	}
	violate(stripe, "data on an idle stripe");
	return -1;
}

static bool header_is_sane(const struct stripe *stripe, const struct datagram *datagram)
{
	if (stripe->base)
		return datagram->serial != SERIAL_CONTROL;
	if (datagram->serial == SERIAL_CONTROL)
		return datagram->size >= CONTROL_MIN && datagram->size <= CONTROL_MAX;
	return datagram->size <= DATAGRAM_MAX_EXTENDED;
}

static int read_header(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;
	ssize_t n;

	if (in->have < DATAGRAM_HEADER) {
		n = recv(stripe->fd, in->header + in->have, DATAGRAM_HEADER - in->have, MSG_DONTWAIT);
		if (n <= 0)
			return read_failed(stripe, n);
		in->have += (uint8_t)n;
		if (in->have < DATAGRAM_HEADER)
			return 1;
	}
	in->datagram = datagram_decode(in->header);
	in->have = 0;
	if (!header_is_sane(stripe, &in->datagram)) {
		violate(stripe, "malformed datagram header");
		return -1;
	}
	in->left = in->datagram.size;
	in->parsed = true;
	return 1;
}

void stripe_read(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;
	int result = 1;

	for (unsigned i = 0; result == 1 && !in->parked && !in->eof && !stripe->closed; i++) {
		if (i == READ_BUDGET) {
			stripe_read_later(stripe);
			return;
		}
		if (!in->parsed)
			result = read_header(stripe);
		else if (in->datagram.serial == SERIAL_CONTROL)
			result = read_control(stripe);
		else
			result = read_data(stripe);
	}
	if (result == 0)
		ev_io_start(stripe->engine->loop, &stripe->rd);
}
