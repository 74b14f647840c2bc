/* SPDX-License-Identifier: ISC */
#ifndef WAN_CONTROL_H
#define WAN_CONTROL_H

#include <stdint.h>
#include <stdio.h>

#include "wan_link.h"

enum wan_direction { WAN_UP, WAN_DOWN, WAN_DIRECTIONS };

extern const char *const wan_direction_names[WAN_DIRECTIONS];

/* The name of setting number i, which `set` takes and which is a long option too; NULL past the
 * end. */
const char *wan_setting_name(size_t i);

/*
 * Puts one setting in force on "up", "down" or "both". Returns false, with why in error, and
 * changes nothing when a word is not understood or the value does not fit the others.
 */
bool wan_set(struct link links[WAN_DIRECTIONS], const char *which, const char *name,
	     const char *value, uint64_t now, char *error, size_t error_size);

/*
 * Carries out one command line and prints the answer, of which the last line is "ok" or
 * "error: REASON".
 */
void wan_command(struct link links[WAN_DIRECTIONS], const char *line, uint64_t now, FILE *answer);

#endif
