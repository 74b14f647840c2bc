/* SPDX-License-Identifier: ISC */
#include "app/options.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define ARGUMENTS_MAX 16

static struct options o;
static char why[OPTIONS_WHY];

/* Reads a command line given as one text, its arguments apart by one blank each. */
static int read_line(enum options_role role, const char *line)
{
	char text[1024];
	char *argv[ARGUMENTS_MAX + 1] = { text };
	int argc = 1;

	snprintf(text, sizeof(text), "role %s", line);
	for (char *c = text; *c; c++) {
		if (*c == ' ') {
			*c = '\0';
			ck_assert_int_lt(argc, ARGUMENTS_MAX);
			argv[argc++] = c + 1;
		}
	}
	if (*line == '\0')
		argc = 1;
	return options_read(&o, role, argc, argv, why);
}

static void read_good(enum options_role role, const char *line)
{
	ck_assert_msg(read_line(role, line) == 0, "%s: %s", line, why);
}

/* A configuration file that is gone when the test ends. */
static const char *make_file(const char *text, size_t length)
{
	static char path[64];
	int fd;

	strcpy(path, "/tmp/check_options.XXXXXX");
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, length), (ssize_t)length);
	close(fd);
	return path;
}

static int read_file(enum options_role role, const char *line, const char *text, size_t length)
{
	const char *path = make_file(text, length);
	char whole[1024];
	int result;

	snprintf(whole, sizeof(whole), "--config %s%s%s", path, *line ? " " : "", line);
	result = read_line(role, whole);
	unlink(path);
	return result;
}

START_TEST(test_defaults)
{
	char text[ADDR_TEXT];

	read_good(OPTIONS_PROXY, "");
	ck_assert_str_eq(addr_format(&o.listen, text), "[::]:9300");
	ck_assert_ptr_null(o.relay);
	ck_assert_uint_eq(o.capture, 0);
	ck_assert_uint_eq(o.stripes, 128);
	ck_assert_uint_eq(o.pool.min, 36);
	ck_assert_uint_eq(o.pool.max, 128);
	ck_assert_uint_eq(o.protocol, OPTIONS_EXTENDED);
	ck_assert_uint_eq(o.workers, 0);
	ck_assert_double_eq(o.connect_timeout, 10);
	ck_assert_double_eq(o.grace, 10);
	ck_assert_uint_eq(o.max_flows, 10000);
	ck_assert_str_eq(o.control, "/run/ro-ro-tcp/proxy.sock");
	ck_assert(!o.insecure && !o.no_splice && !o.verbose && !o.quiet && !o.help);
	ck_assert_int_eq(options_source(&o, "stripes"), OPTIONS_DEFAULT);
	options_clear(&o);

	read_good(OPTIONS_RELAY, "");
	ck_assert_str_eq(addr_format(&o.listen, text), "[::]:9301");
	ck_assert_str_eq(o.control, "/run/ro-ro-tcp/relay.sock");
	ck_assert_uint_eq(o.max_stripes, 20000);
	ck_assert_uint_eq(o.max_stripes_per_peer, 10000);
	ck_assert_uint_eq(o.max_groups, 10000);
	ck_assert_uint_eq(o.rules.count, 0);
	options_clear(&o);
}
END_TEST

START_TEST(test_command_line)
{
	char text[ADDR_TEXT];

	read_good(OPTIONS_PROXY,
		  "--relay r.example:7 --listen 192.0.2.1:80 --capture redirect --stripes=128 "
		  "--pool 0:0 --no-splice --grace 0.5 --insecure --control none");
	ck_assert_str_eq(o.relay, "r.example:7");
	ck_assert_str_eq(addr_format(&o.listen, text), "192.0.2.1:80");
	ck_assert_uint_eq(o.capture, 1);
	ck_assert_uint_eq(o.stripes, 128);
	ck_assert_uint_eq(o.pool.min + o.pool.max, 0);
	ck_assert(o.no_splice && o.insecure);
	ck_assert_double_eq(o.grace, 0.5);
	ck_assert_str_eq(o.control, "none");
	ck_assert_int_eq(options_source(&o, "stripes"), OPTIONS_COMMAND_LINE);
	options_clear(&o);

	/* The last one stands; the one before is freed. */
	read_good(OPTIONS_PROXY, "--user a --user b --stripes 3 --stripes 4");
	ck_assert_str_eq(o.user, "b");
	ck_assert_uint_eq(o.stripes, 4);
	options_clear(&o);
}
END_TEST

