/* SPDX-License-Identifier: ISC */
#include "role/service.h"

#include <string.h>

#include "tests/unit/unit.h"

static union addr address(const char *text)
{
	union addr a;

	ck_assert_int_eq(addr_parse(&a, text, 0, false), 0);
	return a;
}

/* As it stands in an Open: not unmapped yet. */
static union addr mapped(const char *v4)
{
	union addr a = address(v4), m = {.in6 = {.sin6_family = AF_INET6, .sin6_port = a.in.sin_port}};

	m.in6.sin6_addr.s6_addr[10] = m.in6.sin6_addr.s6_addr[11] = 0xff;
	memcpy(m.in6.sin6_addr.s6_addr + 12, &a.in.sin_addr, 4);
	return m;
}

START_TEST(test_defaults)
{
	static const struct {
		const char *text;
		bool forbidden;
	} rows[] = {
		{"192.0.2.1:80", false},
		{"[2001:db8::1]:443", false},
		{"127.0.0.1:80", true},
		{"127.255.255.254:22", true},
		{"[::1]:22", true},
		{"169.254.1.1:80", true},
		{"[fe80::1]:80", true},
		{"224.0.0.1:80", true},
		{"239.255.255.255:80", true},
		{"255.255.255.255:80", true},
		{"[ff02::1]:80", true},
		{"0.0.0.0:80", true},
		{"0.1.2.3:80", true},
		{"[::]:80", true},
	};
	const struct relay_settings settings = {0};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		union addr a = address(rows[i].text);

		ck_assert_msg(service_forbidden(&settings, -1, &a) == rows[i].forbidden, "%s", rows[i].text);
		if (a.sa.sa_family != AF_INET || !rows[i].forbidden)
			continue;
		a = mapped(rows[i].text);
		ck_assert_msg(service_forbidden(&settings, -1, &a), "mapped %s", rows[i].text);
	}
}
END_TEST

/* The first rule that matches has the last word, also over the defaults. */
START_TEST(test_rules)
{
	struct relay_settings settings = {0};
	const char *why;
	static const struct {
		const char *text;
		bool forbidden;
	} rows[] = {
		{"127.0.0.1:80", false},    {"127.0.0.1:81", true},    {"192.0.2.1:25", true},	{"192.0.2.1:80", false},
		{"198.51.100.7:80", false}, {"198.51.100.8:80", true}, {"[2001:db8::1]:25", true},
	};

	ck_assert_int_eq(rules_add(&settings.rules, true, "127.0.0.1:80", &why), 0);
	ck_assert_int_eq(rules_add(&settings.rules, false, "any:25", &why), 0);
	ck_assert_int_eq(rules_add(&settings.rules, true, "198.51.100.7", &why), 0);
	ck_assert_int_eq(rules_add(&settings.rules, false, "198.51.100.0/24", &why), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		union addr a = address(rows[i].text);

		ck_assert_msg(service_forbidden(&settings, -1, &a) == rows[i].forbidden, "%s", rows[i].text);
	}
	rules_clear(&settings.rules);
}
END_TEST

int main(void)
{
	return RUN_TESTS("service", test_defaults, test_rules);
}
