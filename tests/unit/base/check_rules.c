/* SPDX-License-Identifier: ISC */
#include "base/rules.h"

#include <arpa/inet.h>
#include <string.h>

#include "tests/unit/unit.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static enum rules_verdict judge(const struct rules *rules, const char *text)
{
	union addr a;

	ck_assert_msg(addr_parse(&a, text, 0, false) == 0, "%s", text);
	return rules_judge(rules, &a);
}

static void add(struct rules *rules, bool allow, const char *text)
{
	const char *why;

	ck_assert_msg(rules_add(rules, allow, text, &why) == 0, "%s: %s", text, why);
}

START_TEST(test_one_rule)
{
	static const struct {
		const char *rule, *address;
		bool match;
	} rows[] = {
		{ "10.0.0.0/8", "10.0.0.0:1", true },
		{ "10.0.0.0/8", "10.255.255.255:65535", true },
		{ "10.0.0.0/8", "9.255.255.255:1", false },
		{ "10.0.0.0/8", "11.0.0.0:1", false },
		{ "10.1.2.3/8", "10.9.9.9:1", true }, /* only the network counts */
		{ "192.0.2.1", "192.0.2.1:1", true },
		{ "192.0.2.1", "192.0.2.0:1", false },
		{ "192.0.2.1/32", "192.0.2.1:1", true },
		{ "192.0.2.1/32", "192.0.2.3:1", false },
		{ "192.0.2.0/31", "192.0.2.1:1", true },
		{ "192.0.2.0/31", "192.0.2.2:1", false },
		{ "128.0.0.0/1", "255.0.0.1:1", true },
		{ "128.0.0.0/1", "127.0.0.1:1", false },
		{ "10.16.0.0/12", "10.31.255.255:1", true },
		{ "10.16.0.0/12", "10.32.0.0:1", false },
		{ "0.0.0.0/0", "203.0.113.9:1", true },
		{ "0.0.0.0/0", "[2001:db8::1]:1", false },
		{ "::/0", "[2001:db8::1]:1", true },
		{ "::/0", "203.0.113.9:1", false },
		{ "2001:db8::/32", "[2001:db8:ffff::1]:1", true },
		{ "2001:db8::/32", "[2001:db9::1]:1", false },
		{ "2001:db8::/33", "[2001:db8:7fff::1]:1", true },
		{ "2001:db8::/33", "[2001:db8:8000::1]:1", false },
		{ "[2001:db8::]/32", "[2001:db8::1]:1", true },
		{ "2001:db8::1", "[2001:db8::1]:1", true },
		{ "2001:db8::1", "[2001:db8::2]:1", false },
		{ "2001:db8::1/128", "[2001:db8::1]:1", true },
		{ "[2001:db8::1]:443", "[2001:db8::1]:443", true },
		{ "[2001:db8::1]:443", "[2001:db8::1]:444", false },
		{ "[2001:db8::]/32:80,8000-8100", "[2001:db8::1]:80", true },
		{ "[2001:db8::]/32:80,8000-8100", "[2001:db8::1]:81", false },
		{ "[2001:db8::]/32:80,8000-8100", "[2001:db8::1]:7999", false },
		{ "[2001:db8::]/32:80,8000-8100", "[2001:db8::1]:8000", true },
		{ "[2001:db8::]/32:80,8000-8100", "[2001:db8::1]:8100", true },
		{ "[2001:db8::]/32:80,8000-8100", "[2001:db8::1]:8101", false },
		{ "192.0.2.1:443", "192.0.2.1:443", true },
		{ "192.0.2.1:443", "192.0.2.1:442", false },
		{ "192.0.2.1:443", "192.0.2.2:443", false },
		{ "10.0.0.0/8:1-65535", "10.0.0.1:65535", true },
		{ "10.0.0.0/8:80-80", "10.0.0.1:80", true },
		{ "any", "192.0.2.1:1", true },
		{ "any", "[2001:db8::1]:1", true },
		{ "any:25", "192.0.2.1:25", true },
		{ "any:25", "[2001:db8::1]:25", true },
		{ "any:25", "[2001:db8::1]:26", false },
		/* An IPv4 network is one however it's written. */
		{ "::ffff:10.0.0.0/104", "10.200.0.1:1", true },
		{ "::ffff:10.0.0.0/104", "11.0.0.1:1", false },
		{ "[::ffff:192.0.2.1]:80", "192.0.2.1:80", true },
		{ "::ffff:0:0/96", "192.0.2.1:80", true },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		for (int allow = 0; allow < 2; allow++) {
			const enum rules_verdict hit = allow ? RULES_ALLOW : RULES_DENY;
			const enum rules_verdict wanted = rows[i].match ? hit : RULES_NO_MATCH;
			struct rules rules = { 0 };

			add(&rules, allow, rows[i].rule);
			ck_assert_uint_eq(rules.count, 1);
			ck_assert_msg(judge(&rules, rows[i].address) == wanted, "%s %s",
				      rows[i].rule, rows[i].address);
			rules_clear(&rules);
		}
	}
}
END_TEST