static const struct {
	enum options_role role;
	const char *line, *why;
} bad_lines[] = {
	{ OPTIONS_PROXY, "--stripes abc", "--stripes: \"abc\" is not a number from 1 to 128" },
	{ OPTIONS_PROXY, "--stripes 0", "--stripes: \"0\" is not a number from 1 to 128" },
	{ OPTIONS_PROXY, "--stripes 129", "--stripes: \"129\" is not a number from 1 to 128" },
	{ OPTIONS_PROXY, "--stripes -1", "--stripes: \"-1\" is not a number from 1 to 128" },
	{ OPTIONS_PROXY, "--stripes 8x", "--stripes: \"8x\" is not a number from 1 to 128" },
	{ OPTIONS_PROXY, "--stripes 4294967297",
	  "--stripes: \"4294967297\" is not a number from 1 to 128" },
	{ OPTIONS_PROXY, "--stripes 3:2", "--stripes: \"3:2\" is not MIN:MAX with 1 <= MIN <= MAX <= 128" },
	{ OPTIONS_PROXY, "--stripes 0:2", "--stripes: \"0:2\" is not MIN:MAX with 1 <= MIN <= MAX <= 128" },
	{ OPTIONS_PROXY, "--stripes 1:129",
	  "--stripes: \"1:129\" is not MIN:MAX with 1 <= MIN <= MAX <= 128" },
	{ OPTIONS_PROXY, "--stripes :", "--stripes: \":\" is not MIN:MAX with 1 <= MIN <= MAX <= 128" },
	{ OPTIONS_PROXY, "--stripes=", "--stripes: \"\" is not a number from 1 to 128" },
	{ OPTIONS_PROXY, "--workers 65", "--workers: \"65\" is not a number from 1 to 64" },
	{ OPTIONS_PROXY, "--workers 0", "--workers: \"0\" is not a number from 1 to 64" },
	{ OPTIONS_PROXY, "--conntrack-zone 65536",
	  "--conntrack-zone: \"65536\" is not a number from 0 to 65535" },
	{ OPTIONS_PROXY, "--pool 5", "--pool: \"5\" is not MIN:MAX with 0 <= MIN <= MAX <= 1024" },
	{ OPTIONS_PROXY, "--pool 9:8",
	  "--pool: \"9:8\" is not MIN:MAX with 0 <= MIN <= MAX <= 1024" },
	{ OPTIONS_PROXY, "--pool 1:1025",
	  "--pool: \"1:1025\" is not MIN:MAX with 0 <= MIN <= MAX <= 1024" },
	{ OPTIONS_PROXY, "--pool :5",
	  "--pool: \":5\" is not MIN:MAX with 0 <= MIN <= MAX <= 1024" },
	{ OPTIONS_PROXY, "--pool 1:2:3",
	  "--pool: \"1:2:3\" is not MIN:MAX with 0 <= MIN <= MAX <= 1024" },
	{ OPTIONS_PROXY, "--capture nat", "--capture: \"nat\" is not one of tproxy, redirect" },
	{ OPTIONS_PROXY, "--protocol new", "--protocol: \"new\" is not one of extended, base" },
	{ OPTIONS_PROXY, "--grace -1",
	  "--grace: \"-1\" is not a number of seconds from 0 to 86400" },
	{ OPTIONS_PROXY, "--grace nan",
	  "--grace: \"nan\" is not a number of seconds from 0 to 86400" },
	{ OPTIONS_PROXY, "--grace 1e3",
	  "--grace: \"1e3\" is not a number of seconds from 0 to 86400" },
	{ OPTIONS_PROXY, "--grace .", "--grace: \".\" is not a number of seconds from 0 to 86400" },
	{ OPTIONS_PROXY, "--connect-timeout 0",
	  "--connect-timeout: \"0\" is not a number of seconds from 0.1 to 300" },
	{ OPTIONS_PROXY, "--listen nowhere",
	  "--listen: \"nowhere\" is not an address, ADDR:PORT or PORT" },
	{ OPTIONS_PROXY, "--listen 70000",
	  "--listen: \"70000\" is not an address, ADDR:PORT or PORT" },
	{ OPTIONS_PROXY, "--relay=", "--relay: must not be empty" },
	{ OPTIONS_PROXY, "--relay", "--relay: needs a value" },
	{ OPTIONS_PROXY, "--insecure=yes", "--insecure: takes no value" },
	{ OPTIONS_PROXY, "--server a:1", "--server: no such option; see ro-ro-tcp proxy --help" },
	{ OPTIONS_PROXY, "--allow any", "--allow: no such option; see ro-ro-tcp proxy --help" },
	{ OPTIONS_PROXY, "-x", "-x: no such option; see ro-ro-tcp proxy --help" },
	{ OPTIONS_PROXY, "--co 3", "--co: no such option; see ro-ro-tcp proxy --help" },
	{ OPTIONS_PROXY, "stray", "\"stray\" is not an option; see ro-ro-tcp proxy --help" },
	{ OPTIONS_PROXY, "-- --stripes",
	  "\"--stripes\" is not an option; see ro-ro-tcp proxy --help" },
	{ OPTIONS_RELAY, "--stripes 8", "--stripes: no such option; see ro-ro-tcp relay --help" },
	{ OPTIONS_RELAY, "--max-groups 0",
	  "--max-groups: \"0\" is not a number from 1 to 1000000" },
	{ OPTIONS_RELAY, "--config /nonexistent/file",
	  "--config: cannot open \"/nonexistent/file\": No such file or directory" },
	{ OPTIONS_RELAY, "--config /tmp", "--config: cannot read \"/tmp\": Is a directory" },
};

