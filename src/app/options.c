/* SPDX-License-Identifier: ISC */
#include "app/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum kind {
	KIND_FLAG,    /* bool */
	KIND_COUNT,   /* unsigned, min to max */
	KIND_SECONDS, /* double, min to max */
	KIND_TEXT,    /* char *, not empty */
	KIND_WORD,    /* unsigned, the index of a word */
	KIND_LISTEN,  /* union addr; min is the port if the text has none */
	KIND_POOL,    /* two unsigned, each 0 to max, first <= second */
	KIND_STRIPES, /* an unsigned from 1 to max, or two as above */
	KIND_ALLOW,   /* appends to struct rules */
	KIND_DENY,
};

struct row {
	const char *name;
	unsigned roles;
	enum kind kind;
	size_t offset;	      /* in struct options */
	const char *value;    /* how help calls it */
	const char *fallback; /* default, as a user would write it */
	const char *help;
	double min, max;
	const char *const *words; /* KIND_WORD: up to a NULL */
	bool command_line_only;
};

#define PROXY OPTIONS_PROXY
#define RELAY OPTIONS_RELAY
#define BOTH (OPTIONS_PROXY | OPTIONS_RELAY)
#define AT(field) offsetof(struct options, field)

static const char *const captures[] = { "tproxy", "redirect", NULL };
static const char *const protocols[] = { "extended", "base", NULL };

