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

/* What arrives later by this part of the time arrives about as soon: round trips are not known better. */
#define SAME 8

/* One stripe in so many, fresh, is kept for what is overdue. */
#define KEPT 12

/* Seconds for which the path of a stripe that may carry a copy is believed to be as it was. */
#define SPARE_AGE 0.02

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

/* Only where another stripe will take what there is, sooner or later: its socket says when. */
static bool keeps_spares(const struct group *group)
{
	const struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!stripe->out.spare && stripe_works(stripe) && !stripe->out.path.stalled)
			return repeat_wanted(group, stripe);
	}
	return false;
}

/* The window lets the smallest of datagrams go, or has nothing else to let go. */
static bool has_window(const struct sock_path *path)
{
	return used(path) == 0 || room(path) >= DATAGRAM_PACKETS_MIN * clamp(path->mss, MSS_MIN, MSS_MAX);
}

/* How soon it would bring a datagram; NEVER if it may not have it. even: the flow is one that repeats what it sends. */
static uint64_t arrival_on(const struct group *group, const struct stripe *stripe, bool even)
{
	const struct spread *spread = &group->spread;
	uint64_t arrival;

	if (!stripe_can_take(stripe) || (stripe->out.spare && even))
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

/* In steps of two of the smallest datagrams: so those that a burst doesn't need are left for copies. */
static uint32_t load(const struct sock_path *path)
{
	return used(path) / (2 * DATAGRAM_PACKETS_MIN * clamp(path->mss, MSS_MIN, MSS_MAX));
}

/* Of those by which it arrives in time, the one with least under way: a loss holds up all that is behind it, but nothing on other stripes. */
static struct stripe *least_used(const struct group *group, uint64_t in_time)
{
	struct stripe *stripe, *best = NULL;
	uint32_t load_here, least = UINT32_MAX;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (arrival_on(group, stripe, true) > in_time)
			continue;
		load_here = load(&stripe->out.path);
		if (load_here < least || (load_here == least && stripe == group->spread.last)) {
			least = load_here;
			best = stripe;
		}
	}
	return best;
}

struct stripe *choose_stripe(struct group *group)
{
	struct stripe *stripe, *best = NULL;
	uint64_t arrival, earliest = NEVER;
	bool even = keeps_spares(group);

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		arrival = arrival_on(group, stripe, even);
		if (arrival < earliest) {
			earliest = arrival;
			best = stripe;
		}
	}
	return even && best != NULL ? least_used(group, earliest + earliest / SAME) : best;
}

/* fresh_too: it may be one that has carried nothing yet. */
static bool may_repeat(const struct stripe *stripe, uint32_t serial, bool fresh_too)
{
	return stripe_works(stripe) && serial_rises(stripe->out.last, serial) && (stripe->out.last != 0 || fresh_too);
}

static uint32_t spare_room(struct stripe *stripe)
{
	stripe_look(stripe, SPARE_AGE);
	return stripe->out.path.stalled ? 0 : room(&stripe->out.path);
}

/* Stripes that have carried nothing yet, beyond those that are kept for what is overdue. */
static unsigned fresh_ones(const struct group *group)
{
	unsigned fresh = 0, kept = group->stripe_count / KEPT;
	const struct stripe *stripe;

	TAILQ_FOREACH(stripe, &group->stripes, group_link)
		fresh += stripe_works(stripe) && stripe->out.last == 0;
	return fresh > kept ? fresh - kept : 0;
}

uint64_t choose_spare_room(struct group *group, uint32_t serial)
{
	unsigned fresh = fresh_ones(group);
	struct stripe *stripe;
	uint64_t bytes = 0;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		if (!may_repeat(stripe, serial, fresh > 0))
			continue;
		bytes += spare_room(stripe);
		fresh -= stripe->out.last == 0;
	}
	return bytes;
}

/* Microseconds until the last of so many bytes has left: BBR sends one packet after the other. */
static uint64_t leaves_in(const struct stripe *stripe, uint32_t size)
{
	const struct sock_path *path = &stripe->out.path;

	return stripe->out.settled ? (uint64_t)(path->unsent + size) * SECOND / rate(path) : 0;
}

struct stripe *choose_spare(struct group *group, uint32_t serial, uint32_t size, bool overdue)
{
	bool fresh_too = overdue || fresh_ones(group) > 0;
	struct stripe *stripe, *best = NULL;
	uint64_t leaves, soonest = UINT64_MAX;

	TAILQ_FOREACH(stripe, &group->stripes, group_link) {
		/* Asked last: to look for the room may show that it's full. */
		if (!may_repeat(stripe, serial, fresh_too) || spare_room(stripe) < size || !stripe_can_take(stripe))
			continue;
		leaves = leaves_in(stripe, size);
		/* What a lost packet holds up on one stripe isn't held up on the others: the fewer copies on each, the better. */
		if (leaves > soonest || (leaves == soonest && used(&stripe->out.path) >= used(&best->out.path)))
			continue;
		soonest = leaves;
		best = stripe;
	}
	return best;
}