START_TEST(test_bad_command_line)
{
	ck_assert_int_eq(read_line(bad_lines[_i].role, bad_lines[_i].line), -1);
	ck_assert_str_eq(why, bad_lines[_i].why);
	options_clear(&o);
}
END_TEST

/* A reason is cut rather than written beyond its room. */
START_TEST(test_long_value)
{
	char long_value[4000];
	char *argv[] = { (char[]){ "proxy" }, (char[]){ "--capture" }, long_value, NULL };

	memset(long_value, 'x', sizeof(long_value) - 1);
	long_value[sizeof(long_value) - 1] = '\0';
	for (int i = 0; i < 3; i++) {
		argv[1] = i == 0   ? (char[]){ "--capture" }
			  : i == 1 ? (char[]){ "--stripes" }
				   : long_value;
		ck_assert_int_eq(options_read(&o, OPTIONS_PROXY, 3, argv, why), -1);
		ck_assert_uint_lt(strlen(why), sizeof(why));
		options_clear(&o);
	}
}
END_TEST

/* Rules keep the order over both options, and those of the command line come first. */
START_TEST(test_rules)
{
	static const char file[] = "[relay]\ndeny = any\n";
	union addr a;

	ck_assert_int_eq(read_file(OPTIONS_RELAY, "--deny 10.0.0.0/8:25 --allow 10.0.0.0/8", file,
				   sizeof(file) - 1),
			 0);
	ck_assert_uint_eq(o.rules.count, 3);
	ck_assert_int_eq(addr_parse(&a, "10.1.1.1:25", 0, false), 0);
	ck_assert_int_eq(rules_judge(&o.rules, &a), RULES_DENY);
	ck_assert_int_eq(addr_parse(&a, "10.1.1.1:26", 0, false), 0);
	ck_assert_int_eq(rules_judge(&o.rules, &a), RULES_ALLOW);
	ck_assert_int_eq(addr_parse(&a, "192.0.2.1:26", 0, false), 0);
	ck_assert_int_eq(rules_judge(&o.rules, &a), RULES_DENY);
	options_clear(&o);

	ck_assert_int_eq(read_line(OPTIONS_RELAY, "--allow 10.0.0.0/33"), -1);
	ck_assert_int_eq(strncmp(why, "--allow: \"10.0.0.0/33\": ", 24), 0);
	options_clear(&o);
}
END_TEST

START_TEST(test_file)
{
	static const char file[] = "# a comment\n"
				   "; another\n"
				   "[relay]\n"
				   "what = other roles read\n"
				   "\n"
				   "[proxy]\n"
				   "relay = 192.0.2.1 ; the one in town\n"
				   "stripes=16\n"
				   "insecure = yes\n"
				   "no-splice = off\n"
				   "pool: 1:2\n";

	ck_assert_msg(read_file(OPTIONS_PROXY, "--stripes 4", file, sizeof(file) - 1) == 0, "%s",
		      why);
	ck_assert_str_eq(o.relay, "192.0.2.1");
	ck_assert_uint_eq(o.stripes, 4);
	ck_assert_uint_eq(o.pool.max, 2);
	ck_assert(o.insecure && !o.no_splice);
	ck_assert_int_eq(options_source(&o, "stripes"), OPTIONS_COMMAND_LINE);
	ck_assert_int_eq(options_source(&o, "relay"), OPTIONS_FILE);
	ck_assert_int_eq(options_source(&o, "grace"), OPTIONS_DEFAULT);
	options_clear(&o);
}
END_TEST

/* No newline at the end, an empty file, DOS line ends. */
START_TEST(test_odd_files)
{
	static const char *const files[] = { "[proxy]\nstripes = 9", "", "\n\n",
					     "[proxy]\r\nstripes = 9\r\n" };

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		ck_assert_msg(read_file(OPTIONS_PROXY, "", files[i], strlen(files[i])) == 0, "%s",
			      why);
		ck_assert_uint_eq(o.stripes, strchr(files[i], '9') ? 9 : 128);
		options_clear(&o);
	}
}
END_TEST

