/* SPDX-License-Identifier: ISC */
#include "net/privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"

/* Check runs each test in a process of its own: what is given up there is not missed elsewhere. */

static char why[200];

static bool is_root(void)
{
	return geteuid() == 0;
}

static struct privileges_user find(const char *name)
{
	struct privileges_user user;

	ck_assert_msg(privileges_find_user(name, &user, why, sizeof(why)) == 0, "%s", why);
	return user;
}

START_TEST(test_find_user)
{
	struct privileges_user user;
	const struct passwd *own;

	if (!is_root()) {
		user = find(NULL);
		ck_assert_uint_eq(user.uid, geteuid());
		ck_assert_int_eq(privileges_find_user("root", &user, why, sizeof(why)), -1);
		ck_assert_str_eq(why, "cannot become user \"root\": only root can");
		return;
	}
	ck_assert_uint_eq(find("root").uid, 0);
	own = getpwnam("ro-ro-tcp");
	if (!own)
		own = getpwnam("nobody");
	ck_assert_ptr_nonnull(own);
	user = find(NULL);
	ck_assert_uint_eq(user.uid, own->pw_uid);
	ck_assert_uint_eq(user.gid, own->pw_gid);
	ck_assert_int_eq(privileges_find_user("no-such-user", &user, why, sizeof(why)), -1);
	ck_assert_str_eq(why,
			 "there is no user \"no-such-user\"; make it or name another with --user");
}
END_TEST

/* _i: whether CAP_NET_ADMIN is to stay. */
START_TEST(test_drop)
{
	struct privileges_user user = find(NULL);
	bool had = privileges_net_admin();

	ck_assert_msg(privileges_drop(&user, _i, why, sizeof(why)) == 0, "%s", why);
	ck_assert_uint_eq(getuid(), user.uid);
	ck_assert_uint_eq(geteuid(), user.uid);
	ck_assert_uint_eq(getgid(), user.gid);
	ck_assert_int_eq(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
	ck_assert_int_eq(privileges_net_admin(), _i && had);
	capng_get_caps_process();
	ck_assert(!capng_have_capability(CAPNG_PERMITTED, CAP_SETUID));
	ck_assert(!capng_have_capability(CAPNG_PERMITTED, CAP_NET_RAW));
	ck_assert(!capng_have_capability(CAPNG_EFFECTIVE, CAP_DAC_OVERRIDE));
	if (had) {
		ck_assert_int_eq(getgroups(0, NULL), 0);
		ck_assert_int_eq(setuid(0), -1);
		ck_assert_int_eq(open("/etc/shadow", O_RDONLY), -1);
		ck_assert_int_eq(errno, EACCES);
	}
}
END_TEST

/* The capability is not only in the books: the kernel grants what it is for. */
START_TEST(test_transparent_after_drop)
{
	struct privileges_user user = find(NULL);
	const int one = 1;
	int fd;

	if (!privileges_net_admin())
		return;
	ck_assert_int_eq(privileges_drop(&user, _i, why, sizeof(why)), 0);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &one, sizeof(one)),
			 _i ? 0 : -1);
	close(fd);
}
END_TEST

START_TEST(test_stay_root)
{
	struct privileges_user user;

	if (!is_root())
		return;
	user = find("root");
	ck_assert_msg(privileges_drop(&user, true, why, sizeof(why)) == 0, "%s", why);
	ck_assert_uint_eq(getuid(), 0);
	capng_get_caps_process();
	ck_assert(!capng_have_capability(CAPNG_PERMITTED, CAP_SYS_ADMIN));
	/* And a second time, with what is left. */
	ck_assert_msg(privileges_drop(&user, false, why, sizeof(why)) == 0, "%s", why);
	ck_assert(!privileges_net_admin());
}
END_TEST

START_TEST(test_cannot_become)
{
	struct privileges_user user;

	if (!is_root())
		return;
	user = find(NULL);
	/* Without CAP_SETUID and CAP_SETGID even root cannot. */
	capng_get_caps_process();
	capng_updatev(CAPNG_DROP, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_SETUID, CAP_SETGID, -1);
	ck_assert_int_eq(capng_apply(CAPNG_SELECT_CAPS), 0);
	ck_assert_int_eq(privileges_drop(&user, true, why, sizeof(why)), -1);
	ck_assert_ptr_nonnull(strstr(why, "cannot drop privileges to user "));
	ck_assert_uint_eq(getuid(), 0);
}
END_TEST

static void set_limit(rlim_t soft, rlim_t hard)
{
	const struct rlimit limit = { .rlim_cur = soft, .rlim_max = hard };

	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static rlim_t soft_limit(void)
{
	struct rlimit limit;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	return limit.rlim_cur;
}

START_TEST(test_descriptors)
{
	struct privileges_user user = find(NULL);

	set_limit(64, 256);
	ck_assert_uint_eq(privileges_raise_descriptors(32), 64);
	ck_assert_uint_eq(privileges_raise_descriptors(100), 100);
	ck_assert_uint_eq(soft_limit(), 100);
	ck_assert_int_eq(privileges_drop(&user, false, why, sizeof(why)), 0);
	ck_assert_uint_eq(privileges_raise_descriptors(1000000), 256);
	ck_assert_uint_eq(soft_limit(), 256);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("privileges");

	tcase_add_test(tcase, test_find_user);
	tcase_add_loop_test(tcase, test_drop, 0, 2);
	tcase_add_loop_test(tcase, test_transparent_after_drop, 0, 2);
	tcase_add_test(tcase, test_stay_root);
	tcase_add_test(tcase, test_cannot_become);
	tcase_add_test(tcase, test_descriptors);
	return run_case("privileges", tcase);
}
