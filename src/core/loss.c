/* SPDX-License-Identifier: ISC */
#include "core/engine.h"
#include "core/loss.h"
#include "core/stripe.h"

/* A path is lossy if one packet in so many was retransmitted. When fewer were sent in all it isn't known. */
#define LOSSY 250

/* On the way in, if one in so many was ahead of another: after each that's lost some are. */
#define DISORDERED 150

/* Packets after which what was before them counts half. */
#define PACKETS_LATE 4096

static void count(uint32_t *packets, uint32_t *bad, uint32_t more, uint32_t more_bad)
{
	*packets += more;
	*bad += more_bad;
	while (*packets >= 2 * PACKETS_LATE) {
		*packets /= 2;
		*bad /= 2;
	}
}

void loss_learn(struct engine *engine, const struct sock_path *before, const struct sock_path *now)
{
	/* On a short path TCP itself is quick enough. */
	bool counts = now->rtt_min >= STRIPE_RTT_SHORT;

	count(&engine->sent, &engine->repeated, now->sent - before->sent, counts ? now->repeated - before->repeated : 0);
	count(&engine->received, &engine->disordered, now->received - before->received,
	      counts ? now->disordered - before->disordered : 0);
}

bool loss_is_out(const struct engine *engine)
{
	return engine->repeated * LOSSY > engine->sent;
}

bool loss_is_unknown_out(const struct engine *engine)
{
	return engine->sent < LOSSY;
}

bool loss_is_likely(const struct engine *engine)
{
	return engine->sent + engine->received < LOSSY || loss_is_out(engine) || engine->disordered * DISORDERED > engine->received;
}
