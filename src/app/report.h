/* SPDX-License-Identifier: ISC */
#ifndef APP_REPORT_H
#define APP_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include "core/counters.h"

/* What a daemon says of itself at its control socket. */
struct report {
	const char *role;
	const char *version;
	long pid;
	double uptime; /* seconds */
	unsigned workers;
	const char *congestion;
	int splice;
};

/* The counters of a report: add each worker's to one that is all zero. */
struct report_counters {
#define REPORT_FIELD(name, text) uint64_t name;
	COUNTERS(REPORT_FIELD)
#undef REPORT_FIELD
};
void report_add(struct report_counters *sum, const struct counters *counters);

/*
 * Makes the JSON text of a report, with a newline at its end, to be freed with free(). NULL if
 * there's no memory.
 */
char *report_json(const struct report *report, const struct report_counters *sum);

/*
 * Prints the JSON text of a report for humans. Returns 0, or -1 with *why pointing to a constant
 * text if it isn't a report. Counters that this program doesn't know are printed, too.
 */
int report_print(const char *json, FILE *out, const char **why);

#endif