/* clang-format off */
static const struct row rows[] = {
	{ "relay", PROXY, KIND_TEXT, AT(relay), "HOST[:PORT]", NULL,
	  .help = "where the relay is; port 9301 if none is given" },
	{ "listen", PROXY, KIND_LISTEN, AT(listen), "[ADDR:]PORT", "[::]:9300",
	  .help = "where captured flows come in", .min = 9300 },
	{ "listen", RELAY, KIND_LISTEN, AT(listen), "[ADDR:]PORT", "[::]:9301",
	  .help = "where proxies connect to", .min = 9301 },
	{ "server", RELAY, KIND_TEXT, AT(server), "HOST:PORT", NULL,
	  .help = "where flows of the base protocol go" },
	{ "allow-base", RELAY, KIND_FLAG, AT(allow_base), NULL, NULL,
	  .help = "serve the base protocol, too, which has no authentication" },
	{ "allow", RELAY, KIND_ALLOW, AT(rules), "CIDR[:PORTS]", NULL,
	  .help = "serve these destinations; \"any\" is all of them" },
	{ "deny", RELAY, KIND_DENY, AT(rules), "CIDR[:PORTS]", NULL,
	  .help = "refuse these destinations; the first rule that matches decides" },
	{ "capture", PROXY, KIND_WORD, AT(capture), "tproxy|redirect", "tproxy",
	  .help = "how the firewall hands flows over", .words = captures },
	{ "stripes", PROXY, KIND_STRIPES, AT(stripes), "[MIN:]MAX", "128",
	  .help = "stripes of a flow: as many as help, MIN from its start; 1 to 128",
	  .min = 1, .max = 128 },
	{ "pool", PROXY, KIND_POOL, AT(pool), "MIN:MAX", "36:128",
	  .help = "stripes kept ready by each worker, up to 1024; 0:0 is none", .max = 1024 },
	{ "protocol", PROXY, KIND_WORD, AT(protocol), "extended|base", "extended",
	  .help = "what to speak with the relay", .words = protocols },
	{ "key", BOTH, KIND_TEXT, AT(key), "FILE", NULL,
	  .help = "keys that proxy and relay prove to each other; \"ro-ro-tcp keygen\" makes one" },
	{ "insecure", PROXY, KIND_FLAG, AT(insecure), NULL, NULL,
	  .help = "do without a key, for an insecure relay" },
	{ "insecure", RELAY, KIND_FLAG, AT(insecure), NULL, NULL,
	  .help = "serve who has no key" },
	{ "congestion", BOTH, KIND_TEXT, AT(congestion), "NAME", NULL,
	  .help = "congestion control of the stripes (default: bbr if the kernel has it, else cubic)" },
	{ "workers", BOTH, KIND_COUNT, AT(workers), "N", NULL,
	  .help = "threads (default: one per core)", .min = 1, .max = 64 },
	{ "no-splice", BOTH, KIND_FLAG, AT(no_splice), NULL, NULL,
	  .help = "copy data instead of splicing it" },
	{ "conntrack-zone", PROXY, KIND_COUNT, AT(conntrack_zone), "N", "0",
	  .help = "conntrack zone of the captured flows", .min = 0, .max = 65535 },
	{ "connect-timeout", PROXY, KIND_SECONDS, AT(connect_timeout), "SECONDS", "10",
	  .help = "how long a stripe may take to stand", .min = 0.1, .max = 300 },
	{ "connect-timeout", RELAY, KIND_SECONDS, AT(connect_timeout), "SECONDS", "10",
	  .help = "how long a server may take to answer", .min = 0.1, .max = 300 },
	{ "max-flows", PROXY, KIND_COUNT, AT(max_flows), "N", "10000",
	  .help = "most flows of each worker", .min = 1, .max = 1000000 },
	{ "max-stripes", RELAY, KIND_COUNT, AT(max_stripes), "N", "20000",
	  .help = "most stripes of each worker", .min = 1, .max = 1000000 },
	{ "max-stripes-per-peer", RELAY, KIND_COUNT, AT(max_stripes_per_peer), "N", "10000",
	  .help = "most stripes of each worker from one address", .min = 1, .max = 1000000 },
	{ "max-groups", RELAY, KIND_COUNT, AT(max_groups), "N", "10000",
	  .help = "most flows of each worker", .min = 1, .max = 1000000 },
	{ "user", BOTH, KIND_TEXT, AT(user), "NAME", NULL,
	  .help = "whom to become when started by root (default: ro-ro-tcp if there is one, else nobody)" },
	{ "grace", BOTH, KIND_SECONDS, AT(grace), "SECONDS", "10",
	  .help = "how long flows may go on after SIGTERM", .min = 0, .max = 86400 },
	{ "control", PROXY, KIND_TEXT, AT(control), "PATH", "/run/ro-ro-tcp/proxy.sock",
	  .help = "socket for \"ro-ro-tcp status\"; \"none\" is none" },
	{ "control", RELAY, KIND_TEXT, AT(control), "PATH", "/run/ro-ro-tcp/relay.sock",
	  .help = "socket for \"ro-ro-tcp status\"; \"none\" is none" },
	{ "config", BOTH, KIND_TEXT, AT(config), "FILE", NULL,
	  .help = "read options from there, too; the command line wins", .command_line_only = true },
	{ "verbose", BOTH, KIND_FLAG, AT(verbose), NULL, NULL, .help = "log each flow" },
	{ "quiet", BOTH, KIND_FLAG, AT(quiet), NULL, NULL, .help = "log warnings only" },
	{ "help", BOTH, KIND_FLAG, AT(help), NULL, NULL, .help = "print this", .command_line_only = true },
};
/* clang-format on */

#define ROWS (sizeof(rows) / sizeof(rows[0]))
_Static_assert(ROWS <= OPTIONS_MAX, "OPTIONS_MAX is too low");

size_t options_count(void)
{
	return ROWS;
}

const char *options_row(size_t row, enum options_role role, bool *takes_value)
{
	if (!(rows[row].roles & role))
		return NULL;
	*takes_value = rows[row].kind != KIND_FLAG;
	return rows[row].name;
}

int options_find(const char *name, enum options_role role)
{
	for (size_t i = 0; i < ROWS; i++) {
		if ((rows[i].roles & role) && strcmp(rows[i].name, name) == 0)
			return (int)i;
	}
	return -1;
}

enum options_source options_source(const struct options *o, const char *name)
{
	return o->source[options_find(name, o->role)];
}

static int set_flag(bool *field, const char *text, char why[OPTIONS_REASON])
{
	static const char *const on[] = { "yes", "true", "on", "1" };
	static const char *const off[] = { "no", "false", "off", "0" };

	for (size_t i = 0; i < sizeof(on) / sizeof(on[0]); i++) {
		if (!text || strcmp(text, on[i]) == 0 || strcmp(text, off[i]) == 0) {
			*field = !text || strcmp(text, on[i]) == 0;
			return 0;
		}
	}
	snprintf(why, OPTIONS_REASON, "\"%s\" is neither yes nor no", text);
	return -1;
}

