/* SPDX-License-Identifier: ISC */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>

/* Seconds, by a clock that nobody sets (CLOCK_MONOTONIC). */
double clock_monotonic(void);

/*
 * True if so many seconds have gone by since then. What a loop has for now is the time of day: if it was set back to before then nobody knows how many have,
 * and it's true.
 */
bool clock_is_past(double since, double seconds, double now);

#endif
