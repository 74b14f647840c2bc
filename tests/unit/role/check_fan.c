/* SPDX-License-Identifier: ISC */
#include "role/fan.h"
#include "../unit.h"

#define MOST 128
#define MB (1024 * 1024)

/* A path where each stripe carries the same, up to a limit; bytes between looks. */
static void run(struct fan *fan, uint64_t *moved, unsigned looks, uint64_t each, uint64_t limit)
{
	uint64_t rate;

	while (looks-- > 0) {
		rate = each * fan->target;
		*moved += rate < limit ? rate : limit;
		fan_look(fan, *moved, 1, 0);
		ck_assert_uint_ge(fan->target, 1);
		ck_assert_uint_le(fan->target, MOST);
	}
}

START_TEST(test_bulk)
{
	struct fan fan;

	fan_init(&fan, 1, 1, MOST, false);
	ck_assert_uint_eq(fan.target, 1);
	fan_bulk(&fan, 1);
	ck_assert_uint_eq(fan.target, FAN_BULK);
	fan_init(&fan, 1, 1, 3, false);
	fan_bulk(&fan, 1);
	ck_assert_uint_eq(fan.target, 3);
}
END_TEST

/* Twice as many where packets get lost; if it turns out that none do, the flow gives back a few at a time, and never begins anew in the middle. */
START_TEST(test_lossy)
{
	struct fan fan;
	uint64_t moved = 0;

	fan_init(&fan, 1, 1, MOST, false);
	fan_note_loss(&fan, true);
	fan_bulk(&fan, 1);
	ck_assert_uint_eq(fan.target, FAN_LOSSY);
	fan.pause = 100; /* no trials */
	for (unsigned looks = 0; looks < 2 * FAN_GROWN; looks++) {
		fan_note_loss(&fan, true);
		fan_look(&fan, moved += MB, 1, 0);
		ck_assert_uint_eq(fan.target, FAN_LOSSY);
	}
	for (unsigned stripes = FAN_LOSSY; stripes > FAN_BULK; stripes -= FAN_STEP) {
		ck_assert_uint_eq(fan.target, stripes);
		fan_note_loss(&fan, false);
		fan_look(&fan, moved += MB, 1, 0);
	}
	for (unsigned looks = 0; looks < 4; looks++) {
		fan_note_loss(&fan, looks % 2 == 0);
		fan_look(&fan, moved += MB, 1, 0);
		ck_assert_uint_eq(fan.target, FAN_BULK);
	}
}
END_TEST

/* Flows side by side have together about what one would have. */
START_TEST(test_shares)
{
	struct fan fan;
	uint64_t moved = 0;

	fan_init(&fan, 1, 1, MOST, false);
	fan_bulk(&fan, 4);
	ck_assert_uint_eq(fan.target, FAN_TOTAL / 4);
	for (unsigned flows = 1; flows < 200; flows++) {
		fan_look(&fan, moved += 20000, flows, 0);
		ck_assert_uint_le(fan.target, flows > 1 ? (FAN_TOTAL + flows - 1) / flows : FAN_BULK);
		ck_assert_uint_ge(fan.target, 1);
	}
	ck_assert_uint_eq(fan.target, 1);
	fan_look(&fan, moved += 20000, 1, 0);
	ck_assert_uint_eq(fan.target, FAN_BULK);
}
END_TEST

/* A path that holds few packets gets few stripes, once the flow has had time to fill it; unless it's CUBIC's. */
START_TEST(test_small_path)
{
	const uint64_t slow = 10 * MB / 16, fast = 16 * slow; /* 10 and 160 Mbit/s */
	struct fan fan;
	uint64_t moved = 0;

	fan_init(&fan, 1, 1, MOST, true);
	fan_bulk(&fan, 1);
	for (unsigned looks = 0; looks < 100; looks++) {
		fan_look(&fan, moved += slow, 1, 30000);
		ck_assert_uint_ge(fan.target, FAN_BULK);
	}
	fan_init(&fan, 1, 1, MOST, false);
	fan_bulk(&fan, 1);
	fan.pause = 100; /* no trials */
	moved = 0;
	for (unsigned looks = 0; looks < FAN_GROWN - 1; looks++) {
		fan_look(&fan, moved += slow, 1, 30000);
		ck_assert_uint_eq(fan.target, FAN_BULK);
	}
	fan_look(&fan, moved += slow, 1, 30000);
	ck_assert_uint_eq(fan.target, 3);
	/* What isn't known anew is as it was, and a little more or less changes nothing. */
	fan_look(&fan, moved += slow, 1, 0);
	ck_assert_uint_eq(fan.target, 3);
	fan_look(&fan, moved += slow, 1, 27000);
	ck_assert_uint_eq(fan.target, 3);
	fan_look(&fan, moved += slow, 1, 1000);
	ck_assert_uint_eq(fan.target, 2);
	fan_look(&fan, moved += slow, 1, 300000);
	ck_assert_uint_eq(fan.target, FAN_BULK);
	fan_look(&fan, moved += slow, 1, 30000);
	ck_assert_uint_eq(fan.target, 3);
	fan_look(&fan, moved += fast, 1, 30000);
	ck_assert_uint_eq(fan.target, FAN_BULK);
}
END_TEST

