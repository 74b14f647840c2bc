/* SPDX-License-Identifier: ISC */
#include "net/conntrack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Outstanding questions are found by their sequence number; these count up, so they spread evenly.
 * A power of two.
 */
#define BUCKETS 1024

/* Datagrams read per wake-up: more than that can wait until the loop has served others. */
#define READS_PER_WAKEUP 256

/*
 * The kernel answers within our send(2), so the answers to all questions asked in one wake-up stand
 * in the receive buffer at once. One takes less than 2 KB there. This is a limit, not an
 * allocation.
 */
#define RECEIVE_BUFFER (CONNTRACK_MAX * 2048)

#define MESSAGE_NEW ((NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW)
#define MESSAGE_GET ((NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_GET)

struct conntrack {
	struct ev_loop *loop;
	int fd;
	uint16_t zone;
	double timeout;
	uint32_t sequence; /* of the last question */
	unsigned outstanding;
	bool overrun; /* the kernel dropped an answer */
	ev_io io;
	struct conntrack_query *buckets[BUCKETS];
};

static struct conntrack_query **bucket(struct conntrack *ct, uint32_t sequence)
{
	return &ct->buckets[sequence % BUCKETS];
}

static struct conntrack_query *find(struct conntrack *ct, uint32_t sequence)
{
	struct conntrack_query *q = *bucket(ct, sequence);

	while (q && q->sequence != sequence)
		q = q->next;
	return q;
}

static void link_query(struct conntrack *ct, struct conntrack_query *q)
{
	struct conntrack_query **head = bucket(ct, q->sequence);

	q->owner = ct;
	q->previous = NULL;
	q->next = *head;
	if (q->next)
		q->next->previous = q;
	*head = q;
	ct->outstanding++;
	ev_timer_start(ct->loop, &q->timer);
}

static void unlink_query(struct conntrack_query *q)
{
	struct conntrack *ct = q->owner;

	ev_timer_stop(ct->loop, &q->timer);
	if (q->previous)
		q->previous->next = q->next;
	else
		*bucket(ct, q->sequence) = q->next;
	if (q->next)
		q->next->previous = q->previous;
	q->next = q->previous = NULL;
	q->owner = NULL;
	ct->outstanding--;
}

/* The query may be gone afterwards. */
static void finish(struct conntrack_query *q, int error, const struct conntrack_answer *answer)
{
	unlink_query(q);
	q->done(q->arg, error, answer);
}

/*
 * Built by hand: nfct_nlmsg_build() always writes an original tuple, and the kernel looks for that
 * and not for the reply tuple where both are given (ctnetlink_get_conntrack()).
 */
