/* SPDX-License-Identifier: ISC */
#ifndef APP_OPTIONS_H
#define APP_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/addr.h"
#include "base/rules.h"

/*
 * The options of proxy and relay. One table serves the command line, the configuration file and
 * --help.
 */
enum options_role {
	OPTIONS_PROXY = 1,
	OPTIONS_RELAY = 2,
};

enum options_source {
	OPTIONS_DEFAULT,
	OPTIONS_FILE,
	OPTIONS_COMMAND_LINE,
};

#define OPTIONS_MAX 40

/* Index into enum-like fields: the order of the words in the table. */
enum options_protocol { OPTIONS_EXTENDED, OPTIONS_BASE };

/* What was given, or its default. Texts are owned by this struct and NULL where there is none. */
struct options {
	enum options_role role;
	union addr listen;
	char *relay;
	char *server;
	unsigned capture;
	unsigned protocol;
	unsigned stripes; /* MAX */
	unsigned stripes_min;
	struct {
		unsigned min, max;
	} pool;
	char *congestion;
	char *key;
	bool insecure;
	bool allow_base;
	struct rules rules;
	unsigned workers; /* 0: one per core */
	bool no_splice;
	unsigned conntrack_zone;
	double connect_timeout;
	unsigned max_flows;
	unsigned max_stripes;
	unsigned max_stripes_per_peer;
	unsigned max_groups;
	char *user;
	double grace;
	char *control;
	char *config;
	bool verbose;
	bool quiet;
	bool help;
	enum options_source source[OPTIONS_MAX]; /* by row of the table */
};

/* Sizes of one-line texts of what is wrong: with a value, and with the whole. */
#define OPTIONS_REASON 512
#define OPTIONS_WHY 1024

/*
 * Reads the command line (argv[0] is skipped), then the file it may name, then fills in the
 * defaults; what comes first stands, but rules add up in this order. Nothing is opened or looked up
 * except the file. Returns 0, or -1 with a one-line reason in why. *o need not be set before;
 * options_clear() it in either case. With o->help nothing else is valid.
 */
int options_read(struct options *o, enum options_role role, int argc, char **argv,
		 char why[OPTIONS_WHY]);
void options_clear(struct options *o);

/* Where the option of this name came from. There must be one. */
enum options_source options_source(const struct options *o, const char *name);

/* Puts the option back to its default. */
void options_reset(struct options *o, const char *name);

/* Describes all options of the role. */
void options_help(enum options_role role, FILE *out);

/* For the readers of the command line and of the file only: */
size_t options_count(void);

/*
 * The name of a row, or NULL if the role has no such option; *takes_value tells whether it's more
 * than a flag.
 */
const char *options_row(size_t row, enum options_role role, bool *takes_value);

/* The row of a name, or -1. */
int options_find(const char *name, enum options_role role);

/*
 * Sets an option from a text (NULL for a flag: on). Returns 0, or -1 with the reason in why, which
 * doesn't name the option.
 */
int options_set(struct options *o, size_t row, enum options_source source, const char *text,
		char why[OPTIONS_REASON]);

/* Reads a configuration file; leaves alone what the command line has set. */
int options_read_file(struct options *o, const char *path, char why[OPTIONS_WHY]);

#endif
