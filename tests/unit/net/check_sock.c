/* SPDX-License-Identifier: ISC */
#include "net/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/core/pair.h"

static union addr address(const char *text)
{
	union addr a;

	ck_assert_int_eq(addr_parse(&a, text, 0, false), 0);
	return a;
}

static int get_int(int fd, int level, int option)
{
	int value = -1;
	socklen_t length = sizeof(value);

	ck_assert_int_eq(getsockopt(fd, level, option, &value, &length), 0);
	return value;
}

static void check_flags(int fd)
{
	ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

START_TEST(test_claim)
{
	static const char *const hosts[] = {"127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"};

	for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
		union addr a = address(hosts[i]), again;
		int fd, other;

		ck_assert_int_eq(sock_claim(&a), 0);
		ck_assert_uint_ne(addr_port(&a), 0);
		again = a;
		ck_assert_int_eq(sock_claim(&again), 0);
		ck_assert(addr_equal(&a, &again));
		fd = sock_listen(&a, false);
		ck_assert_int_ge(fd, 0);
		check_flags(fd);
		ck_assert_int_eq(sock_claim(&again), -1);
		ck_assert_int_eq(errno, EADDRINUSE);
		/* The workers of one daemon share it. */
		other = sock_listen(&a, false);
		ck_assert_int_ge(other, 0);
		close(other);
		close(fd);
	}
}
END_TEST

/* The unspecified address of either family is taken where the other has the port. */
START_TEST(test_claim_across_families)
{
	union addr v4 = address("127.0.0.1:0"), any = address("[::]:0");
	int fd;

	ck_assert_int_eq(sock_claim(&v4), 0);
	fd = sock_listen(&v4, false);
	addr_set_port(&any, addr_port(&v4));
	ck_assert_int_eq(sock_claim(&any), -1);
	ck_assert_int_eq(errno, EADDRINUSE);
	close(fd);
}
END_TEST

START_TEST(test_claim_foreign_address)
{
	union addr a = address("192.0.2.1:0");

	ck_assert_int_eq(sock_claim(&a), -1);
	ck_assert_int_eq(errno, EADDRNOTAVAIL);
	ck_assert_int_eq(sock_listen(&a, false), -1);
}
END_TEST

static int wait_accept(int listener, union addr *peer)
{
	int fd;

	do
		fd = sock_accept(listener, peer);
	while (fd < 0 && errno == EAGAIN);
	ck_assert_int_ge(fd, 0);
	return fd;
}

START_TEST(test_dual_stack)
{
	static const char *const hosts[] = {"127.0.0.1", "::1"};
	union addr any = address("[::]:0"), to, peer, seen, mine;
	int listener, near, far;

	ck_assert_int_eq(sock_claim(&any), 0);
	listener = sock_listen(&any, false);
	ck_assert_int_ge(listener, 0);
	ck_assert_int_eq(sock_accept(listener, &peer), -1);
	ck_assert_int_eq(errno, EAGAIN);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(addr_parse(&to, hosts[i], addr_port(&any), false), 0);
		near = sock_connect(&to, NULL, false);
		ck_assert_int_ge(near, 0);
		far = wait_accept(listener, &peer);
		check_flags(near);
		check_flags(far);
		/* An IPv4 peer is one on a dual-stack socket, too. */
		ck_assert_int_eq(peer.sa.sa_family, to.sa.sa_family);
		ck_assert_int_eq(sock_local(near, &mine), 0);
		ck_assert(addr_equal(&peer, &mine));
		ck_assert_int_eq(sock_peer(far, &seen), 0);
		ck_assert(addr_equal(&seen, &mine));
		ck_assert_int_eq(sock_local(far, &seen), 0);
		ck_assert(addr_equal(&seen, &to));
		ck_assert_int_eq(sock_error(near), 0);
		close(near);
		close(far);
	}
	close(listener);
}
END_TEST

START_TEST(test_refused)
{
	union addr a = address("127.0.0.1:0");
	int fd, error = 0;

	ck_assert_int_eq(sock_claim(&a), 0);
	fd = sock_connect(&a, NULL, false);
	/* Loopback refuses within the call, or just after. */
	if (fd < 0) {
		ck_assert_int_eq(errno, ECONNREFUSED);
		return;
	}
	while (error == 0)
		error = sock_error(fd);
	ck_assert_int_eq(error, ECONNREFUSED);
	ck_assert_int_eq(sock_error(fd), 0);
	close(fd);
}
END_TEST

START_TEST(test_abort)
{
	int fds[2];
	char byte;
	ssize_t n;

	tcp_pair(fds);
	sock_abort(fds[0]);
	while ((n = recv(fds[1], &byte, 1, 0)) < 0 && errno == EAGAIN)
		;
	ck_assert_int_eq(n, -1);
	ck_assert_int_eq(errno, ECONNRESET);
	ck_assert_int_eq(fcntl(fds[0], F_GETFD), -1);
	close(fds[1]);
}
END_TEST

