/* SPDX-License-Identifier: ISC */
#include "core/choose.h"
#include "core/govern.h"

/* A datagram is what the stripe will have sent in this time, within bounds. Microseconds, packets and bytes. */
#define DATAGRAM_TIME 8000
#define DATAGRAM_PACKETS_MIN 3
#define DATAGRAM_SIZE_MAX (256 * 1024)

/* What a datagram is taken to have when it's asked where it would arrive first. */
#define SIZE_USUAL 4096

/* Unsent data in the kernel that keeps the stripe busy until we are back. */
#define UNSENT_TIME 8000
#define UNSENT_MIN 8192
#define UNSENT_MAX (512 * 1024)

/* Bytes of payload in a packet: what is believed of it. */
#define MSS_MIN 512
#define MSS_MAX 9000

/* Rate that a stripe is taken to have before the kernel knows one, bytes a second. */
#define RATE_UNKNOWN 125000

#define SECOND 1000000
#define NEVER UINT64_MAX

/* What a covered flow's datagram may arrive later by, as a part of the time, for the sake of evenness. */
#define LATE 2

/* It may have so many times as much under way as the others on average. */
#define LOAD_MAX 2

/* Seconds for which the path of a stripe that is full is believed to be as it was. */
#define FULL_AGE 0.1

/* Microseconds that a parity may leave later for each byte less that is before it on its stripe, a lost packet of which would hold it up. */
#define BEHIND 7 / 10

/* Seconds for which the path of a stripe that may carry a parity is believed to be as it was. */
#define PARITY_AGE 0.02

/* What the pacing rate, which is of better times, and the window, which BBR keeps small while it probes for the round trip, let go. */
static uint64_t rate(const struct sock_path *path)
{
	uint64_t pacing = path->pacing > 0 && path->pacing != UINT64_MAX ? path->pacing : RATE_UNKNOWN;
	uint64_t windowed = path->rtt > 0 ? (uint64_t)path->window * SECOND / path->rtt : pacing;

	return windowed < pacing ? windowed + 1 : pacing;
}

static uint32_t clamp(uint64_t value, uint32_t min, uint32_t max)
{
	return value < min ? min : value > max ? max : (uint32_t)value;
}

static uint32_t used(const struct sock_path *path)
{
	return path->flying + path->unsent;
}

/* Bytes that the congestion window lets go now, beyond what waits already. */
static uint32_t room(const struct sock_path *path)
{
	return path->window > used(path) ? path->window - used(path) : 0;
}

uint32_t choose_unsent(const struct sock_path *path)
{
	return clamp(rate(path) * UNSENT_TIME / SECOND * 2, UNSENT_MIN, UNSENT_MAX);
}

uint32_t choose_size(const struct stripe *stripe, uint64_t room)
{
	const struct sock_path *path = &stripe->out.path;
	uint64_t size = rate(path) * DATAGRAM_TIME / SECOND;
	uint32_t mss = clamp(path->mss, MSS_MIN, MSS_MAX), packets;

	/* With its header it fills whole packets. It matters on slow stripes, whose datagrams are of few. */
	packets = (clamp(size < room ? size : room, 1, DATAGRAM_SIZE_MAX) + DATAGRAM_HEADER) / mss;
	return (packets > DATAGRAM_PACKETS_MIN ? packets : DATAGRAM_PACKETS_MIN) * mss - DATAGRAM_HEADER;
}

uint64_t choose_arrival(const struct sock_path *path, uint32_t size)
{
	uint32_t free_room = room(path);
	uint64_t wait = path->unsent, time = path->rtt / 2;

	/* What the window doesn't let go has to wait for acknowledgements: up to a round trip if all of it was sent at once. */
	if (size > free_room) {
		wait += size - free_room;
		time += path->rtt / 2;
	}
	return time + wait * SECOND / rate(path);
}

static bool is_covered(const struct group *group)
{
	const struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (stripe_works(stripe) && !stripe->out.path.stalled)
			return cover_is_wanted(group, stripe);
	}
	return false;
}

/* The window lets the smallest of datagrams go, or has nothing else to let go. */
static bool has_window(const struct sock_path *path)
{
	return used(path) == 0 || room(path) >= DATAGRAM_PACKETS_MIN * clamp(path->mss, MSS_MIN, MSS_MAX);
}