START_TEST(test_least)
{
	struct fan fan;
	uint64_t moved = 0;

	fan_init(&fan, 1, 5, 5, false);
	ck_assert_uint_eq(fan.target, 5);
	run(&fan, &moved, 50, MB, UINT64_MAX);
	ck_assert_uint_eq(fan.target, 5);
	run(&fan, &moved, 50, 0, 0);
	ck_assert_uint_eq(fan.target, 5);
}
END_TEST

/* Where each stripe adds its share, all are taken, within a dozen seconds. */
START_TEST(test_climbs)
{
	struct fan fan;
	uint64_t moved = 0;

	fan_init(&fan, 1, 1, MOST, false);
	fan_bulk(&fan, 1);
	run(&fan, &moved, 24, MB / 16, UINT64_MAX);
	ck_assert_uint_eq(fan.target, MOST);
	run(&fan, &moved, 200, MB / 16, UINT64_MAX);
	ck_assert_uint_eq(fan.target, MOST);
}
END_TEST

/* Without BBR the first trial doesn't wait as long. */
START_TEST(test_soon)
{
	unsigned looks[2] = {0, 0};

	for (int soon = 0; soon < 2; soon++) {
		struct fan fan;
		uint64_t moved = 0;

		fan_init(&fan, 1, 1, MOST, soon);
		fan_bulk(&fan, 1);
		while (fan.target == FAN_BULK && looks[soon] < 100) {
			run(&fan, &moved, 1, MB / 16, UINT64_MAX);
			looks[soon]++;
		}
		ck_assert_uint_eq(fan.target, 2 * FAN_BULK);
	}
	ck_assert_uint_lt(looks[1], looks[0]);
}
END_TEST

/* Where the path is full with the first, more are tried now and then, and given back. */
START_TEST(test_gives_back)
{
	struct fan fan;
	uint64_t moved = 0;
	unsigned above = 0;

	fan_init(&fan, 1, 1, MOST, false);
	fan_bulk(&fan, 1);
	for (unsigned i = 0; i < 1000; i++) {
		run(&fan, &moved, 1, MB, 4 * MB);
		ck_assert_uint_le(fan.target, 2 * FAN_BULK);
		above += fan.target > FAN_BULK;
	}
	ck_assert_uint_gt(above, 0);
	ck_assert_uint_lt(above, 100);
}
END_TEST

/* It stops where the path is full. */
START_TEST(test_stops)
{
	struct fan fan;
	uint64_t moved = 0;

	fan_init(&fan, 1, 1, MOST, false);
	fan_bulk(&fan, 1);
	run(&fan, &moved, 100, MB / 8, 4 * MB);
	ck_assert_uint_ge(fan.target, 32);
	ck_assert_uint_le(fan.target, 64);
}
END_TEST

/* Slow flows aren't held back by their stripes, and flows at rest keep one. */
START_TEST(test_slow_and_still)
{
	struct fan fan;
	uint64_t moved = 0;

	fan_init(&fan, 1, 1, MOST, false);
	fan_bulk(&fan, 1);
	run(&fan, &moved, 100, 1000, UINT64_MAX);
	ck_assert_uint_eq(fan.target, FAN_BULK);
	run(&fan, &moved, 3, 0, 0);
	ck_assert_uint_eq(fan.target, FAN_BULK);
	run(&fan, &moved, 1, 0, 0);
	ck_assert_uint_eq(fan.target, 1);
	run(&fan, &moved, 100, 0, 0);
	ck_assert_uint_eq(fan.target, 1);
	fan_bulk(&fan, 1);
	ck_assert_uint_eq(fan.target, FAN_BULK);
}
END_TEST

int main(void)
{
	return RUN_TESTS("fan", test_bulk, test_lossy, test_shares, test_small_path, test_least, test_climbs, test_soon, test_gives_back, test_stops,
			 test_slow_and_still);
}