START_TEST(test_bad_descriptors)
{
	struct sock_path path;
	union addr a;

	ck_assert_int_eq(sock_path(-1, &path), -1);
	ck_assert_int_eq(sock_local(-1, &a), -1);
	ck_assert_int_eq(sock_peer(-1, &a), -1);
	ck_assert_int_eq(sock_unacknowledged(-1), -1);
	ck_assert_int_eq(sock_error(-1), EBADF);
	ck_assert_int_eq(sock_accept(-1, &a), -1);
}
END_TEST

START_TEST(test_tuning)
{
	int fds[2], plain[2];
	char name[16] = "";
	socklen_t length = sizeof(name);

	tcp_pair(plain);
	tcp_pair(fds);
	sock_tune_stripe(fds[0], "reno");
	ck_assert_int_eq(get_int(fds[0], IPPROTO_TCP, TCP_NODELAY), 1);
	ck_assert_int_eq(get_int(fds[0], SOL_SOCKET, SO_KEEPALIVE), 1);
	ck_assert_int_ge(get_int(fds[0], SOL_SOCKET, SO_RCVBUF), get_int(plain[1], SOL_SOCKET, SO_RCVBUF));
	ck_assert_int_eq(get_int(fds[0], SOL_SOCKET, SO_RCVLOWAT), 1);
	ck_assert_int_ge(get_int(fds[0], SOL_SOCKET, SO_SNDBUF), get_int(plain[0], SOL_SOCKET, SO_SNDBUF));
	ck_assert_int_eq(get_int(fds[0], SOL_SOCKET, SO_BUF_LOCK), 0);
	ck_assert_int_eq(getsockopt(fds[0], IPPROTO_TCP, TCP_CONGESTION, name, &length), 0);
	ck_assert_str_eq(name, "reno");
	sock_tune_stripe(fds[0], "");
	length = sizeof(name);
	ck_assert_int_eq(getsockopt(fds[0], IPPROTO_TCP, TCP_CONGESTION, name, &length), 0);
	ck_assert_str_eq(name, "reno");
	/* BBR comes later. */
	sock_tune_stripe(fds[0], "bbr");
	length = sizeof(name);
	ck_assert_int_eq(getsockopt(fds[0], IPPROTO_TCP, TCP_CONGESTION, name, &length), 0);
	ck_assert_str_eq(name, "reno");
	sock_set_unsent(fds[0], 12345);
	ck_assert_int_eq(get_int(fds[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT), 12345);
	for (int i = 0; i < 2; i++) {
		close(fds[i]);
		close(plain[i]);
	}
}
END_TEST

START_TEST(test_congestion)
{
	ck_assert(sock_has_congestion("reno")); /* in every kernel */
	ck_assert(!sock_has_congestion("nonsense"));
	ck_assert_int_eq(errno, ENOENT);
	ck_assert(!sock_has_congestion(""));
	ck_assert(!sock_has_congestion("a name that is longer than any of the kernel's"));
}
END_TEST

START_TEST(test_path)
{
	struct sock_path path;
	static uint8_t bytes[65536];
	size_t sent = 0;
	ssize_t n;
	int fds[2];

	tcp_pair(fds);
	ck_assert_int_eq(sock_path(fds[0], &path), 0);
	ck_assert_uint_gt(path.mss, 500);
	ck_assert_uint_ge(path.window, path.mss);
	ck_assert_uint_eq(path.flying, 0);
	ck_assert_uint_eq(path.unsent, 0);
	ck_assert_uint_gt(path.rtt, 0);
	ck_assert_uint_lt(path.rtt, 1000000);
	ck_assert(!path.stalled);
	ck_assert_int_eq(sock_unacknowledged(fds[0]), 0);
	do
		ck_assert_int_eq(sock_path(fds[0], &path), 0);
	while (!path.rested);
	ck_assert_uint_ge(path.silence, 100);
	/* Nobody reads: what doesn't fit there waits here, once the kernel has moved what does. */
	do {
		while ((n = send(fds[0], bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
			sent += (size_t)n;
		ck_assert_int_eq(errno, EAGAIN);
		ck_assert_int_eq(sock_path(fds[0], &path), 0);
	} while (path.unsent == 0);
	ck_assert_uint_le(path.unsent, sent);
	ck_assert_int_ge(sock_unacknowledged(fds[0]), (int)path.unsent);
	ck_assert_uint_gt(path.pacing, 0);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(test_transparent)
{
	union addr a = address("127.0.0.1:0");
	int fd = sock_listen(&a, true);

	if (fd < 0) {
		/* Without CAP_NET_ADMIN. */
		ck_assert_int_eq(errno, EPERM);
		return;
	}
	ck_assert_int_eq(get_int(fd, IPPROTO_IP, IP_TRANSPARENT), 1);
	close(fd);
	a = address("[::1]:0");
	fd = sock_listen(&a, true);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(get_int(fd, IPPROTO_IPV6, IPV6_TRANSPARENT), 1);
	close(fd);
}
END_TEST

int main(void)
{
	return RUN_TESTS("sock", test_claim, test_claim_across_families, test_claim_foreign_address, test_dual_stack,
			 test_refused, test_abort, test_bad_descriptors, test_tuning, test_congestion, test_path,
			 test_transparent);
}
