/* SPDX-License-Identifier: ISC */
#include "base/clock.h"

#include "tests/unit/unit.h"

START_TEST(test_past)
{
	ck_assert(!clock_is_past(1000., 2., 1001.5));
	ck_assert(clock_is_past(1000., 2., 1002.));
	ck_assert(!clock_is_past(1000., 2., 1000.));
	/* Set back. */
	ck_assert(clock_is_past(1000., 2., 999.));
}
END_TEST

START_TEST(test_monotonic)
{
	double before = clock_monotonic();

	ck_assert_double_gt(before, 0.);
	while (clock_monotonic() == before)
		;
	ck_assert_double_gt(clock_monotonic(), before);
}
END_TEST

int main(void)
{
	return RUN_TESTS("clock", test_past, test_monotonic);
}
