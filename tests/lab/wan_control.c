/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "wan_control.h"

const char *const wan_direction_names[WAN_DIRECTIONS] = { "up", "down" };

struct unit {
	const char *suffix;
	double factor;
};

static const struct unit rate_units[] = { { "", 1 },	   { "bit", 1 },    { "kbit", 1e3 },
					  { "mbit", 1e6 }, { "gbit", 1e9 }, { NULL, 0 } };
static const struct unit time_units[] = { { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { NULL, 0 } };
static const struct unit byte_units[] = { { "", 1 }, { "k", 1e3 }, { "m", 1e6 }, { NULL, 0 } };
static const struct unit share_units[] = { { "%", 1e-2 }, { NULL, 0 } };
static const struct unit count_units[] = { { "", 1 }, { NULL, 0 } };

/* A name, how its value is written, and its bounds in the unit it is kept in. */
static const struct setting {
	const char *name;
	const struct unit *units;
	const char *example;
	double least;
	double most;
} settings[] = {
	{ "rate", rate_units, "100mbit", 0, 100e9 },	 { "delay", time_units, "50ms", 0, 60e9 },
	{ "queue", byte_units, "1250000", 0, 1e9 },	 { "loss", share_units, "1%", 0, 1 },
	{ "burst", count_units, "4", 1, 1e6 },		 { "reorder", share_units, "1%", 0, 1 },
	{ "reorder-delay", time_units, "5ms", 0, 60e9 },
};

#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

const char *wan_setting_name(size_t i)
{
	return i < SETTINGS ? settings[i].name : NULL;
}

static bool parse_value(const struct setting *setting, const char *text, double *value)
{
	const struct unit *unit;
	char *end;
	double number;

	/* strtod would take "inf", "nan" and "0x10" too. */
	if (strspn(text, "0123456789.") == 0)
		return false;
	errno = 0;
	number = strtod(text, &end);
	if (errno || end == text || (text[0] == '0' && (text[1] | 0x20) == 'x'))
		return false;
	for (unit = setting->units; unit->suffix; unit++) {
		if (strcmp(end, unit->suffix) == 0)
			break;
	}
	/* Only zero needs no unit. */
	if (!unit->suffix && !(number == 0 && *end == '\0'))
		return false;
	*value = number * unit->factor;
	return *value >= setting->least && *value <= setting->most;
}

static void store_value(struct link_settings *s, const char *name, double value)
{
	if (strcmp(name, "rate") == 0)
		s->rate = (uint64_t)(value + 0.5);
	else if (strcmp(name, "delay") == 0)
		s->delay = (uint64_t)(value + 0.5);
	else if (strcmp(name, "queue") == 0)
		s->queue = (uint64_t)(value + 0.5);
	else if (strcmp(name, "loss") == 0)
		s->loss = value;
	else if (strcmp(name, "burst") == 0)
		s->burst = value;
	else if (strcmp(name, "reorder") == 0)
		s->reorder = value;
	else
		s->reorder_delay = (uint64_t)(value + 0.5);
}

static bool selects(const char *which, enum wan_direction direction)
{
	return strcmp(which, "both") == 0 || strcmp(which, wan_direction_names[direction]) == 0;
}

static const struct setting *find_setting(const char *name)
{
	for (size_t i = 0; i < SETTINGS; i++) {
		if (strcmp(settings[i].name, name) == 0)
			return &settings[i];
	}
	return NULL;
}

bool wan_set(struct link links[WAN_DIRECTIONS], const char *which, const char *name,
	     const char *value, uint64_t now, char *error, size_t error_size)
{
	const struct setting *setting = find_setting(name);
	struct link_settings wanted[WAN_DIRECTIONS];
	double number;

	if (!selects(which, WAN_UP) && !selects(which, WAN_DOWN)) {
		snprintf(error, error_size, "no direction '%s': say up, down or both", which);
		return false;
	}
	if (!setting) {
		snprintf(error, error_size, "no setting '%s'", name);
		return false;
	}
	if (!parse_value(setting, value, &number)) {
		snprintf(error, error_size, "bad %s '%s': write it like %s", name, value,
			 setting->example);
		return false;
	}
	for (int i = 0; i < WAN_DIRECTIONS; i++) {
		wanted[i] = links[i].settings;
		if (!selects(which, i))
			continue;
		store_value(&wanted[i], name, number);
		/* The good state must be entered with a chance of at most 1. */
		if (wanted[i].burst > 1 &&
		    wanted[i].loss > wanted[i].burst / (wanted[i].burst + 1)) {
			snprintf(error, error_size, "loss %g%% cannot come in bursts of %g",
				 wanted[i].loss * 100, wanted[i].burst);
			return false;
		}
	}
	for (int i = 0; i < WAN_DIRECTIONS; i++)
		link_change(&links[i], &wanted[i], now);
	return true;
}

static void print_stats(const struct link *link, const char *name, FILE *answer)
{
	const struct link_counters *c = &link->counters;

	fprintf(answer, "%s.arrived %" PRIu64 "\n", name, c->arrived);
	fprintf(answer, "%s.packets %" PRIu64 "\n", name, c->packets);
	fprintf(answer, "%s.bytes %" PRIu64 "\n", name, c->bytes);
	fprintf(answer, "%s.dropped_queue %" PRIu64 "\n", name, c->dropped_queue);
	fprintf(answer, "%s.dropped_loss %" PRIu64 "\n", name, c->dropped_loss);
	fprintf(answer, "%s.dropped_blackhole %" PRIu64 "\n", name, c->dropped_blackhole);
	fprintf(answer, "%s.undeliverable %" PRIu64 "\n", name, c->undeliverable);
	fprintf(answer, "%s.reordered %" PRIu64 "\n", name, c->reordered);
	fprintf(answer, "%s.late %" PRIu64 "\n", name, c->late);
	fprintf(answer, "%s.queued_bytes %" PRIu64 "\n", name, link->queued);
}

static void command_blackhole(struct link links[WAN_DIRECTIONS], const char *state,
			      const char *which, FILE *answer)
{
	bool on = strcmp(state, "on") == 0;

	if ((!on && strcmp(state, "off") != 0) ||
	    (!selects(which, WAN_UP) && !selects(which, WAN_DOWN))) {
		fputs("error: say blackhole on|off [up|down|both]\n", answer);
		return;
	}
	for (int i = 0; i < WAN_DIRECTIONS; i++) {
		if (selects(which, i))
			links[i].blackhole = on;
	}
	fputs("ok\n", answer);
}

void wan_command(struct link links[WAN_DIRECTIONS], const char *line, uint64_t now, FILE *answer)
{
	char words[5][32], error[128];
	int count = sscanf(line, "%31s %31s %31s %31s %31s", words[0], words[1], words[2], words[3],
			   words[4]);

	if (count == 4 && strcmp(words[0], "set") == 0) {
		if (wan_set(links, words[1], words[2], words[3], now, error, sizeof(error)))
			fputs("ok\n", answer);
		else
			fprintf(answer, "error: %s\n", error);
	} else if (count >= 2 && count <= 3 && strcmp(words[0], "blackhole") == 0) {
		command_blackhole(links, words[1], count == 3 ? words[2] : "both", answer);
	} else if (count == 1 && strcmp(words[0], "stats") == 0) {
		for (int i = 0; i < WAN_DIRECTIONS; i++)
			print_stats(&links[i], wan_direction_names[i], answer);
		fputs("ok\n", answer);
	} else {
		fputs("error: say set up|down|both NAME VALUE, blackhole on|off, or stats\n",
		      answer);
	}
}
