/* SPDX-License-Identifier: ISC */
#include "role/fan.h"

/* Looks that find a flow at rest until it's left the least. */
#define STILL_LOOKS 4

/* Looks that new stripes are given: one to get going, two to be judged by. */
#define TRIAL_LOOKS 3

/*
 * Looks before the first trial, by when the flow has left slow start behind, and from one that failed to the next. Without BBR what makes more stripes
 * worthwhile is loss, which ends slow start soon.
 */
#define PAUSE_FIRST FAN_GROWN
#define PAUSE_FIRST_SOON 1
#define PAUSE_MAX 120

/* A flow slower than this, in bytes between looks, isn't held back by the number of its stripes. */
#define WORTH_MIN (64 * 1024)
#define WORTH_STRIPE (8 * 1024)

/* Bytes that a stripe has under way if it's of use: BBR never has less than four packets. And stripes that a flow may have in any case. */
#define USEFUL (8 * 1448)
#define USEFUL_MIN 2

static unsigned first_pause(bool soon)
{
	return soon ? PAUSE_FIRST_SOON : PAUSE_FIRST;
}

void fan_init(struct fan *fan, unsigned first, unsigned least, unsigned most, bool soon)
{
	*fan = (struct fan){
		.least = least,
		.most = most,
		.target = first < least ? least : first < most ? first : most,
		.soon = soon,
		.whole = FAN_BULK,
		.useful = FAN_LOSSY,
		.next_pause = first_pause(soon),
		.pause = first_pause(soon),
	};
}

void fan_note_loss(struct fan *fan, bool lossy)
{
	if (lossy && fan->age < FAN_GROWN)
		fan->whole = FAN_LOSSY;
	else if (!lossy && fan->whole > FAN_BULK)
		fan->whole -= FAN_STEP;
}

static unsigned bound(const struct fan *fan, unsigned target)
{
	return target < fan->least ? fan->least : target < fan->most ? target : fan->most;
}

/* Sees how many stripes can be of use to the flow, once it has reached its speed. */
static void judge_use(struct fan *fan)
{
	uint64_t rate = fan->rate[0] > fan->rate[1] ? fan->rate[0] : fan->rate[1];
	double stripes = (double)rate / FAN_INTERVAL * fan->rtt / 1e6 / USEFUL;

	if (fan->soon || fan->rtt == 0 || fan->age < FAN_GROWN || stripes >= fan->whole)
		fan->useful = fan->whole;
	else if (stripes < fan->useful * 0.75 || stripes > fan->useful)
		fan->useful = stripes > USEFUL_MIN ? (unsigned)stripes : USEFUL_MIN;
}

/* What a bulk flow has without having earned more. */
static unsigned share(const struct fan *fan, unsigned flows)
{
	unsigned part = flows > 1 ? FAN_TOTAL / flows : fan->whole;

	return bound(fan, part < fan->useful ? part : fan->useful);
}

static unsigned ceiling(const struct fan *fan, unsigned flows)
{
	return bound(fan, flows > 1 ? fan->most / flows : fan->most);
}

void fan_bulk(struct fan *fan, unsigned flows)
{
	fan->bulk = true;
	if (fan->target < share(fan, flows))
		fan->target = share(fan, flows);
}

bool fan_is_busy(const struct fan *fan)
{
	return fan->rate[0] >= FAN_BULK_BYTES;
}

/* Twice the stripes should bring about twice the speed where stripes are what's missing: a quarter more is asked for. */
static bool rewarded(const struct fan *fan)
{
	return (fan->rate[0] + fan->rate[1]) / 2 > fan->base + fan->base / 4;
}

static void begin_trial(struct fan *fan, unsigned most)
{
	fan->proven = fan->target;
	fan->base = (fan->rate[0] + fan->rate[1]) / 2;
	fan->looks = 0;
	fan->target = fan->target * 2 < most ? fan->target * 2 : most;
}

static void judge_trial(struct fan *fan, unsigned most)
{
	if (++fan->looks < TRIAL_LOOKS)
		return;
	if (rewarded(fan)) {
		fan->proven = 0;
		fan->earned = true;
		fan->next_pause = first_pause(fan->soon);
		if (fan->target < most)
			begin_trial(fan, most);
		return;
	}
	fan->target = fan->proven;
	fan->proven = 0;
	fan->pause = fan->next_pause;
	fan->next_pause = fan->next_pause * 2 < PAUSE_MAX ? fan->next_pause * 2 : PAUSE_MAX;
}

static bool worth_a_trial(const struct fan *fan, unsigned most)
{
	return fan->bulk && fan->target < most && fan->rate[0] >= WORTH_MIN &&
	       fan->rate[0] >= (uint64_t)fan->target * WORTH_STRIPE;
}

/* Flows that came, or went, change what is this one's due. */
static void share_again(struct fan *fan, unsigned flows)
{
	unsigned most = fan->earned ? ceiling(fan, flows) : share(fan, flows);

	if (!fan->bulk || fan->proven != 0)
		return;
	if (fan->target > most) {
		fan->target = most;
		/* What it gains by more must be seen against what it has with these. */
		fan->pause = fan->pause > TRIAL_LOOKS ? fan->pause : TRIAL_LOOKS;
	} else if (fan->target < share(fan, flows))
		fan->target = share(fan, flows);
}

static void rest(struct fan *fan)
{
	uint64_t moved = fan->moved;

	if (++fan->still != STILL_LOOKS)
		return;
	fan_init(fan, 1, fan->least, fan->most, fan->soon);
	fan->moved = moved;
	fan->still = STILL_LOOKS;
}

void fan_look(struct fan *fan, uint64_t moved, unsigned flows, uint32_t rtt)
{
	unsigned most = ceiling(fan, flows);

	fan->rate[1] = fan->rate[0];
	fan->rate[0] = moved - fan->moved;
	fan->moved = moved;
	fan->rtt = rtt != 0 ? rtt : fan->rtt;
	if (fan->rate[0] == 0) {
		rest(fan);
		return;
	}
	fan->still = 0;
	fan->age += fan_is_busy(fan) && fan->age < FAN_GROWN;
	judge_use(fan);
	share_again(fan, flows);
	if (fan->proven != 0)
		judge_trial(fan, most);
	else if (fan->pause > 0)
		fan->pause--;
	else if (worth_a_trial(fan, most))
		begin_trial(fan, most);
}