START_TEST(test_bad)
{
	/* clang-format off */
	static const char *const texts[] = {
		"", " ", ":", "/", ":80", "/8", "any ", " any", "Any", "anything", "any/8",
		"any:", "any:0", "any:65536", "any:-1", "any:80-", "any:-80", "any:90-80",
		"any:80,", "any:,80", "any:80,,81", "any:80 ,81", "any:http", "any:80-90-100",
		"any:80:81", "any:999999999999999999999", "10.0.0.0/", "10.0.0.0/33",
		"10.0.0.0/-1", "10.0.0.0/8x", "10.0.0.0/8/8", "10.0.0.0/999999999999999999999",
		"10.0.0.0/8:", "10.0.0.0/:80", "10/8", "10.0.0/8", "10.0.0.256", "10.0.0.0/ 8",
		"2001:db8::/129", "2001:db8::/", "2001:db8::/32:80", "[2001:db8::]/129",
		"[2001:db8::/32", "[2001:db8::/32]", "2001:db8::]/32", "[2001:db8::]x",
		"[2001:db8::]:", "[2001:db8::]/32:", "[10.0.0.0]/8", "[any]", "[]", "[", "]",
		"[]:80", "1::2::3", "localhost", "localhost:80", "fe80::1%lo",
		"[2001:db8::]:80/32",
		"any:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", /* one too many */
		"1111:2222:3333:4444:5555:6666:7777:8888:1111:2222:3333:4444:5555:6666:7777:8888",
	};
	/* clang-format on */
	struct rules rules = { 0 };

	for (size_t i = 0; i < COUNT(texts); i++) {
		const char *why = NULL;

		ck_assert_msg(rules_add(&rules, true, texts[i], &why) == -1, "%s", texts[i]);
		ck_assert_ptr_nonnull(why);
		ck_assert_uint_eq(rules.count, 0);
	}
	rules_clear(&rules);
}
END_TEST

START_TEST(test_reasons)
{
	struct rules rules = { 0 };
	const char *why;

	ck_assert_int_eq(rules_add(&rules, true, "any:0", &why), -1);
	ck_assert_str_eq(why, "a port or a range of ports is from 1 to 65535");
	ck_assert_int_eq(
		rules_add(&rules, true, "any:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", &why), -1);
	ck_assert_str_eq(why, "a rule has at most 16 ports or ranges");
	add(&rules, true, "any:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16-20");
	ck_assert_int_eq(judge(&rules, "192.0.2.1:20"), RULES_ALLOW);
	ck_assert_int_eq(judge(&rules, "192.0.2.1:21"), RULES_NO_MATCH);
	rules_clear(&rules);
}
END_TEST

START_TEST(test_first_match_wins)
{
	struct rules rules = { 0 };

	ck_assert_int_eq(judge(&rules, "10.1.2.3:80"), RULES_NO_MATCH);
	add(&rules, false, "any:25");
	add(&rules, true, "10.1.0.0/16:80,443");
	add(&rules, false, "10.0.0.0/8");
	add(&rules, true, "10.0.0.1");
	add(&rules, true, "2001:db8::/32");
	add(&rules, false, "::/0");
	ck_assert_int_eq(judge(&rules, "10.1.2.3:25"), RULES_DENY);
	ck_assert_int_eq(judge(&rules, "10.1.2.3:80"), RULES_ALLOW);
	ck_assert_int_eq(judge(&rules, "10.1.2.3:81"), RULES_DENY);
	ck_assert_int_eq(judge(&rules, "10.0.0.1:80"), RULES_DENY);
	ck_assert_int_eq(judge(&rules, "192.0.2.1:80"), RULES_NO_MATCH);
	ck_assert_int_eq(judge(&rules, "192.0.2.1:25"), RULES_DENY);
	ck_assert_int_eq(judge(&rules, "[2001:db8::1]:80"), RULES_ALLOW);
	ck_assert_int_eq(judge(&rules, "[2001:db9::1]:80"), RULES_DENY);
	rules_clear(&rules);
	ck_assert_uint_eq(rules.count, 0);
	ck_assert_int_eq(judge(&rules, "10.1.2.3:25"), RULES_NO_MATCH);
	rules_clear(&rules);
}
END_TEST

/* Nobody gets past a rule for IPv4 by writing the address as IPv6. */
START_TEST(test_mapped_address)
{
	union addr a = { .in6.sin6_family = AF_INET6 };
	struct rules rules = { 0 };

	inet_pton(AF_INET6, "::ffff:10.0.0.1", &a.in6.sin6_addr);
	add(&rules, true, "::/0");
	add(&rules, false, "10.0.0.0/8");
	ck_assert_int_eq(rules_judge(&rules, &a), RULES_DENY);
	rules_clear(&rules);
}
END_TEST

START_TEST(test_many)
{
	struct rules rules = { 0 };

	for (int i = 0; i < 1000; i++)
		add(&rules, false, "10.0.0.0/8");
	add(&rules, true, "192.0.2.0/24");
	ck_assert_uint_eq(rules.count, 1001);
	ck_assert_int_eq(judge(&rules, "192.0.2.1:1"), RULES_ALLOW);
	rules_clear(&rules);
}
END_TEST

int main(void)
{
	return RUN_TESTS("rules", test_one_rule, test_bad, test_reasons, test_first_match_wins,
			 test_mapped_address, test_many);
}
