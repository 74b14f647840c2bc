/* SPDX-License-Identifier: ISC */
#include "base/addr.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <string.h>
#include <sys/resource.h>

#include "tests/unit/unit.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static union addr parsed(const char *text)
{
	union addr a;

	ck_assert_msg(addr_parse(&a, text, 0, false) == 0, "%s", text);
	return a;
}

START_TEST(test_parse_good)
{
	static const struct {
		const char *text;
		uint16_t default_port;
		bool any_host;
		const char *wanted;
	} rows[] = {
		{ "192.0.2.1:80", 0, false, "192.0.2.1:80" },
		{ "192.0.2.1:80", 9300, true, "192.0.2.1:80" },
		{ "192.0.2.1", 9300, false, "192.0.2.1:9300" },
		{ "0.0.0.0:1", 0, false, "0.0.0.0:1" },
		{ "255.255.255.255:65535", 0, false, "255.255.255.255:65535" },
		{ "192.0.2.1:0", 0, false, "192.0.2.1:0" }, /* the kernel is to choose */
		{ "192.0.2.1:0", 9300, false, "192.0.2.1:0" },
		{ "192.0.2.1:00080", 0, false, "192.0.2.1:80" },
		{ "[2001:db8::1]:443", 0, false, "[2001:db8::1]:443" },
		{ "[2001:db8::1]", 9300, false, "[2001:db8::1]:9300" },
		{ "2001:db8::1", 9300, false, "[2001:db8::1]:9300" },
		{ "2001:DB8:0:0::1", 9300, false, "[2001:db8::1]:9300" },
		{ "::", 9300, false, "[::]:9300" },
		{ "[::]:9300", 0, false, "[::]:9300" },
		{ "2001:db8::1:80", 9300, false,
		  "[2001:db8::1:80]:9300" }, /* all of it is the address */
		{ "[1:2:3:4:5:6:7:8]:9", 0, false, "[1:2:3:4:5:6:7:8]:9" },
		{ "[fe80::1%lo]:80", 0, false, "[fe80::1%lo]:80" },
		{ "fe80::1%lo", 80, false, "[fe80::1%lo]:80" },
		{ "[::ffff:192.0.2.1]:80", 0, false, "192.0.2.1:80" },
		{ "::ffff:192.0.2.1", 80, false, "192.0.2.1:80" },
		{ "::ffff:c000:201", 80, false, "192.0.2.1:80" },
		{ "9300", 0, true, "[::]:9300" },
		{ "0", 0, true, "[::]:0" },
		{ "65535", 9300, true, "[::]:65535" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		char text[ADDR_TEXT];
		union addr a;

		ck_assert_msg(
			addr_parse(&a, rows[i].text, rows[i].default_port, rows[i].any_host) == 0,
			"%s", rows[i].text);
		ck_assert_str_eq(addr_format(&a, text), rows[i].wanted);
	}
}
END_TEST

START_TEST(test_parse_bad)
{
	static const struct {
		const char *text;
		uint16_t default_port;
		bool any_host;
	} rows[] = {
		{ "", 9300, true },
		{ "192.0.2.1", 0, false },
		{ "[2001:db8::1]", 0, false },
		{ "2001:db8::1", 0, false },
		{ "9300", 9300, false },
		{ "65536", 9300, true },
		{ "100000", 9300, true },
		{ "99999999999999999999999999", 9300, true },
		{ "-1", 9300, true },
		{ "+1", 9300, true },
		{ " 1", 9300, true },
		{ "1 ", 9300, true },
		{ "0x50", 9300, true },
		{ ":80", 9300, true },
		{ "192.0.2.1:", 9300, true },
		{ "192.0.2.1:65536", 9300, true },
		{ "192.0.2.1:-1", 9300, true },
		{ "192.0.2.1:+1", 9300, true },
		{ "192.0.2.1:80x", 9300, true },
		{ "192.0.2.1:http", 9300, true },
		{ "192.0.2.1: 80", 9300, true },
		{ "192.0.2.1:000080", 9300, true },
		{ "192.0.2.1:80:", 9300, true },
		{ " 192.0.2.1:80", 9300, true },
		{ "192.0.2.1 :80", 9300, true },
		{ "192.0.2.1%lo:80", 9300, true },
		{ "192.0.2.256:80", 9300, true },
		{ "192.0.2:80", 9300, true },
		{ "192.0.2.1.1:80", 9300, true },
		{ "0x7f.0.0.1:80", 9300, true },
		{ "[192.0.2.1]:80", 9300, true },
		{ "[]:80", 9300, true },
		{ "[", 9300, true },
		{ "]", 9300, true },
		{ "[::1", 9300, true },
		{ "::1]", 9300, true },
		{ "[::1]80", 9300, true },
		{ "[::1]:", 9300, true },
		{ "[::1]:80x", 9300, true },
		{ "[[::1]]:80", 9300, true },
		{ "[::1%]:80", 9300, true },
		{ "[%lo]:80", 9300, true },
		{ "[fe80::1%no-such-interface]:80", 9300, true },
		{ "1::2::3", 9300, true },
		{ "12345::", 9300, true },
		{ "1:2:3:4:5:6:7:8:9", 9300, true },
		{ "localhost:80", 9300, true },
		{ "localhost", 9300, true },
	};
	char text[2000];
	union addr a, before;

	memset(&before, 0x5a, sizeof(before));
	memset(&a, 0x5a, sizeof(a));
	for (size_t i = 0; i < COUNT(rows); i++) {
		ck_assert_msg(
			addr_parse(&a, rows[i].text, rows[i].default_port, rows[i].any_host) == -1,
			"%s", rows[i].text);
		ck_assert_mem_eq(&a, &before, sizeof(a));
	}
	for (size_t length = 0; length < sizeof(text); length++) {
		memset(text, ':', sizeof(text));
		text[length] = '\0';
		if (length != 2) /* "::" */
			ck_assert_int_eq(addr_parse(&a, text, 9300, true), -1);
	}
}
END_TEST

START_TEST(test_resolve)
{
	static const struct {
		const char *text;
		uint16_t default_port;
		const char *wanted;
	} rows[] = {
		{ "192.0.2.1:80", 0, "192.0.2.1:80" },
		{ "192.0.2.1", 9301, "192.0.2.1:9301" },
		{ "[2001:db8::1]:80", 0, "[2001:db8::1]:80" },
		{ "2001:db8::1", 9301, "[2001:db8::1]:9301" },
		{ "[::ffff:192.0.2.1]:80", 0, "192.0.2.1:80" },
	};
	char text[ADDR_TEXT];
	const char *why;
	union addr a;

	for (size_t i = 0; i < COUNT(rows); i++) {
		ck_assert_int_eq(addr_resolve(&a, rows[i].text, rows[i].default_port, &why), 0);
		ck_assert_str_eq(addr_format(&a, text), rows[i].wanted);
	}
	ck_assert_msg(addr_resolve(&a, "localhost", 9301, &why) == 0, "%s", why);
	ck_assert(addr_is_loopback(&a));
	ck_assert_uint_eq(addr_port(&a), 9301);
	ck_assert_int_eq(addr_resolve(&a, "localhost:80", 9301, &why), 0);
	ck_assert_uint_eq(addr_port(&a), 80);
}
END_TEST

START_TEST(test_resolve_bad)
{
	static const struct {
		const char *text;
		uint16_t default_port;
		const char *why;
	} rows[] = {
		{ "", 9301, "it is not HOST:PORT" },
		{ ":80", 9301, "it is not HOST:PORT" },
		{ "[2001:db8::1", 9301, "it is not HOST:PORT" },
		{ "[localhost]:80", 9301, "it is not HOST:PORT" },
		{ "localhost:http", 9301, "it is not HOST:PORT" },
		{ "localhost:65536", 9301, "it is not HOST:PORT" },
		{ "localhost", 0, "the port is missing" },
		{ "192.0.2.1", 0, "the port is missing" },
		{ "192.0.2.1:0", 9301, "the port must be from 1 to 65535" },
		{ "localhost:0", 9301, "the port must be from 1 to 65535" },
		{ "10.1", 9301, "it is not an address" },
		{ "1", 9301, "it is not an address" },
		{ "192.0.2.256:80", 9301, "it is not an address" },
		{ "2001:db8:::1", 9301, "it is not an address" },
		{ "fe80::1%no-such-interface", 9301, "it is not an address" },
	};
	const char *why;
	union addr a;

	for (size_t i = 0; i < COUNT(rows); i++) {
		ck_assert_msg(addr_resolve(&a, rows[i].text, rows[i].default_port, &why) == -1,
			      "%s", rows[i].text);
		ck_assert_str_eq(why, rows[i].why);
	}
}
END_TEST

START_TEST(test_ports_and_lengths)
{
	union addr v4 = parsed("192.0.2.1:80"), v6 = parsed("[2001:db8::1]:80");
	union addr none = { .sa.sa_family = AF_UNSPEC };
	char text[ADDR_TEXT];

	ck_assert_uint_eq(addr_length(&v4), sizeof(struct sockaddr_in));
	ck_assert_uint_eq(addr_length(&v6), sizeof(struct sockaddr_in6));
	ck_assert_uint_eq(addr_length(&none), 0);
	ck_assert_uint_eq(addr_port(&none), 0);
	addr_set_port(&v4, 65535);
	addr_set_port(&v6, 258);
	addr_set_port(&none, 1);
	ck_assert_str_eq(addr_format(&v4, text), "192.0.2.1:65535");
	ck_assert_str_eq(addr_format(&v6, text), "[2001:db8::1]:258");
	ck_assert_str_eq(addr_format(&none, text), "(none)");
	ck_assert_uint_eq(v6.in6.sin6_port, htons(258));
}
END_TEST

START_TEST(test_longest_text)
{
	union addr a = parsed("[1111:2222:3333:4444:5555:6666:7777:8888]:65535");
	char text[ADDR_TEXT];

	a.in6.sin6_scope_id = 0xffffffff;
	ck_assert_str_eq(addr_format(&a, text),
			 "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535");
}
END_TEST

START_TEST(test_unmap)
{
	union addr a = { .in6 = { .sin6_family = AF_INET6, .sin6_port = htons(80) } };
	union addr v6 = parsed("[2001:db8::1]:80"), v4 = parsed("192.0.2.1:80");
	char text[ADDR_TEXT];

	inet_pton(AF_INET6, "::ffff:192.0.2.1", &a.in6.sin6_addr);
	ck_assert_str_eq(addr_format(&a, text), "[::ffff:192.0.2.1]:80");
	ck_assert(!addr_equal(&a, &v4));
	addr_unmap(&a);
	ck_assert_str_eq(addr_format(&a, text), "192.0.2.1:80");
	ck_assert(addr_equal(&a, &v4));
	addr_unmap(&a);
	ck_assert_str_eq(addr_format(&a, text), "192.0.2.1:80");
	addr_unmap(&v6);
	ck_assert_str_eq(addr_format(&v6, text), "[2001:db8::1]:80");
}
END_TEST

START_TEST(test_equal)
{
	static const char *const all[] = {
		"192.0.2.1:80",	    "192.0.2.1:81",	"192.0.2.2:80",
		"[2001:db8::1]:80", "[2001:db8::1]:81", "[2001:db8::2]:80",
		"[2001:db9::1]:80", "[::]:80",		"0.0.0.0:80",
	};
	const union addr none = { .sa.sa_family = AF_UNSPEC };

	for (size_t i = 0; i < COUNT(all); i++) {
		union addr a = parsed(all[i]);

		for (size_t j = 0; j < COUNT(all); j++) {
			union addr b = parsed(all[j]);

			ck_assert(addr_equal(&a, &b) == (i == j));
			addr_set_port(&b, addr_port(&a));
			ck_assert(addr_same_host(&a, &b) == addr_equal(&a, &b));
			addr_set_port(&b, 7);
			ck_assert(!addr_equal(&a, &b));
		}
		ck_assert(!addr_equal(&a, &none));
	}
	ck_assert(addr_equal(&none, &none));
}
END_TEST

START_TEST(test_kinds)
{
	enum { PLAIN, LOOPBACK, LINK_LOCAL, MULTICAST, UNSPECIFIED };
	static const struct {
		const char *text;
		int kind;
	} rows[] = {
		{ "126.255.255.255", PLAIN },
		{ "127.0.0.0", LOOPBACK },
		{ "127.255.255.255", LOOPBACK },
		{ "128.0.0.0", PLAIN },
		{ "0.0.0.0", UNSPECIFIED },
		{ "0.255.255.255", UNSPECIFIED },
		{ "1.0.0.0", PLAIN },
		{ "169.253.255.255", PLAIN },
		{ "169.254.0.0", LINK_LOCAL },
		{ "169.254.255.255", LINK_LOCAL },
		{ "169.255.0.0", PLAIN },
		{ "223.255.255.255", PLAIN },
		{ "224.0.0.0", MULTICAST },
		{ "239.255.255.255", MULTICAST },
		{ "240.0.0.0", PLAIN },
		{ "255.255.255.254", PLAIN },
		{ "255.255.255.255", MULTICAST },
		{ "::", UNSPECIFIED },
		{ "::1", LOOPBACK },
		{ "::2", PLAIN },
		{ "::127.0.0.1", PLAIN }, /* no mapped address */
		{ "2001:db8::1", PLAIN },
		{ "fc00::1", PLAIN },
		{ "fe7f:ffff::", PLAIN },
		{ "fe80::", LINK_LOCAL },
		{ "febf:ffff::", LINK_LOCAL },
		{ "fec0::", PLAIN },
		{ "feff::", PLAIN },
		{ "ff00::", MULTICAST },
		{ "ff02::1", MULTICAST },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		for (int mapped = 0; mapped < 2; mapped++) {
			union addr a;

			ck_assert_int_eq(addr_parse(&a, rows[i].text, 80, false), 0);
			if (mapped && a.sa.sa_family == AF_INET) {
				struct in_addr v4 = a.in.sin_addr;

				a = (union addr){ .in6.sin6_family = AF_INET6 };
				a.in6.sin6_addr.s6_addr[10] = a.in6.sin6_addr.s6_addr[11] = 0xff;
				memcpy(&a.in6.sin6_addr.s6_addr[12], &v4, sizeof(v4));
			}
			ck_assert_msg(addr_is_loopback(&a) == (rows[i].kind == LOOPBACK), "%s",
				      rows[i].text);
			ck_assert_msg(addr_is_link_local(&a) == (rows[i].kind == LINK_LOCAL), "%s",
				      rows[i].text);
			ck_assert_msg(addr_is_multicast(&a) == (rows[i].kind == MULTICAST), "%s",
				      rows[i].text);
			ck_assert_msg(addr_is_unspecified(&a) == (rows[i].kind == UNSPECIFIED),
				      "%s", rows[i].text);
		}
	}
}
END_TEST

START_TEST(test_kinds_of_none)
{
	const union addr none = { .sa.sa_family = AF_UNSPEC };

	ck_assert(!addr_is_loopback(&none) && !addr_is_link_local(&none) &&
		  !addr_is_multicast(&none) && !addr_is_unspecified(&none) &&
		  !addr_is_local(-1, &none));
}
END_TEST

START_TEST(test_local)
{
	static const char *const remote[] = { "192.0.2.1:80", "[2001:db8::1]:80",
					      "198.51.100.7:80" };
	union addr loopback = parsed("127.0.0.1:80"), other = parsed("127.1.2.3:0");
	union addr mapped = { .in6.sin6_family = AF_INET6 };
	struct ifaddrs *all;

	inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.in6.sin6_addr);
	ck_assert(addr_is_local(-1, &loopback));
	ck_assert(addr_is_local(-1, &other));
	ck_assert(addr_is_local(-1, &mapped));
	for (size_t i = 0; i < COUNT(remote); i++) {
		union addr a = parsed(remote[i]);

		ck_assert_msg(!addr_is_local(-1, &a), "%s", remote[i]);
	}
	ck_assert_int_eq(getifaddrs(&all), 0);
	for (struct ifaddrs *i = all; i; i = i->ifa_next) {
		char text[ADDR_TEXT];
		union addr a = { 0 };

		if (!i->ifa_addr ||
		    (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
			continue;
		a.sa.sa_family = i->ifa_addr->sa_family;
		memcpy(&a, i->ifa_addr, addr_length(&a));
		ck_assert_msg(addr_is_local(-1, &a) || addr_is_link_local(&a), "%s",
			      addr_format(&a, text));
	}
	freeifaddrs(all);
}
END_TEST

/* Who can't ask must not say that an address is somebody else's. */
START_TEST(test_local_without_descriptors)
{
	const union addr a = parsed("198.51.100.7:80");
	struct rlimit usual, none;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &usual), 0);
	none = usual;
	none.rlim_cur = 0;
	ck_assert(!addr_is_local(-1, &a));
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	ck_assert(addr_is_local(-1, &a));
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &usual), 0);
}
END_TEST

int main(void)
{
	return RUN_TESTS("addr", test_parse_good, test_parse_bad, test_resolve, test_resolve_bad,
			 test_ports_and_lengths, test_longest_text, test_unmap, test_equal,
			 test_kinds, test_kinds_of_none, test_local,
			 test_local_without_descriptors);
}
