/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/sock.h"

#define LISTEN_BACKLOG 4096

/* A dead relay is noticed after about a minute, if nothing was sent to it meanwhile (else by tcp_retries2), and NAT bindings on the way stay alive. Seconds. */
#define KEEPALIVE_IDLE 30
#define KEEPALIVE_INTERVAL 10
#define KEEPALIVE_PROBES 4

/* First receive buffer of a stripe: it must hold what arrives in a few round trips while the stripe waits for its serial. */
#define STRIPE_RECEIVE_BUFFER (1 << 20)

/*
 * First send buffer, of which the kernel gives as much as net.core.wmem_max says: its own, of twice the first window, holds up what the window lets go
 * once it has grown, for a round trip, since it's only enlarged when acknowledgements come (tcp_new_space() in net/ipv4/tcp_input.c).
 */
#define STRIPE_SEND_BUFFER (1 << 18)

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value));
}

static int tcp_socket(const union addr *a)
{
	return socket(a->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
}

/* Closes fd without losing the errno that tells why. */
static int fail(int fd)
{
	int saved = errno;

	close(fd);
	errno = saved;
	return -1;
}

static int bind_listener(int fd, const union addr *a)
{
	if (set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0)
		return -1;
	if (a->sa.sa_family == AF_INET6 && set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0) < 0)
		return -1;
	return bind(fd, &a->sa, addr_length(a));
}

int sock_claim(union addr *a)
{
	int fd = tcp_socket(a);
	socklen_t length = sizeof(*a);

	if (fd < 0)
		return -1;
	/* Only listen() finds out that another listener shares the port: SO_REUSEADDR lets bind() pass. */
	if (bind_listener(fd, a) < 0 || listen(fd, 1) < 0 || getsockname(fd, &a->sa, &length) < 0)
		return fail(fd);
	return close(fd);
}

int sock_listen(const union addr *a, bool transparent)
{
	int fd = tcp_socket(a);

	if (fd < 0)
		return -1;
	/* IP_TRANSPARENT sets one flag for both families (net/ipv4/ip_sockglue.c). */
	if (transparent && set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1) < 0)
		return fail(fd);
	/* Accepted sockets inherit it. */
	sock_tune_local(fd);
	if (set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1) < 0 || bind_listener(fd, a) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
		return fail(fd);
	return fd;
}

int sock_accept(int listener, union addr *peer)
{
	socklen_t length = sizeof(*peer);
	int fd = accept4(listener, &peer->sa, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0)
		addr_unmap(peer);
	return fd;
}

int sock_connect(const union addr *a, const char *congestion, bool talks)
{
	int fd = tcp_socket(a);

	if (fd < 0)
		return -1;
	/* Before connecting: the window scale is fixed by the SYN. */
	if (congestion != NULL)
		sock_tune_stripe(fd, congestion);
	else
		sock_tune_local(fd);
	/* tcp_rcv_synsent_state_process() in net/ipv4/tcp_input.c: in "pingpong mode" it's put off. */
	if (talks)
		set_int(fd, IPPROTO_TCP, TCP_QUICKACK, 0);
	if (connect(fd, &a->sa, addr_length(a)) < 0 && errno != EINPROGRESS)
		return fail(fd);
	return fd;
}

int sock_error(int fd)
{
	int error = 0;
	socklen_t length = sizeof(error);

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 ? errno : error;
}

int sock_local(int fd, union addr *a)
{
	socklen_t length = sizeof(*a);

	if (getsockname(fd, &a->sa, &length) < 0)
		return -1;
	addr_unmap(a);
	return 0;
}

int sock_peer(int fd, union addr *a)
{
	socklen_t length = sizeof(*a);

	if (getpeername(fd, &a->sa, &length) < 0)
		return -1;
	addr_unmap(a);
	return 0;
}

