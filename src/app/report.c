/* SPDX-License-Identifier: ISC */
#include "app/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

void report_add(struct report_counters *sum, const struct counters *counters)
{
#define ADD(name, text) sum->name += counter_read(&counters->name);
	COUNTERS(ADD)
#undef ADD
}

char *report_json(const struct report *report, const struct report_counters *sum)
{
	json_t *counters = json_object();
	json_t *root;
	char *text, *line = NULL;

#define SET(name, text) json_object_set_new(counters, #name, json_integer((json_int_t)sum->name));
	COUNTERS(SET)
#undef SET
	root = json_pack("{s:s, s:s, s:I, s:f, s:i, s:s, s:b, s:o}", "role", report->role,
			 "version", report->version, "pid", (json_int_t)report->pid,
			 "uptime_seconds", report->uptime, "workers", (int)report->workers,
			 "congestion", report->congestion, "splice", report->splice, "counters",
			 counters);
	if (!root)
		return NULL;
	text = json_dumps(root, JSON_REAL_PRECISION(9));
	json_decref(root);
	if (text && asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	free(text);
	return line;
}

static const char *counter_text(const char *name)
{
#define FIND(field, text)                                                                          \
	if (strcmp(name, #field) == 0)                                                             \
		return text;
	COUNTERS(FIND)
#undef FIND
	return "";
}

/* "1 day 02:03:04" */
static void print_uptime(double seconds, FILE *out)
{
	uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;
	uint64_t days = s / 86400;

	if (days)
		fprintf(out, "%" PRIu64 " day%s ", days, days == 1 ? "" : "s");
	fprintf(out, "%02u:%02u:%02u", (unsigned)(s / 3600 % 24), (unsigned)(s / 60 % 60),
		(unsigned)(s % 60));
}

/* With a space between each three digits. */
static void format_number(char text[40], uint64_t n)
{
	char digits[24];
	size_t length = (size_t)snprintf(digits, sizeof(digits), "%" PRIu64, n);
	size_t used = 0;

	for (size_t i = 0; i < length; i++) {
		if (i && (length - i) % 3 == 0)
			text[used++] = ' ';
		text[used++] = digits[i];
	}
	text[used] = '\0';
}

static void print_counter(const char *name, uint64_t value, FILE *out)
{
	static const char *const units[] = { "kB", "MB", "GB", "TB", "PB" };
	double scaled = (double)value / 1000;
	char number[40];
	size_t unit = 0;

	format_number(number, value);
	fprintf(out, "  %-28s %19s  %s", name, number, counter_text(name));
	if (strncmp(name, "bytes_", 6) == 0 && value >= 1000) {
		for (; scaled >= 999.5 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
			scaled /= 1000;
		fprintf(out, " (%.3g %s)", scaled, units[unit]);
	}
	fputc('\n', out);
}

/* What a counter means for whoever runs the gateway, where it isn't plain from its text. */
static void print_hints(const json_t *counters, FILE *out)
{
	if (json_integer_value(json_object_get(counters, "conntrack_missing")) > 0)
		fputs("  conntrack has no entry for some captured flows: does a firewall rule "
		      "match on conntrack (--ctstate)?\n"
		      "  Or the flows were marked NOTRACK, or they are in another zone "
		      "(--conntrack-zone).\n",
		      out);
	if (json_integer_value(json_object_get(counters, "accepts_paused")) > 0)
		fputs("  Descriptors ran out: raise the limit (LimitNOFILE= of the unit, or ulimit "
		      "-n).\n",
		      out);
}

static int print_root(json_t *root, FILE *out)
{
	const char *role, *version, *congestion, *name;
	json_t *counters, *value;
	json_int_t pid;
	double uptime;
	int workers, splice;

	if (json_unpack(root, "{s:s, s:s, s:I, s:F, s:i, s:s, s:b, s:o}", "role", &role, "version",
			&version, "pid", &pid, "uptime_seconds", &uptime, "workers", &workers,
			"congestion", &congestion, "splice", &splice, "counters", &counters) < 0 ||
	    !json_is_object(counters))
		return -1;
	fprintf(out, "%s %s, process %" JSON_INTEGER_FORMAT ", up ", role, version, pid);
	print_uptime(uptime, out);
	fprintf(out, ", %d worker%s, %s, %s\n", workers, workers == 1 ? "" : "s", congestion,
		splice ? "splice" : "copy");
	json_object_foreach(counters, name, value)
		print_counter(name, (uint64_t)json_integer_value(value), out);
	print_hints(counters, out);
	return 0;
}

int report_print(const char *json, FILE *out, const char **why)
{
	json_t *root = json_loads(json, 0, NULL);
	int result;

	*why = "the answer is not JSON";
	if (!root)
		return -1;
	*why = "the answer is not a report";
	result = print_root(root, out);
	json_decref(root);
	return result;
}
