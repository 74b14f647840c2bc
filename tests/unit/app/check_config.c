/* SPDX-License-Identifier: ISC */
#include "app/config.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define ARGUMENTS_MAX 20
#define KEY_LINE "0123456789abcdef:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define OTHER_KEY_LINE                                                                             \
	"1123456789abcdef:01112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static struct config c;
static char why[OPTIONS_WHY];
static char key_path[64];
static char messages[4096]; /* what the last load() wrote to standard error */

/* A key file with this text; good for one test. */
static void make_key(const char *text, mode_t mode)
{
	int fd;

	strcpy(key_path, "/tmp/check_config.XXXXXX");
	fd = mkstemp(key_path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	ck_assert_int_eq(fchmod(fd, mode), 0);
	close(fd);
}

static void remove_key(void)
{
	unlink(key_path);
}

/* Loads a command line given as one text; KEY stands for the key file. */
static int load(enum options_role role, const char *line)
{
	char text[1024];
	char *argv[ARGUMENTS_MAX + 1] = { text };
	int argc = 1, result, real_stderr, into;
	ssize_t got;
	FILE *file = tmpfile();

	ck_assert_int_ge(sodium_init(), 0);
	snprintf(text, sizeof(text), "role %s", line);
	for (char *p = text; *p; p++) {
		if (*p != ' ')
			continue;
		*p = '\0';
		ck_assert_int_lt(argc, ARGUMENTS_MAX);
		argv[argc++] = strcmp(p + 1, "KEY") == 0 || strncmp(p + 1, "KEY ", 4) == 0
				       ? key_path
				       : p + 1;
	}
	real_stderr = dup(STDERR_FILENO);
	into = fileno(file);
	ck_assert_int_eq(dup2(into, STDERR_FILENO), STDERR_FILENO);
	result = config_load(&c, role, argc, argv, why);
	ck_assert_int_eq(dup2(real_stderr, STDERR_FILENO), STDERR_FILENO);
	close(real_stderr);
	got = pread(into, messages, sizeof(messages) - 1, 0);
	messages[got > 0 ? got : 0] = '\0';
	fclose(file);
	return result;
}

static void load_good(enum options_role role, const char *line)
{
	ck_assert_msg(load(role, line) == 0, "%s: %s", line, why);
}

START_TEST(test_proxy)
{
	char text[ADDR_TEXT];

	make_key("# ours\n" KEY_LINE "\n", 0600);
	load_good(OPTIONS_PROXY,
		  "--relay 192.0.2.1 --key KEY --capture redirect --no-splice --congestion reno "
		  "--workers 3 --conntrack-zone 7 --connect-timeout 2.5 --max-flows 50 --pool 1:2");
	ck_assert_str_eq(addr_format(&c.proxy.relay, text), "192.0.2.1:9301");
	ck_assert_str_eq(addr_format(config_listen(&c), text), "[::]:9300");
	ck_assert_int_eq(c.proxy.capture, CAPTURE_REDIRECT);
	ck_assert(!c.proxy.base_protocol);
	ck_assert_uint_eq(c.proxy.stripes, 128);
	ck_assert_uint_eq(c.proxy.pool_min, 1);
	ck_assert_uint_eq(c.proxy.pool_max, 2);
	ck_assert_uint_eq(c.proxy.key.id[0], 0x01);
	ck_assert_uint_eq(c.proxy.key.secret[31], 0xff);
	ck_assert_uint_eq(c.proxy.conntrack_zone, 7);
	ck_assert_double_eq(c.proxy.connect_timeout, 2.5);
	ck_assert_double_gt(c.proxy.conntrack_timeout, 0);
	ck_assert_uint_eq(c.proxy.max_flows, 50);
	ck_assert_uint_eq(c.workers, 3);
	ck_assert(!c.engine.splice);
	ck_assert_str_eq(c.engine.congestion, "reno");
	ck_assert_str_eq(messages, "");
	config_clear(&c);
	ck_assert(sodium_is_zero(c.proxy.key.secret, KEY_SIZE));
	remove_key();
}
END_TEST

START_TEST(test_proxy_base)
{
	load_good(OPTIONS_PROXY, "--relay [2001:db8::1]:7 --protocol base");
	ck_assert(c.proxy.base_protocol);
	ck_assert_uint_eq(c.proxy.pool_min + c.proxy.pool_max, 0);
	ck_assert_str_eq(c.engine.congestion, "");
	ck_assert(c.engine.splice);
	ck_assert_uint_ge(c.workers, 1);
	ck_assert_str_eq(messages, "");
	config_clear(&c);
}
END_TEST

START_TEST(test_relay)
{
	char text[ADDR_TEXT];

	make_key(KEY_LINE "\n" OTHER_KEY_LINE, 0600);
	load_good(OPTIONS_RELAY,
		  "--key KEY --server 192.0.2.9:80 --allow-base --deny 10.0.0.0/8 --listen 1234");
	ck_assert_str_eq(addr_format(&c.relay.server, text), "192.0.2.9:80");
	ck_assert_str_eq(addr_format(config_listen(&c), text), "[::]:1234");
	ck_assert(c.relay.allow_base);
	ck_assert_uint_eq(c.relay.keys.count, 2);
	ck_assert_uint_eq(c.relay.rules.count, 1);
	ck_assert_double_eq(c.relay.connect_timeout, 10);
	ck_assert_double_eq(c.relay.greeting_timeout, 10);
	ck_assert_double_eq(c.relay.join_timeout, 5);
	ck_assert_double_eq(c.relay.idle_timeout, 600);
	ck_assert_uint_eq(c.relay.max_stripes, 20000);
	ck_assert_uint_eq(c.relay.max_stripes_per_peer, 10000);
	ck_assert_uint_eq(c.relay.max_groups, 10000);
	config_clear(&c);
	remove_key();
}
END_TEST

/* What is allowed but unwise is said, and only that. */
START_TEST(test_warnings)
{
	load_good(OPTIONS_PROXY, "--relay 192.0.2.1");
	ck_assert_str_eq(messages,
			 "no --key: only a relay that is told --insecure will serve this proxy\n");
	config_clear(&c);
	load_good(OPTIONS_PROXY, "--relay 192.0.2.1 --insecure");
	ck_assert_str_eq(messages, "");
	config_clear(&c);
	load_good(OPTIONS_RELAY, "--insecure");
	ck_assert_uint_eq(c.relay.keys.count, 0);
	ck_assert_str_eq(messages, "no --key: everybody who reaches this relay can use it\n");
	config_clear(&c);

	make_key(KEY_LINE "\n", 0644);
	load_good(OPTIONS_RELAY, "--key KEY");
	ck_assert_ptr_nonnull(strstr(messages, "everybody can read the key file"));
	config_clear(&c);
	remove_key();
	make_key(KEY_LINE "\n", 0640);
	load_good(OPTIONS_RELAY, "--key KEY --insecure");
	ck_assert_uint_eq(c.relay.keys.count, 1);
	ck_assert_str_eq(messages, "");
	config_clear(&c);
	remove_key();
}
END_TEST

static const struct {
	enum options_role role;
	const char *line, *why;
} bad[] = {
	{ OPTIONS_PROXY, "--insecure", "--relay is missing: name the host where the relay runs" },
	{ OPTIONS_PROXY, "--relay 192.0.2.1:0",
	  "--relay: \"192.0.2.1:0\": the port must be from 1 to 65535" },
	{ OPTIONS_PROXY, "--relay 192.0.2", "--relay: \"192.0.2\": it is not an address" },
	{ OPTIONS_PROXY, "--relay a --key k --insecure",
	  "--key and --insecure exclude each other" },
	{ OPTIONS_PROXY, "--relay a --protocol base --key k",
	  "--key: the base protocol has no keys" },
	{ OPTIONS_PROXY, "--relay a --protocol base --pool 0:0",
	  "--pool: the base protocol has no pool" },
	{ OPTIONS_PROXY, "--relay a --verbose --quiet",
	  "--verbose and --quiet exclude each other" },
	{ OPTIONS_PROXY, "--relay a --congestion abcdefghijklmnop",
	  "--congestion: \"abcdefghijklmnop\" is not the name of an algorithm" },
	{ OPTIONS_PROXY, "--relay a --congestion ../x",
	  "--congestion: \"../x\" is not the name of an algorithm" },
	{ OPTIONS_PROXY, "--relay a --key /nonexistent",
	  "--key: cannot read \"/nonexistent\": No such file or directory" },
	{ OPTIONS_PROXY, "--relay a --key /tmp", "--key: cannot read \"/tmp\": Is a directory" },
	{ OPTIONS_PROXY, "--relay a --key /dev/zero",
	  "--key: cannot read \"/dev/zero\": File too large" },
	{ OPTIONS_RELAY, "--listen 9301",
	  "--key is missing: without one this is an open door; if that is meant, say --insecure" },
	{ OPTIONS_RELAY, "--allow-base --insecure",
	  "--allow-base needs --server: the base protocol cannot name a server" },
	{ OPTIONS_RELAY, "--server 192.0.2.1:80 --insecure",
	  "--server needs --allow-base: only flows of the base protocol go there" },
	{ OPTIONS_RELAY, "--allow-base --server 192.0.2.1:80",
	  "--key is missing: without one this is an open door; if that is meant, say --insecure" },
	{ OPTIONS_RELAY, "--allow-base --server 192.0.2.1 --insecure",
	  "--server: \"192.0.2.1\": the port is missing" },
};

START_TEST(test_bad)
{
	ck_assert_int_eq(load(bad[_i].role, bad[_i].line), -1);
	ck_assert_str_eq(why, bad[_i].why);
	config_clear(&c);
}
END_TEST

START_TEST(test_bad_key_file)
{
	char expected[200];

	make_key("# fine\n" KEY_LINE "\nnonsense\n", 0600);
	ck_assert_int_eq(load(OPTIONS_RELAY, "--key KEY"), -1);
	snprintf(expected, sizeof(expected),
		 "%s:3: a key is ID:SECRET, 16 and 64 hexadecimal digits", key_path);
	ck_assert_str_eq(why, expected);
	config_clear(&c);
	remove_key();
}
END_TEST

/* Of two that exclude each other the command line's stands. */
START_TEST(test_exclusion_by_source)
{
	char line[200], path[64];
	const char *text = "[proxy]\nkey = /nonexistent\nquiet = yes\nrelay = 192.0.2.1\n";

	make_key(text, 0600);
	strcpy(path, key_path);
	snprintf(line, sizeof(line), "--config %s --insecure --verbose", path);
	load_good(OPTIONS_PROXY, line);
	ck_assert(c.options.verbose && !c.options.quiet);
	ck_assert_ptr_null(c.options.key);
	ck_assert(sodium_is_zero(c.proxy.key.secret, KEY_SIZE));
	config_clear(&c);
	remove_key();
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("config");

	tcase_add_test(tcase, test_proxy);
	tcase_add_test(tcase, test_proxy_base);
	tcase_add_test(tcase, test_relay);
	tcase_add_test(tcase, test_warnings);
	tcase_add_loop_test(tcase, test_bad, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(tcase, test_bad_key_file);
	tcase_add_test(tcase, test_exclusion_by_source);
	return run_case("config", tcase);
}
