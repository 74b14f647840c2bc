/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "core/gather.h"
#include "core/group.h"
#include "core/stripe.h"

/* Steps (headers, pieces of payload) of one stripe before others get their turn. */
#define READ_BUDGET 64

/* A violation of the protocol ends the group, or the stripe where it has none. */
static void violate(struct stripe *stripe, const char *why)
{
	union addr peer;
	char text[ADDR_TEXT];

	if (sock_peer(stripe->fd, &peer) < 0)
		peer.sa.sa_family = AF_UNSPEC;
	log_warnx("stripe with %s: protocol error: %s", addr_format(&peer, text), why);
	if (stripe->state == STRIPE_BOUND)
		group_end(stripe->group, GROUP_ABORT, REASON_PROTOCOL);
	else
		stripe_close(stripe, false, why);
}

/* Who sends a Ping on an idle stripe has seen our Detach, and so all that was before it; and who answers one, too. */
static void hear(struct stripe *stripe)
{
	if (stripe->closed || stripe->state != STRIPE_IDLE || !stripe->unheard)
		return;
	stripe->unheard = false;
	if (stripe->ops->heard != NULL)
		stripe->ops->heard(stripe);
}

static bool take_control(struct stripe *stripe, const struct control *control)
{
	switch (control->type) {
	case CONTROL_PING: {
		struct control pong = {.type = CONTROL_PONG};

		memcpy(pong.ping, control->ping, PING_SIZE);
		stripe_send(stripe, &pong);
		hear(stripe);
		return true;
	}
	case CONTROL_PONG:
		hear(stripe);
		return true;
	case CONTROL_WORN:
		stripe->worn = true;
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
	else if (stripe->base && stripe->state == STRIPE_BOUND && stripe->in.ahead.n == 0 && !stripe->in.parsed) {
		stripe->in.eof = true;
		ev_io_stop(stripe->engine->loop, &stripe->rd);
		merge_stripe_ended(stripe->group);
	} else {
		stripe_close(stripe, true, "closed by the peer");
	}
	return -1;
}

bool stripe_borrow_ahead(struct stripe *stripe)
{
	struct hold_ahead *ahead = &stripe->in.ahead;
	struct engine *engine = stripe->engine;

	if (ahead->bytes != NULL)
		return true;
	*ahead = (struct hold_ahead){.bytes = engine->spare, .size = HOLD_AHEAD};
	engine->spare = NULL;
	if (ahead->bytes == NULL)
		ahead->bytes = malloc(HOLD_AHEAD);
	if (ahead->bytes == NULL)
		ahead->size = 0;
	return ahead->bytes != NULL;
}

void stripe_release_ahead(struct stripe *stripe)
{
	struct hold_ahead *ahead = &stripe->in.ahead;
	struct engine *engine = stripe->engine;

	if (ahead->bytes == NULL || ahead->n > 0)
		return;
	if (engine->spare == NULL)
		engine->spare = ahead->bytes;
	else
		free(ahead->bytes);
	*ahead = (struct hold_ahead){0};
}

/* Makes sure that n bytes are read ahead, and takes more along where that can't spoil a splice. */
static int read_ahead(struct stripe *stripe, size_t n)
{
	struct stripe_in *in = &stripe->in;
	struct hold_ahead *ahead = &in->ahead;
	size_t room;
	ssize_t got;

	if (ahead->n >= n)
		return 1;
	if (in->drained)
		return 0;
	if (!stripe_borrow_ahead(stripe)) {
		stripe_close(stripe, false, "out of memory");
		return -1;
	}
	memmove(ahead->bytes, ahead->bytes + ahead->start, ahead->n);
	ahead->start = 0;
	room = (in->bulk ? n : HOLD_AHEAD) - ahead->n;
	got = recv(stripe->fd, ahead->bytes + ahead->n, room, MSG_DONTWAIT);
	if (got <= 0)
		return read_failed(stripe, got);
	ahead->n += (uint16_t)got;
	in->drained = (size_t)got < room;
	return ahead->n >= n ? 1 : 0;
}

bool stripe_data_is_next(const struct stripe *stripe)
{
	const struct stripe_in *in = &stripe->in;

	if (in->parsed)
		return in->datagram.serial != SERIAL_CONTROL;
	return in->ahead.n >= DATAGRAM_HEADER &&
	       datagram_decode(in->ahead.bytes + in->ahead.start).serial != SERIAL_CONTROL;
}

static int read_control(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;
	const uint8_t *body;
	struct control control;
	int result = read_ahead(stripe, in->datagram.size);

	if (result != 1)
		return result;
	body = in->ahead.bytes + in->ahead.start;
	hold_take_ahead(&in->ahead, in->datagram.size);
	in->parsed = false;
	switch (control_decode(&control, body, in->datagram.size)) {
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

int stripe_skip(struct stripe *stripe, uint32_t n)
{
	struct stripe_in *in = &stripe->in;
	uint32_t lead = n < in->ahead.n ? n : in->ahead.n;
	ssize_t got;

	hold_take_ahead(&in->ahead, lead);
	in->left -= lead;
	if (n == lead)
		return 1;
	got = hold_skip(stripe->engine->pool, stripe->fd, n - lead);
	if (got <= 0)
		return read_failed(stripe, got);
	in->left -= (uint32_t)got;
	return 1;
}

/* Copies what has come of the payload to out; n says how much. 1 if that's all of it. */
static int take(struct stripe *stripe, uint8_t *out, uint32_t *n)
{
	struct stripe_in *in = &stripe->in;
	uint32_t wanted = in->left;
	ssize_t got = 0;

	*n = wanted < in->ahead.n ? wanted : in->ahead.n;
	if (*n > 0)
		memcpy(out, in->ahead.bytes + in->ahead.start, *n);
	hold_take_ahead(&in->ahead, *n);
	if (*n < wanted && !in->drained) {
		got = recv(stripe->fd, out + *n, wanted - *n, MSG_DONTWAIT);
		if (got == 0 || (got < 0 && errno != EAGAIN))
			return read_failed(stripe, got);
		*n += got > 0 ? (uint32_t)got : 0;
	}
	in->left -= *n;
	if (in->left > 0)
		in->drained = true;
	return in->left > 0 ? 0 : 1;
}

static int drop_payload(struct stripe *stripe)
{
	int result = stripe_skip(stripe, stripe->in.left);

	if (stripe->in.left == 0)
		stripe->in.parsed = false;
	return result;
}

/* Reads on in what is gathered. */
static int gather(struct stripe *stripe)
{
	struct gather_piece *piece = stripe->in.piece;
	size_t before = stripe->in.parity ? 0 : PARITY_PREFIX;
	uint32_t n;
	int result = take(stripe, piece->bytes + before + piece->got, &n);

	if (result < 0)
		return result;
	piece->got += n;
	if (result == 0)
		return 0;
	stripe->in.parsed = false;
	if (!gather_whole(stripe)) {
		violate(stripe, "a parity that makes no sense");
		return -1;
	}
	merge_pump(stripe->group);
	return stripe->closed ? -1 : 1;
}

static int read_parity(struct stripe *stripe)
{
	if (!stripe->in.late && gather_begin(stripe))
		return gather(stripe);
	stripe->in.late = true;
	return drop_payload(stripe);
}

static int read_data(struct stripe *stripe)
{
	switch (stripe->state) {
	case STRIPE_BOUND:
		if (stripe->in.piece != NULL)
			return gather(stripe);
		if (stripe->in.parity)
			return read_parity(stripe);
		if (stripe->group->merge.current != stripe && !merge_arrived(stripe->group, stripe)) {
			violate(stripe, "a serial that makes no sense");
			return -1;
		}
		if (stripe->in.late)
			return drop_payload(stripe);
		if (stripe->in.piece != NULL)
			return gather(stripe);
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
	if (stripe->in.parity)
		return !stripe->in.kept && datagram->size > PARITY_HEADER + PARITY_PREFIX &&
		       datagram->size <= PARITY_HEADER + PARITY_PREFIX + DATAGRAM_KEPT_MAX;
	return datagram->size <= (stripe->in.kept ? DATAGRAM_KEPT_MAX : DATAGRAM_MAX_EXTENDED);
}

static void take_flags(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;

	in->kept = in->parity = false;
	if (!stripe->parity || in->datagram.serial == SERIAL_CONTROL)
		return;
	in->kept = in->datagram.size & DATAGRAM_KEPT;
	in->parity = in->datagram.size & DATAGRAM_PARITY;
	in->datagram.size &= ~(DATAGRAM_KEPT | DATAGRAM_PARITY);
}

static int read_header(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;
	int result = read_ahead(stripe, DATAGRAM_HEADER);

	if (result != 1)
		return result;
	in->datagram = datagram_decode(in->ahead.bytes + in->ahead.start);
	hold_take_ahead(&in->ahead, DATAGRAM_HEADER);
	take_flags(stripe);
	if (!header_is_sane(stripe, &in->datagram)) {
		violate(stripe, "malformed datagram header");
		return -1;
	}
	in->left = in->datagram.size;
	in->parsed = true;
	in->known = in->late = false;
	if (in->datagram.serial != SERIAL_CONTROL)
		in->bulk = in->left >= STRIPE_BULK;
	return 1;
}

void stripe_read(struct stripe *stripe)
{
	struct stripe_in *in = &stripe->in;
	int result = 1;

	for (unsigned i = 0; result == 1 && !in->parked && !in->eof && !stripe->closed; i++) {
		if (i == READ_BUDGET) {
			stripe_read_later(stripe);
			break;
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
	stripe_release_ahead(stripe);
}
