/* SPDX-License-Identifier: ISC */
#include <time.h>

#include "base/clock.h"

double clock_monotonic(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

bool clock_is_past(double since, double seconds, double now)
{
	return now < since || now - since >= seconds;
}
