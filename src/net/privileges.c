/* SPDX-License-Identifier: ISC */
#include "net/privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define OWN_USER "ro-ro-tcp"
#define FALLBACK_USER "nobody"

bool privileges_net_admin(void)
{
	return capng_get_caps_process() == 0 &&
	       capng_have_capability(CAPNG_EFFECTIVE, CAP_NET_ADMIN);
}

int privileges_find_user(const char *name, struct privileges_user *user, char *why, unsigned size)
{
	const struct passwd *entry;

	if (geteuid() != 0) {
		entry = name ? getpwnam(name) : NULL;
		if (name && (!entry || entry->pw_uid != geteuid())) {
			snprintf(why, size, "cannot become user \"%s\": only root can", name);
			return -1;
		}
		*user = (struct privileges_user){ .uid = geteuid(), .gid = getegid() };
		return 0;
	}
	if (name) {
		entry = getpwnam(name);
	} else {
		entry = getpwnam(OWN_USER);
		if (!entry)
			entry = getpwnam(FALLBACK_USER);
	}
	if (!entry) {
		snprintf(why, size, "there is no user \"%s\"; make it or name another with --user",
			 name ? name : OWN_USER "\" and no user \"" FALLBACK_USER);
		return -1;
	}
	*user = (struct privileges_user){ .uid = entry->pw_uid, .gid = entry->pw_gid };
	return 0;
}

/* libcap-ng works on a copy of the capabilities: this leaves only CAP_NET_ADMIN in it. */
static void select_capabilities(bool net_admin)
{
	capng_clear(CAPNG_SELECT_ALL);
	if (net_admin)
		capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_NET_ADMIN);
}

/*
 * What was given up must not come back, and what was to stay must be there: better no daemon than
 * one that is wrong about it.
 */
static int verify(const struct privileges_user *user, bool net_admin, char *why, unsigned size)
{
	if (getuid() != user->uid || geteuid() != user->uid || getgid() != user->gid ||
	    getegid() != user->gid || (user->uid != 0 && setuid(0) == 0)) {
		snprintf(why, size, "cannot become user %u: the kernel has not done it",
			 (unsigned)user->uid);
		return -1;
	}
	if (capng_get_caps_process() != 0 ||
	    capng_have_capabilities(CAPNG_SELECT_CAPS) !=
		    (net_admin ? CAPNG_PARTIAL : CAPNG_NONE) ||
	    !capng_have_capability(CAPNG_EFFECTIVE, CAP_NET_ADMIN) != !net_admin) {
		snprintf(why, size, "cannot drop capabilities: the kernel has not done it");
		return -1;
	}
	return 0;
}

int privileges_drop(const struct privileges_user *user, bool keep_net_admin, char *why,
		    unsigned size)
{
	bool net_admin, bounding, already;
	int error;

	if (capng_get_caps_process() != 0) {
		snprintf(why, size, "cannot read the capabilities of the process");
		return -1;
	}
	net_admin = keep_net_admin && capng_have_capability(CAPNG_PERMITTED, CAP_NET_ADMIN);
	bounding = capng_have_capability(CAPNG_PERMITTED, CAP_SETPCAP);
	/* Who can't change his ids need not, if they are right: libcap-ng would fail then. */
	already = getuid() == user->uid && getgid() == user->gid &&
		  !capng_have_capability(CAPNG_PERMITTED, CAP_SETGID);
	select_capabilities(net_admin);
	errno = 0;
	if (geteuid() == 0 && !already)
		error = capng_change_id((int)user->uid, (int)user->gid,
					CAPNG_DROP_SUPP_GRP |
						(bounding ? CAPNG_CLEAR_BOUNDING : 0));
	else
		error = capng_apply(bounding ? CAPNG_SELECT_BOTH : CAPNG_SELECT_CAPS);
	if (error) {
		snprintf(why, size, "cannot drop privileges to user %u: step %d: %s",
			 (unsigned)user->uid, -error, errno ? strerror(errno) : "refused");
		return -1;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		snprintf(why, size, "cannot set no_new_privs: %s", strerror(errno));
		return -1;
	}
	return verify(user, net_admin, why, size);
}

unsigned long privileges_raise_descriptors(unsigned long wanted)
{
	struct rlimit limit, higher;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	if (limit.rlim_cur >= wanted)
		return limit.rlim_cur;
	higher.rlim_cur = wanted;
	higher.rlim_max = limit.rlim_max > wanted ? limit.rlim_max : wanted;
	if (setrlimit(RLIMIT_NOFILE, &higher) == 0)
		return wanted;
	higher.rlim_cur = higher.rlim_max =
		limit.rlim_max; /* lower than wanted, or it would have worked */
	return setrlimit(RLIMIT_NOFILE, &higher) == 0 ? limit.rlim_max : limit.rlim_cur;
}
