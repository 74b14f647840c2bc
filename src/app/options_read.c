/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

#include "app/options.h"

static const char *role_name(enum options_role role)
{
	return role == OPTIONS_PROXY ? "proxy" : "relay";
}

/*
 * getopt_long(3) reports options by the val given here: row + OPTION_BASE, out of the way of '?',
 * ':' and 'h'.
 */
#define OPTION_BASE 1000

static void build_long_options(struct option long_options[OPTIONS_MAX + 1], enum options_role role)
{
	size_t used = 0;

	for (size_t i = 0; i < options_count(); i++) {
		bool takes_value;
		const char *name = options_row(i, role, &takes_value);

		if (name)
			long_options[used++] = (struct option){
				.name = name,
				.has_arg = takes_value ? required_argument : no_argument,
				.val = (int)i + OPTION_BASE,
			};
	}
	long_options[used] = (struct option){ 0 };
}

static int complain_of_argument(const struct options *o, int got, const char *argument,
				char why[OPTIONS_WHY])
{
	int length = (int)strcspn(argument, "=");

	if (got == ':')
		snprintf(why, OPTIONS_WHY, "%.*s: needs a value", length, argument);
	else if (optopt >= OPTION_BASE)
		snprintf(why, OPTIONS_WHY, "%.*s: takes no value", length, argument);
	else
		snprintf(why, OPTIONS_WHY, "%.*s: no such option; see ro-ro-tcp %s --help", length,
			 argument, role_name(o->role));
	return -1;
}

static int read_command_line(struct options *o, int argc, char **argv, char why[OPTIONS_WHY])
{
	struct option long_options[OPTIONS_MAX + 1];
	char reason[OPTIONS_REASON];
	int got;

	build_long_options(long_options, o->role);
	opterr = 0;
	optind = 0; /* glibc's way to start anew */
	while ((got = getopt_long(argc, argv, "+:h", long_options, NULL)) != -1) {
		int row = got == 'h' ? options_find("help", o->role) : got - OPTION_BASE;

		if (row < 0)
			return complain_of_argument(o, got, argv[optind - 1], why);
		if (options_set(o, (size_t)row, OPTIONS_COMMAND_LINE, optarg, reason) < 0) {
			bool takes_value;

			snprintf(why, OPTIONS_WHY, "--%s: %s",
				 options_row((size_t)row, o->role, &takes_value), reason);
			return -1;
		}
	}
	if (optind < argc) {
		snprintf(why, OPTIONS_WHY, "\"%s\" is not an option; see ro-ro-tcp %s --help",
			 argv[optind], role_name(o->role));
		return -1;
	}
	return 0;
}

/*
 * What reading a file needs between inih's calls. inih goes on after an error: only the first
 * counts.
 */
struct reading {
	struct options *options;
	FILE *file;
	int line;	/* inih's own count: one for each call of read_line() */
	int wrong_line; /* 0: none yet */
	char reason[OPTIONS_REASON + 256];
};

static void note_error(struct reading *r, const char *name, const char *reason)
{
	if (r->wrong_line)
		return;
	r->wrong_line = r->line;
	snprintf(r->reason, sizeof(r->reason), "%s%s%s", name, *name ? ": " : "", reason);
}

/* fgets(3) for inih, which would take the rest of a line that is too long for the next line. */
static char *read_line(char *line, int size, void *stream)
{
	struct reading *r = stream;
	size_t length;

	r->line++;
	if (!fgets(line, size, r->file))
		return NULL;
	length = strlen(line);
	if ((length == 0 || line[length - 1] != '\n') && !feof(r->file)) {
		note_error(r, "", "the line is too long, or no text");
		return NULL;
	}
	return line;
}

static int take_line(void *user, const char *section, const char *name, const char *value)
{
	struct reading *r = user;
	struct options *o = r->options;
	char reason[OPTIONS_REASON];
	int row;

	if (strcmp(section, "proxy") != 0 && strcmp(section, "relay") != 0) {
		snprintf(reason, sizeof(reason), "must be in a section [proxy] or [relay]");
		note_error(r, name, reason);
		return 0;
	}
	if (strcmp(section, role_name(o->role)) != 0)
		return 1;
	row = options_find(name, o->role);
	if (row < 0) {
		snprintf(reason, sizeof(reason), "no such option of a %s", section);
		note_error(r, name, reason);
		return 0;
	}
	if (options_set(o, (size_t)row, OPTIONS_FILE, value, reason) < 0) {
		note_error(r, name, reason);
		return 0;
	}
	return 1;
}

int options_read_file(struct options *o, const char *path, char why[OPTIONS_WHY])
{
	struct reading r = { .options = o, .file = fopen(path, "re") };
	int wrong;

	if (!r.file) {
		snprintf(why, OPTIONS_WHY, "--config: cannot open \"%s\": %s", path,
			 strerror(errno));
		return -1;
	}
	wrong = ini_parse_stream(read_line, &r, take_line, &r);
	if (!wrong && ferror(r.file)) {
		snprintf(why, OPTIONS_WHY, "--config: cannot read \"%s\": %s", path,
			 strerror(errno));
		fclose(r.file);
		return -1;
	}
	fclose(r.file);
	if (r.wrong_line && (wrong <= 0 || r.wrong_line <= wrong)) {
		snprintf(why, OPTIONS_WHY, "%s:%d: %s", path, r.wrong_line, r.reason);
		return -1;
	}
	if (wrong) {
		snprintf(why, OPTIONS_WHY, "%s:%d: is not [SECTION], NAME = VALUE or a comment",
			 path, wrong);
		return -1;
	}
	return 0;
}

int options_read(struct options *o, enum options_role role, int argc, char **argv,
		 char why[OPTIONS_WHY])
{
	*o = (struct options){ .role = role };
	if (read_command_line(o, argc, argv, why) < 0)
		return -1;
	if (o->help)
		return 0;
	if (o->config && options_read_file(o, o->config, why) < 0)
		return -1;
	for (size_t i = 0; i < options_count(); i++) {
		bool takes_value;
		const char *name = options_row(i, role, &takes_value);

		if (name && o->source[i] == OPTIONS_DEFAULT && takes_value &&
		    strcmp(name, "allow") && strcmp(name, "deny"))
			options_reset(o, name);
	}
	return 0;
}
