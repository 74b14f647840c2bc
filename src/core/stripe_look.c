/* SPDX-License-Identifier: ISC */
#include "base/clock.h"
#include "core/choose.h"
#include "core/loss.h"
#include "core/stripe.h"

/* Packets: the window of a new connection (TCP_INIT_CWND in include/net/tcp.h). */
#define WINDOW_FIRST 10

/* Losses have made the window smaller than it was at first. */
static bool is_shrunk(const struct sock_path *path)
{
	return path->window < WINDOW_FIRST * path->mss;
}

/* No further packet may go. */
static bool is_limiting(const struct sock_path *path)
{
	return path->flying + path->unsent + path->mss > path->window;
}

void stripe_look(struct stripe *stripe, ev_tstamp max_age)
{
	struct stripe_out *out = &stripe->out;
	ev_tstamp now = ev_now(stripe->engine->loop);
	struct sock_path before = out->path;
	uint32_t limit;

	if (out->path_at != 0. && !clock_is_past(out->path_at, max_age, now))
		return;
	if (sock_path(stripe->fd, &out->path) < 0)
		return;
	out->path_at = now;
	loss_learn(stripe->engine, &before, &out->path);
	/* A small window that's large enough stays as it is: BBR would send what it lets go packet by packet. */
	if (is_shrunk(&out->path) && is_limiting(&out->path))
		stripe_settle(stripe);
	/* But for BBR, the next byte makes it begin anew: tcp_slow_start_after_idle_check() in include/net/tcp.h. */
	if (out->path.rested && !out->settled && !is_shrunk(&out->path))
		out->path.window = WINDOW_FIRST * out->path.mss;
	limit = choose_unsent(&out->path);
	if (limit > out->unsent_limit + out->unsent_limit / 4 || limit < out->unsent_limit - out->unsent_limit / 4) {
		sock_set_unsent(stripe->fd, limit);
		out->unsent_limit = limit;
	}
	/* The socket becomes writable again below half its limit: tcp_stream_memory_free() in include/net/tcp.h. */
	if (out->path.unsent >= out->unsent_limit / 2) {
		out->writable = false;
		ev_io_start(stripe->engine->loop, &stripe->wr);
	}
}

void stripe_settle(struct stripe *stripe)
{
	const struct sock_path *path = &stripe->out.path;

	if (stripe->out.settled || (path->rtt_min < STRIPE_RTT_SHORT && !is_shrunk(path)))
		return;
	stripe->out.settled = true;
	sock_set_congestion(stripe->fd, stripe->engine->settings.congestion);
}

bool stripe_is_worn(const struct stripe *stripe)
{
	const struct stripe_out *out = &stripe->out;
	const struct sock_path *path = &out->path;
	/* What BBR has it lets go packet by packet. */
	uint32_t good = (out->settled ? 2 : 1) * WINDOW_FIRST * path->mss;

	if (out->governed || path->rtt_min < STRIPE_RTT_SHORT || engine_is_crowded(stripe->engine))
		return false;
	return path->window < good && path->rtt <= path->rtt_min + path->rtt_min / 4;
}