/*
 * Digits only, at most nine of them. Returns 0, or -1 if it's no such number or not within the
 * bounds.
 */
static int parse_count(unsigned *count, const char *text, size_t length, double min, double max)
{
	unsigned value = 0;

	if (length == 0 || length > 9)
		return -1;
	for (size_t i = 0; i < length; i++) {
		if (!isdigit((unsigned char)text[i]))
			return -1;
		value = value * 10 + (unsigned)(text[i] - '0');
	}
	if (value < min || value > max)
		return -1;
	*count = value;
	return 0;
}

static int set_count(const struct row *row, unsigned *field, const char *text,
		     char why[OPTIONS_REASON])
{
	if (parse_count(field, text, strlen(text), row->min, row->max) == 0)
		return 0;
	snprintf(why, OPTIONS_REASON, "\"%s\" is not a number from %.0f to %.0f", text, row->min,
		 row->max);
	return -1;
}

static int set_seconds(const struct row *row, double *field, const char *text,
		       char why[OPTIONS_REASON])
{
	char *end;
	double value = strtod(text, &end);

	/* No signs, exponents, hexadecimals, infinities. */
	if (end != text && *end == '\0' && strspn(text, "0123456789.") == strlen(text) &&
	    value >= row->min && value <= row->max) {
		*field = value;
		return 0;
	}
	snprintf(why, OPTIONS_REASON, "\"%s\" is not a number of seconds from %g to %g", text,
		 row->min, row->max);
	return -1;
}

static int set_text(char **field, const char *text, char why[OPTIONS_REASON])
{
	char *copy = *text ? strdup(text) : NULL;

	if (!copy) {
		snprintf(why, OPTIONS_REASON, "%s", *text ? strerror(errno) : "must not be empty");
		return -1;
	}
	free(*field);
	*field = copy;
	return 0;
}

static int set_word(const struct row *row, unsigned *field, const char *text,
		    char why[OPTIONS_REASON])
{
	int used;

	for (unsigned i = 0; row->words[i]; i++) {
		if (strcmp(row->words[i], text) == 0) {
			*field = i;
			return 0;
		}
	}
	used = snprintf(why, OPTIONS_REASON, "\"%.200s\" is not one of", text);
	for (unsigned i = 0; row->words[i]; i++)
		used += snprintf(why + used, OPTIONS_REASON - (size_t)used, "%s %s", i ? "," : "",
				 row->words[i]);
	return -1;
}

static int set_listen(const struct row *row, union addr *field, const char *text,
		      char why[OPTIONS_REASON])
{
	if (addr_parse(field, text, (uint16_t)row->min, true) == 0)
		return 0;
	snprintf(why, OPTIONS_REASON, "\"%s\" is not an address, ADDR:PORT or PORT", text);
	return -1;
}

/* MIN:MAX, with least <= MIN <= MAX <= row->max. Returns 0 or -1. */
static int parse_range(const struct row *row, const char *text, unsigned least, unsigned *min, unsigned *max)
{
	const char *colon = strchr(text, ':');

	if (!colon || parse_count(min, text, (size_t)(colon - text), least, row->max) < 0)
		return -1;
	return parse_count(max, colon + 1, strlen(colon + 1), *min, row->max);
}

static int set_range(const struct row *row, const char *text, unsigned least, unsigned *min_field,
		     unsigned *max_field, char why[OPTIONS_REASON])
{
	unsigned min, max;

	if (parse_range(row, text, least, &min, &max) < 0) {
		snprintf(why, OPTIONS_REASON, "\"%s\" is not MIN:MAX with %u <= MIN <= MAX <= %.0f", text,
			 least, row->max);
		return -1;
	}
	*min_field = min;
	*max_field = max;
	return 0;
}