static const struct {
	const char *text;
	const char *why; /* behind "FILE:" */
	size_t length;	 /* 0: that of the text */
} bad_files[] = {
	{ "[proxy]\n\nfrob = 1\n", "3: frob: no such option of a proxy", 0 },
	{ "[proxy]\nserver = a:1\n", "2: server: no such option of a proxy", 0 },
	{ "[proxy]\nstripes = 0\n", "2: stripes: \"0\" is not a number from 1 to 128", 0 },
	{ "[proxy]\nstripes = 2\nstripes = 3\n", "3: stripes: is given twice", 0 },
	{ "[proxy]\nstripes = 2\n  3\n", "3: stripes: is given twice", 0 },
	{ "[proxy]\nconfig = x\n", "2: config: is for the command line only", 0 },
	{ "[proxy]\nhelp = yes\n", "2: help: is for the command line only", 0 },
	{ "[proxy]\nuser =\n", "2: user: must not be empty", 0 },
	{ "[proxy]\ninsecure = perhaps\n", "2: insecure: \"perhaps\" is neither yes nor no", 0 },
	{ "stripes = 2\n", "1: stripes: must be in a section [proxy] or [relay]", 0 },
	{ "[server]\nstripes = 2\n", "2: stripes: must be in a section [proxy] or [relay]", 0 },
	{ "[proxy\nstripes = 2\n", "1: is not [SECTION], NAME = VALUE or a comment", 0 },
	{ "[proxy]\n#\njunk\nfrob = 1\n", "3: is not [SECTION], NAME = VALUE or a comment", 0 },
	{ "[proxy]\nfrob = 1\njunk\n", "2: frob: no such option of a proxy", 0 },
	{ "[proxy]\nuser = a\0b\n", "2: the line is too long, or no text", 19 },
};

START_TEST(test_bad_file)
{
	size_t length = bad_files[_i].length ? bad_files[_i].length : strlen(bad_files[_i].text);
	const char *colon;

	ck_assert_int_eq(read_file(OPTIONS_PROXY, "", bad_files[_i].text, length), -1);
	colon = strchr(why, ':');
	ck_assert_ptr_nonnull(colon);
	ck_assert_str_eq(colon + 1, bad_files[_i].why);
	options_clear(&o);
}
END_TEST

/* inih would take the rest of it for a line of its own. */
START_TEST(test_long_line)
{
	char text[2000];
	int length = snprintf(text, sizeof(text), "[proxy]\nuser = %0500d\nstripes = 3\n", 1);

	ck_assert_int_eq(read_file(OPTIONS_PROXY, "", text, (size_t)length), -1);
	ck_assert_ptr_nonnull(strstr(why, ":2: the line is too long, or no text"));
	options_clear(&o);
}
END_TEST

START_TEST(test_help)
{
	char *text = NULL;
	size_t size;
	FILE *out;

	/* Whatever else there is, and however wrong that may be further on. */
	read_good(OPTIONS_PROXY, "--stripes 3 --help");
	ck_assert(o.help);
	options_clear(&o);
	read_good(OPTIONS_RELAY, "-h");
	ck_assert(o.help);
	options_clear(&o);

	out = open_memstream(&text, &size);
	options_help(OPTIONS_PROXY, out);
	fclose(out);
	ck_assert_ptr_nonnull(strstr(text, "--stripes [MIN:]MAX "));
	ck_assert_ptr_nonnull(strstr(text, "1 to 128 (default: 128)\n"));
	ck_assert_ptr_nonnull(strstr(text, "(default: [::]:9300)\n"));
	ck_assert_ptr_null(strstr(text, "--max-groups"));
	free(text);
}
END_TEST

START_TEST(test_reset)
{
	read_good(OPTIONS_PROXY, "--stripes 3 --key k --insecure --control none");
	options_reset(&o, "stripes");
	options_reset(&o, "key");
	options_reset(&o, "insecure");
	options_reset(&o, "control");
	ck_assert_uint_eq(o.stripes, 128);
	ck_assert_ptr_null(o.key);
	ck_assert(!o.insecure);
	ck_assert_str_eq(o.control, "/run/ro-ro-tcp/proxy.sock");
	ck_assert_int_eq(options_source(&o, "key"), OPTIONS_DEFAULT);
	options_clear(&o);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("options");

	tcase_add_test(tcase, test_defaults);
	tcase_add_test(tcase, test_command_line);
	tcase_add_loop_test(tcase, test_bad_command_line, 0,
			    sizeof(bad_lines) / sizeof(bad_lines[0]));
	tcase_add_test(tcase, test_long_value);
	tcase_add_test(tcase, test_rules);
	tcase_add_test(tcase, test_file);
	tcase_add_test(tcase, test_odd_files);
	tcase_add_loop_test(tcase, test_bad_file, 0, sizeof(bad_files) / sizeof(bad_files[0]));
	tcase_add_test(tcase, test_long_line);
	tcase_add_test(tcase, test_help);
	tcase_add_test(tcase, test_reset);
	return run_case("options", tcase);
}