static void put_reply_tuple(struct nlmsghdr *header, const union addr *local,
			    const union addr *client)
{
	struct nlattr *tuple = mnl_attr_nest_start(header, CTA_TUPLE_REPLY);
	struct nlattr *part = mnl_attr_nest_start(header, CTA_TUPLE_IP);

	if (local->sa.sa_family == AF_INET) {
		mnl_attr_put_u32(header, CTA_IP_V4_SRC, local->in.sin_addr.s_addr);
		mnl_attr_put_u32(header, CTA_IP_V4_DST, client->in.sin_addr.s_addr);
	} else {
		mnl_attr_put(header, CTA_IP_V6_SRC, sizeof(struct in6_addr), &local->in6.sin6_addr);
		mnl_attr_put(header, CTA_IP_V6_DST, sizeof(struct in6_addr),
			     &client->in6.sin6_addr);
	}
	mnl_attr_nest_end(header, part);
	part = mnl_attr_nest_start(header, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(header, CTA_PROTO_NUM, IPPROTO_TCP);
	mnl_attr_put_u16(header, CTA_PROTO_SRC_PORT, htons(addr_port(local)));
	mnl_attr_put_u16(header, CTA_PROTO_DST_PORT, htons(addr_port(client)));
	mnl_attr_nest_end(header, part);
	mnl_attr_nest_end(header, tuple);
}

/*
 * Sends a question. No acknowledgement is asked for: there's either an entry or an error in answer
 * to it.
 */
static int send_question(const struct conntrack *ct, uint32_t sequence, const union addr *local,
			 const union addr *client)
{
	char buffer[512] __attribute__((aligned(NLMSG_ALIGNTO))) = { 0 };
	struct nlmsghdr *header = mnl_nlmsg_put_header(buffer);
	struct nfgenmsg *generic = mnl_nlmsg_put_extra_header(header, sizeof(*generic));

	header->nlmsg_type = MESSAGE_GET;
	header->nlmsg_flags = NLM_F_REQUEST;
	header->nlmsg_seq = sequence;
	generic->nfgen_family = (uint8_t)local->sa.sa_family;
	generic->version = NFNETLINK_V0;
	put_reply_tuple(header, local, client);
	if (ct->zone)
		mnl_attr_put_u16(header, CTA_ZONE, htons(ct->zone));
	return send(ct->fd, header, header->nlmsg_len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Reads one side of a tuple; false if nfct has none of the family. */
static bool get_addr(const struct nf_conntrack *nfct, sa_family_t family,
		     enum nf_conntrack_attr attr4, enum nf_conntrack_attr attr6,
		     enum nf_conntrack_attr attr_port, union addr *a)
{
	enum nf_conntrack_attr attr = family == AF_INET ? attr4 : attr6;

	memset(a, 0, sizeof(*a));
	if (!nfct_attr_is_set(nfct, attr) || !nfct_attr_is_set(nfct, attr_port))
		return false;
	a->sa.sa_family = family;
	if (family == AF_INET)
		a->in.sin_addr.s_addr = nfct_get_attr_u32(nfct, attr);
	else
		memcpy(&a->in6.sin6_addr, nfct_get_attr(nfct, attr), sizeof(a->in6.sin6_addr));
	addr_set_port(a, ntohs(nfct_get_attr_u16(nfct, attr_port)));
	return true;
}

/*
 * Fills in the answer from a message. False if it isn't whole, or isn't the entry that q asked for.
 */
static bool get_answer(const struct nlmsghdr *header, const struct conntrack_query *q,
		       struct conntrack_answer *answer)
{
	struct nf_conntrack *nfct = nfct_new();
	sa_family_t family = q->local.sa.sa_family;
	union addr local, client;
	bool good;

	good = nfct && nfct_nlmsg_parse(header, nfct) >= 0 &&
	       nfct_get_attr_u8(nfct, ATTR_REPL_L4PROTO) == IPPROTO_TCP &&
	       get_addr(nfct, family, ATTR_REPL_IPV4_SRC, ATTR_REPL_IPV6_SRC, ATTR_REPL_PORT_SRC,
			&local) &&
	       get_addr(nfct, family, ATTR_REPL_IPV4_DST, ATTR_REPL_IPV6_DST, ATTR_REPL_PORT_DST,
			&client) &&
	       addr_equal(&local, &q->local) && addr_equal(&client, &q->client) &&
	       get_addr(nfct, family, ATTR_ORIG_IPV4_SRC, ATTR_ORIG_IPV6_SRC, ATTR_ORIG_PORT_SRC,
			&answer->client) &&
	       get_addr(nfct, family, ATTR_ORIG_IPV4_DST, ATTR_ORIG_IPV6_DST, ATTR_ORIG_PORT_DST,
			&answer->destination);
	if (good)
		answer->mark =
			nfct_attr_is_set(nfct, ATTR_MARK) ? nfct_get_attr_u32(nfct, ATTR_MARK) : 0;
	if (nfct)
		nfct_destroy(nfct);
	return good;
}

/* One message of a datagram; unknown sequences are answers to what was cancelled or given up. */
static void take_message(struct conntrack *ct, const struct nlmsghdr *header)
{
	struct conntrack_query *q = find(ct, header->nlmsg_seq);
	struct conntrack_answer answer;

	if (!q)
		return;
	if (header->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(header);

		if (mnl_nlmsg_get_payload_len(header) >= sizeof(e->error) && e->error < 0 &&
		    e->error > -4096)
			finish(q, -e->error, NULL);
	} else if (header->nlmsg_type == MESSAGE_NEW) {
		if (mnl_nlmsg_get_payload_len(header) >= sizeof(struct nfgenmsg) &&
		    get_answer(header, q, &answer))
			finish(q, 0, &answer);
		else
			finish(q, EBADMSG, NULL);
	}
}

/*
 * Goes through the messages of a datagram. Not with mnl_nlmsg_ok(), which takes a length from 2^31
 * up for a negative one and lets it pass.
 */
static void take_datagram(struct conntrack *ct, const char *datagram, size_t left)
{
	while (left >= sizeof(struct nlmsghdr)) {
		const struct nlmsghdr *header = (const struct nlmsghdr *)datagram;
		size_t whole = header->nlmsg_len;

		if (whole < sizeof(*header) || whole > left)
			return;
		take_message(ct, header);
		if (MNL_ALIGN(whole) >= left)
			return;
		datagram += MNL_ALIGN(whole);
		left -= MNL_ALIGN(whole);
	}
}

/* Reads one datagram. Returns 0, or -1 with errno set. */
static int read_datagram(struct conntrack *ct)
{
	char buffer[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct sockaddr_nl from = { 0 };
	struct iovec iov = { .iov_base = buffer, .iov_len = sizeof(buffer) };
	struct msghdr msg = {
		.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1
	};
	ssize_t got = recvmsg(ct->fd, &msg, MSG_DONTWAIT);

	if (got < 0)
		return -1;
	/* Every message on a netlink socket names its sender, and only the kernel has port 0. */
	if (from.nl_family == AF_NETLINK && from.nl_pid != 0)
		return 0;
	if (msg.msg_flags & MSG_TRUNC)
		return 0;
	if (got == 0) { /* only a socket of conntrack_new_fd() ends */
		errno = ECONNRESET;
		return -1;
	}
	take_datagram(ct, buffer, (size_t)got);
	return 0;
}

static void ask_all_again(struct conntrack *ct)
{
	for (unsigned i = 0; i < BUCKETS; i++) {
		for (struct conntrack_query *q = ct->buckets[i]; q; q = q->next)
			send_question(ct, q->sequence, &q->local, &q->client);
	}
}

/*
 * ENOBUFS is an overrun: the receive buffer was full and the kernel dropped an answer, it doesn't
 * say which. Since it answers within send(2), what is still outstanding when the buffer has been
 * read empty is what was dropped; that is asked again, each under its old sequence number. What is
 * lost still runs into its timeout.
 */
static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct conntrack *ct = io->data;

	(void)loop;
	(void)events;
	for (unsigned i = 0; i < READS_PER_WAKEUP; i++) {
		if (read_datagram(ct) == 0) {
			if (ct->outstanding == 0)
				return;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == ENOBUFS) {
			ct->overrun = true;
			continue;
		}
		if (errno == EAGAIN && ct->overrun) {
			ct->overrun = false;
			ask_all_again(ct);
		} else if (errno != EAGAIN) {
			/* The socket is of no use any more: don't spin; the questions time out. */
			ev_io_stop(ct->loop, &ct->io);
		}
		return;
	}
}

static void on_timeout(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	finish(timer->data, ETIMEDOUT, NULL);
}

/*
 * Whether the kernel has conntrack over netlink and lets us use it shows only in its answer to a
 * question, which stands in the socket when send(2) returns. There's no flow from and to nowhere,
 * so ENOENT is the good answer.
 */
static int probe(const struct conntrack *ct)
{
	const union addr nowhere = { .in = { .sin_family = AF_INET } };
	char buffer[1024] __attribute__((aligned(NLMSG_ALIGNTO)));
	const struct nlmsghdr *header = (const struct nlmsghdr *)buffer;
	const struct nlmsgerr *e;
	ssize_t got;

	if (send_question(ct, 0, &nowhere, &nowhere) < 0)
		return -1;
	got = recv(ct->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	if (got < 0)
		return -1;
	if ((size_t)got < sizeof(*header) + sizeof(*e) || header->nlmsg_type != NLMSG_ERROR ||
	    mnl_nlmsg_get_payload_len(header) < sizeof(e->error)) {
		errno = EPROTO;
		return -1;
	}
	e = mnl_nlmsg_get_payload(header);
	errno = -e->error;
	/* nfnetlink's word for a subsystem whose module isn't there is EINVAL. */
	if (errno == EINVAL)
		errno = EPROTONOSUPPORT;
	return errno == ENOENT ? 0 : -1;
}

static int open_socket(void)
{
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_NETFILTER);
	int one = 1, size = RECEIVE_BUFFER;

	if (fd < 0)
		return -1;
	/*
	 * CAP_ACK: errors needn't repeat our question. Neither EXT_ACK, whose text nobody would
	 * read, nor NO_ENOBUFS, since we want to hear of overruns. FORCE goes beyond rmem_max; it
	 * can fail only where conntrack refuses us, too.
	 */
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (connect(fd, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

struct conntrack *conntrack_new_fd(struct ev_loop *loop, int fd, uint16_t zone, double timeout)
{
	struct conntrack *ct = calloc(1, sizeof(*ct));

	if (!ct) {
		close(fd);
		return NULL;
	}
	ct->loop = loop;
	ct->fd = fd;
	ct->zone = zone;
	ct->timeout = timeout;
	ev_io_init(&ct->io, on_readable, fd, EV_READ);
	ct->io.data = ct;
	/* Before the timers: when the loop was held up, answers that are there already must win. */
	ev_set_priority(&ct->io, EV_MAXPRI);
	ev_io_start(loop, &ct->io);
	return ct;
}

struct conntrack *conntrack_new(struct ev_loop *loop, uint16_t zone, double timeout)
{
	struct conntrack *ct;
	int fd = open_socket();

	if (fd < 0)
		return NULL;
	ct = conntrack_new_fd(loop, fd, zone, timeout);
	if (ct && probe(ct) < 0) {
		int error = errno;

		conntrack_free(ct);
		errno = error;
		return NULL;
	}
	return ct;
}

void conntrack_free(struct conntrack *ct)
{
	if (!ct)
		return;
	for (unsigned i = 0; i < BUCKETS; i++) {
		while (ct->buckets[i])
			unlink_query(ct->buckets[i]);
	}
	ev_io_stop(ct->loop, &ct->io);
	close(ct->fd);
	free(ct);
}

int conntrack_ask(struct conntrack *ct, struct conntrack_query *query, const union addr *local,
		  const union addr *client, conntrack_done *done, void *arg)
{
	sa_family_t family = local->sa.sa_family;

	if (family != client->sa.sa_family || (family != AF_INET && family != AF_INET6)) {
		errno = EINVAL;
		return -1;
	}
	if (ct->outstanding >= CONNTRACK_MAX) {
		errno = EBUSY;
		return -1;
	}
	if (++ct->sequence == 0)
		ct->sequence = 1;
	if (send_question(ct, ct->sequence, local, client) < 0)
		return -1;
	query->done = done;
	query->arg = arg;
	query->sequence = ct->sequence;
	query->local = *local;
	query->client = *client;
	ev_timer_init(&query->timer, on_timeout, ct->timeout, 0.);
	query->timer.data = query;
	link_query(ct, query);
	/* The answer is there already: no need to wait until the loop polls. */
	if (ev_is_active(&ct->io))
		ev_feed_event(ct->loop, &ct->io, EV_READ);
	return 0;
}

void conntrack_cancel(struct conntrack_query *query)
{
	if (query->owner)
		unlink_query(query);
}
