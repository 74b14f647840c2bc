/* SPDX-License-Identifier: ISC */
#include "core/loss.h"

#include "tests/unit/core/pair.h"

static void learn(struct engine *engine, uint32_t packets, uint32_t bad, bool in)
{
	const struct sock_path before = {0};
	struct sock_path now = {.rtt_min = STRIPE_RTT_SHORT};

	if (in) {
		now.received = packets;
		now.disordered = bad;
	} else {
		now.sent = packets;
		now.repeated = bad;
	}
	loss_learn(engine, &before, &now);
}

/* One in 250 that are sent, or in 150 that come. */
START_TEST(test_lossy)
{
	struct engine engine = {.sent = 0};
	const uint32_t enough = _i ? 150 : 250;

	/* As long as nothing is known. */
	ck_assert(loss_is_likely(&engine));
	learn(&engine, 1000, 0, !_i);
	ck_assert(!loss_is_likely(&engine));
	learn(&engine, enough - 1, 1, _i);
	ck_assert(loss_is_likely(&engine));
	learn(&engine, 1, 0, _i);
	ck_assert(!loss_is_likely(&engine));
	/* What was is forgotten. */
	learn(&engine, 1000, 500, _i);
	ck_assert(loss_is_likely(&engine));
	for (int i = 0; i < 1000; i++)
		learn(&engine, 100, 0, _i);
	ck_assert(!loss_is_likely(&engine));
	for (int i = 0; i < 1000; i++)
		learn(&engine, 2 * enough, 1, _i);
	ck_assert(!loss_is_likely(&engine));
	for (int i = 0; i < 1000; i++)
		learn(&engine, enough / 2, 1, _i);
	ck_assert(loss_is_likely(&engine));
	learn(&engine, UINT32_MAX / 2, 0, _i);
	ck_assert(!loss_is_likely(&engine));
}
END_TEST

/* Short paths count as if they lost nothing. */
START_TEST(test_short_path)
{
	const struct sock_path before = {0}, now = {.rtt_min = STRIPE_RTT_SHORT - 1, .sent = 200, .repeated = 50,
						    .received = 100, .disordered = 50};
	struct engine engine = {.sent = 0};

	(void)_i;
	loss_learn(&engine, &before, &now);
	ck_assert(!loss_is_likely(&engine));
	ck_assert(!loss_is_out(&engine));
	ck_assert_uint_eq(engine.sent, 200);
}
END_TEST

/* What is known of the way out only. */
START_TEST(test_way_out)
{
	struct engine engine = {.sent = 0};

	(void)_i;
	ck_assert(loss_is_unknown_out(&engine));
	learn(&engine, 249, 0, false);
	ck_assert(loss_is_unknown_out(&engine));
	learn(&engine, 1, 0, false);
	ck_assert(!loss_is_unknown_out(&engine));
	learn(&engine, 1000, 500, true);
	ck_assert(!loss_is_out(&engine));
	learn(&engine, 10, 2, false);
	ck_assert(loss_is_out(&engine));
}
END_TEST

int main(void)
{
	const struct looped_test tests[] = {
		{test_lossy, 2},
		{test_short_path, 1},
		{test_way_out, 1},
		{NULL, 0},
	};

	return run_looped("loss", tests);
}