static int set_stripes(const struct row *row, struct options *o, const char *text,
		       char why[OPTIONS_REASON])
{
	if (strchr(text, ':'))
		return set_range(row, text, 1, &o->stripes_min, &o->stripes, why);
	o->stripes_min = 1;
	return set_count(row, &o->stripes, text, why);
}

static int add_rule(const struct row *row, struct rules *rules, const char *text,
		    char why[OPTIONS_REASON])
{
	const char *reason;

	if (rules_add(rules, row->kind == KIND_ALLOW, text, &reason) == 0)
		return 0;
	snprintf(why, OPTIONS_REASON, "\"%s\": %s", text, reason);
	return -1;
}

static int set_field(struct options *o, const struct row *row, const char *text,
		     char why[OPTIONS_REASON])
{
	void *field = (char *)o + row->offset;

	switch (row->kind) {
	case KIND_FLAG:
		return set_flag(field, text, why);
	case KIND_COUNT:
		return set_count(row, field, text, why);
	case KIND_SECONDS:
		return set_seconds(row, field, text, why);
	case KIND_TEXT:
		return set_text(field, text, why);
	case KIND_WORD:
		return set_word(row, field, text, why);
	case KIND_LISTEN:
		return set_listen(row, field, text, why);
	case KIND_POOL:
		return set_range(row, text, 0, &o->pool.min, &o->pool.max, why);
	case KIND_STRIPES:
		return set_stripes(row, o, text, why);
	case KIND_ALLOW:
	case KIND_DENY:
		return add_rule(row, field, text, why);
	}
	return -1;
}

int options_set(struct options *o, size_t index, enum options_source source, const char *text,
		char why[OPTIONS_REASON])
{
	const struct row *row = &rows[index];
	bool is_rule = row->kind == KIND_ALLOW || row->kind == KIND_DENY;

	if (source == OPTIONS_FILE) {
		if (row->command_line_only) {
			snprintf(why, OPTIONS_REASON, "is for the command line only");
			return -1;
		}
		if (o->source[index] == OPTIONS_FILE && !is_rule) {
			snprintf(why, OPTIONS_REASON, "is given twice");
			return -1;
		}
		if (o->source[index] == OPTIONS_COMMAND_LINE && !is_rule)
			return 0;
	}
	if (set_field(o, row, text, why) < 0)
		return -1;
	o->source[index] = source;
	return 0;
}

void options_reset(struct options *o, const char *name)
{
	int index = options_find(name, o->role);
	const struct row *row = &rows[index];
	void *field = (char *)o + row->offset;
	char why[OPTIONS_REASON];

	if (row->kind == KIND_TEXT) {
		free(*(char **)field);
		*(char **)field = NULL;
	} else if (row->kind == KIND_FLAG) {
		*(bool *)field = false;
	}
	if (row->fallback)
		set_field(o, row, row->fallback, why);
	o->source[index] = OPTIONS_DEFAULT;
}

void options_clear(struct options *o)
{
	for (size_t i = 0; i < ROWS; i++) {
		if ((rows[i].roles & o->role) && rows[i].kind == KIND_TEXT) {
			free(*(char **)((char *)o + rows[i].offset));
			*(char **)((char *)o + rows[i].offset) = NULL;
		}
	}
	rules_clear(&o->rules);
}

/* "--stripes MAX" and the like, then what it is and what it may be. */
static void help_row(const struct row *row, FILE *out)
{
	char left[64];

	snprintf(left, sizeof(left), "--%s%s%s", row->name, row->value ? " " : "",
		 row->value ? row->value : "");
	fprintf(out, "  %-32s %s", left, row->help);
	if (row->kind == KIND_COUNT)
		fprintf(out, ", %.0f to %.0f", row->min, row->max);
	if (row->kind == KIND_SECONDS)
		fprintf(out, ", %g to %g", row->min, row->max);
	if (row->fallback)
		fprintf(out, " (default: %s)", row->fallback);
	fputc('\n', out);
}

void options_help(enum options_role role, FILE *out)
{
	for (size_t i = 0; i < ROWS; i++) {
		if (rows[i].roles & role)
			help_row(&rows[i], out);
	}
}