/* How soon it would bring a datagram; NEVER if it may not have it. even: the flow is one that is covered. */
static uint64_t arrival_on(const struct group *group, const struct stripe *stripe, bool even)
{
	const struct spread *spread = &group->spread;
	uint64_t arrival;

	if (!stripe_can_take(stripe))
		return NEVER;
	/* What waits for a window waits a round trip, while those of other stripes open. */
	if (govern_in_startup(group) && !has_window(&stripe->out.path))
		return NEVER;
	arrival = choose_arrival(&stripe->out.path, SIZE_USUAL);
	if (stripe->out.path.stalled)
		arrival += SECOND;
	/* Data that comes piece by piece stays on one stripe: nothing has to wait for another's piece. */
	if (stripe == spread->last && !spread->bulk && !(even && spread->full))
		arrival -= arrival / 4;
	return arrival;
}

/* In steps of two of the smallest datagrams: what follows another at once mostly stays on its stripe. */
static uint32_t load(const struct sock_path *path)
{
	return used(path) / (2 * DATAGRAM_PACKETS_MIN * clamp(path->mss, MSS_MIN, MSS_MAX));
}

/* True if it will take more as soon as its socket has sent what it has. */
static bool is_full(struct stripe *stripe)
{
	if (!stripe_works(stripe) || stripe_can_take(stripe))
		return false;
	stripe_look(stripe, FULL_AGE);
	return !stripe->out.path.stalled;
}

/*
 * Of those by which it arrives in time, the one with least under way: a loss holds up all that is behind it, but nothing on other stripes. NULL if it has
 * far more than others, which are only full for now: they send slowly, since they were used little before, and would be used little for ever.
 */
static struct stripe *least_used(struct group *group, uint64_t in_time)
{
	struct stripe *stripe, *best = NULL;
	uint32_t load_here, most, least = UINT32_MAX, sum = 0, n = 0;
	bool in;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		in = arrival_on(group, stripe, true) <= in_time;
		load_here = load(&stripe->out.path);
		if (in || is_full(stripe)) {
			sum += load_here;
			n++;
		}
		if (!in)
			continue;
		if (load_here < least || (load_here == least && stripe == group->spread.last)) {
			least = load_here;
			best = stripe;
		}
	}
	most = LOAD_MAX * (sum / n) + 1;
	/* While it's covered there's a tick, which tries again. */
	if (group->cover == NULL || least <= most)
		return best;
	stripe_look(best, FULL_AGE);
	return load(&best->out.path) <= most ? best : NULL;
}

struct stripe *choose_stripe(struct group *group)
{
	struct stripe *stripe, *best = NULL;
	uint64_t arrival, earliest = NEVER;
	bool even = is_covered(group);

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		arrival = arrival_on(group, stripe, even);
		if (arrival < earliest) {
			earliest = arrival;
			best = stripe;
		}
	}
	return even && best != NULL ? least_used(group, earliest + earliest / LATE) : best;
}

/* Microseconds until the last of so many bytes has left: BBR sends one packet after the other. */
static uint64_t leaves_in(const struct stripe *stripe, uint32_t size)
{
	const struct sock_path *path = &stripe->out.path;

	return stripe->out.settled ? (uint64_t)(path->unsent + size) * SECOND / rate(path) : 0;
}

struct stripe *choose_for_parity(struct group *group, uint32_t size)
{
	uint64_t cost, least = UINT64_MAX;
	struct stripe *stripe, *best = NULL;

	/* Where windows have no room for the flow itself, what opens is for that. */
	if (spread_is_blocked(group))
		return NULL;
	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!stripe->parity || !stripe_can_take(stripe))
			continue;
		stripe_look(stripe, PARITY_AGE);
		/* To look may show that it's full. */
		if (stripe->out.path.stalled || room(&stripe->out.path) < size || !stripe_can_take(stripe))
			continue;
		cost = leaves_in(stripe, size) + (uint64_t)used(&stripe->out.path) * BEHIND;
		if (cost < least) {
			least = cost;
			best = stripe;
		}
	}
	return best;
}
