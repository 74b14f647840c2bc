/* SPDX-License-Identifier: ISC */
#include "role/fan.h"

/* Looks that find a flow at rest until it's left one stripe. */
#define STILL_LOOKS 4

/* Looks that new stripes are given: one to get going, two to be judged by. */
#define TRIAL_LOOKS 3

/* Looks before the first trial, by when the flow has left slow start behind, and from one that failed to the next. */
#define PAUSE_FIRST 4
#define PAUSE_MAX 120

/* A flow slower than this, in bytes between looks, isn't held back by the number of its stripes. */
#define WORTH_MIN (64 * 1024)
#define WORTH_STRIPE (8 * 1024)

void fan_init(struct fan *fan, unsigned first, unsigned least, unsigned most)
{
	*fan = (struct fan){
		.least = least,
		.most = most,
		.target = first < least ? least : first < most ? first : most,
		.next_pause = PAUSE_FIRST,
		.pause = PAUSE_FIRST,
	};
}

void fan_bulk(struct fan *fan)
{
	unsigned bulk = fan->most < FAN_BULK ? fan->most : FAN_BULK;

	if (fan->target < bulk)
		fan->target = bulk;
}

/* Twice the stripes should bring about twice the speed where stripes are what's missing: a quarter more is asked for. */
static bool rewarded(const struct fan *fan)
{
	return (fan->rate[0] + fan->rate[1]) / 2 > fan->base + fan->base / 4;
}

static void begin_trial(struct fan *fan)
{
	fan->proven = fan->target;
	fan->base = (fan->rate[0] + fan->rate[1]) / 2;
	fan->looks = 0;
	fan->target = fan->target * 2 < fan->most ? fan->target * 2 : fan->most;
}

static void judge_trial(struct fan *fan)
{
	if (++fan->looks < TRIAL_LOOKS)
		return;
	if (rewarded(fan)) {
		fan->proven = 0;
		fan->next_pause = PAUSE_FIRST;
		if (fan->target < fan->most)
			begin_trial(fan);
		return;
	}
	fan->target = fan->proven;
	fan->proven = 0;
	fan->pause = fan->next_pause;
	fan->next_pause = fan->next_pause * 2 < PAUSE_MAX ? fan->next_pause * 2 : PAUSE_MAX;
}

static bool worth_a_trial(const struct fan *fan)
{
	return fan->target >= FAN_BULK && fan->target < fan->most && fan->rate[0] >= WORTH_MIN &&
	       fan->rate[0] >= (uint64_t)fan->target * WORTH_STRIPE;
}

void fan_look(struct fan *fan, uint64_t moved)
{
	fan->rate[1] = fan->rate[0];
	fan->rate[0] = moved - fan->moved;
	fan->moved = moved;
	if (fan->rate[0] == 0) {
		if (++fan->still == STILL_LOOKS) {
			fan_init(fan, 1, fan->least, fan->most);
			fan->moved = moved;
			fan->still = STILL_LOOKS;
		}
		return;
	}
	fan->still = 0;
	if (fan->proven != 0)
		judge_trial(fan);
	else if (fan->pause > 0)
		fan->pause--;
	else if (worth_a_trial(fan))
		begin_trial(fan);
}