/* Options that make things better where they can be set; none is needed for the bytes to be right. */
void sock_tune_local(int fd)
{
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	/* Urgent bytes are bytes of the flow like others; else they'd be left out of what is read. */
	set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE);
}

void sock_set_congestion(int fd, const char *congestion)
{
	if (congestion[0] != '\0')
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, strlen(congestion));
}

/*
 * BBR paces, and as long as a connection has had little to send it doesn't know how fast: then packets leave some milliseconds apart. Reno, which every
 * kernel has and lets everybody use, sends its window at once.
 */
void sock_begin_congestion(int fd, const char *congestion)
{
	sock_set_congestion(fd, strcmp(congestion, "bbr") == 0 ? "reno" : congestion);
}

/* SO_SNDBUF turns autotuning off; on again it can be turned since Linux 5.15. */
static void enlarge_send_buffer(int fd)
{
	int bytes = 0;
	socklen_t length = sizeof(bytes);

	if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &length) < 0 || bytes >= STRIPE_SEND_BUFFER)
		return;
	if (set_int(fd, SOL_SOCKET, SO_BUF_LOCK, 0) < 0)
		return;
	set_int(fd, SOL_SOCKET, SO_SNDBUF, STRIPE_SEND_BUFFER);
	set_int(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
}

void sock_tune_stripe(int fd, const char *congestion)
{
	sock_tune_local(fd);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL);
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
	sock_begin_congestion(fd, congestion);
	/*
	 * SO_RCVLOWAT grows the receive buffer without turning its autotuning off, as SO_RCVBUF would (tcp_set_rcvlowat() in
	 * net/ipv4/tcp.c); then any byte shall wake us again.
	 */
	set_int(fd, SOL_SOCKET, SO_RCVLOWAT, STRIPE_RECEIVE_BUFFER);
	set_int(fd, SOL_SOCKET, SO_RCVLOWAT, 1);
	enlarge_send_buffer(fd);
}

void sock_set_unsent(int fd, uint32_t bytes)
{
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof(bytes));
}

void sock_set_wanted(int fd, uint32_t bytes)
{
	setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
}

void sock_abort(int fd)
{
	const struct linger linger = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(fd);
}

bool sock_has_congestion(const char *name)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	int result;

	if (fd < 0)
		return false;
	result = setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, strlen(name));
	if (result < 0)
		fail(fd);
	else
		close(fd);
	return result == 0;
}

int sock_path(int fd, struct sock_path *path)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);
	uint32_t gone, flying;

	memset(&info, 0, sizeof(info));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0)
		return -1;
	/* tcp_packets_in_flight() in include/net/tcp.h */
	gone = info.tcpi_sacked + info.tcpi_lost;
	flying = info.tcpi_unacked + info.tcpi_retrans;
	path->rtt = info.tcpi_rtt;
	path->mss = info.tcpi_snd_mss;
	path->window = info.tcpi_snd_cwnd * info.tcpi_snd_mss;
	path->flying = flying > gone ? (flying - gone) * info.tcpi_snd_mss : 0;
	path->unsent = info.tcpi_notsent_bytes;
	path->pacing = info.tcpi_pacing_rate;
	path->delivered = info.tcpi_bytes_acked + (uint64_t)info.tcpi_sacked * info.tcpi_snd_mss;
	path->sent = info.tcpi_delivered + info.tcpi_total_retrans;
	path->repeated = info.tcpi_total_retrans;
	path->received = info.tcpi_data_segs_in;
	path->disordered = info.tcpi_rcv_ooopack;
	path->rtt_min = info.tcpi_min_rtt;
	path->stalled = info.tcpi_backoff > 0;
	path->silence = info.tcpi_last_ack_recv;
	path->rested = (uint64_t)info.tcpi_last_data_sent * 1000 > info.tcpi_rto;
	return 0;
}

int sock_unacknowledged(int fd)
{
	int bytes;

	return ioctl(fd, SIOCOUTQ, &bytes) < 0 ? -1 : bytes;
}
