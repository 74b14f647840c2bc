/* SPDX-License-Identifier: ISC */
#include "net/conntrack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define MESSAGE_NEW ((NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW)
#define MANY 300

/* Long enough that it never ends a test that works; short ones are for the tests that wait for it.
 */
#define LONG 50.
#define SHORT 0.05
#define HELD_UP 0.5

/* What a question led to. */
struct result {
	struct conntrack_query query;
	unsigned calls;
	int error;
	struct conntrack_answer answer;
	struct conntrack_query *cancel; /* done() cancels this one, */
	struct result *ask;		/* asks that one again, */
	bool release;			/* and frees its own struct result */
};

static struct ev_loop *loop;
static int kernel; /* the fake kernel's end of the socket pair */
static struct conntrack *ct;
static union addr proxy, client, server;
static unsigned released;

static union addr address(const char *text)
{
	union addr a;

	ck_assert_int_eq(addr_parse(&a, text, 0, false), 0);
	return a;
}

static void set_up_addresses(bool ipv6)
{
	proxy = address(ipv6 ? "[2001:db8::1]:9300" : "10.0.0.1:9300");
	client = address(ipv6 ? "[2001:db8::2]:40000" : "10.0.0.2:40000");
	server = address(ipv6 ? "[2001:db8:5::1]:443" : "192.0.2.7:443");
}

/* The socket keeps messages apart, and its buffers hold some hundred of them. */
static void set_up(uint16_t zone, double timeout)
{
	const int size = 1 << 20;
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	kernel = fds[1];
	loop = ev_loop_new(EVFLAG_NOENV);
	ct = conntrack_new_fd(loop, fds[0], zone, timeout);
	ck_assert_ptr_nonnull(ct);
	set_up_addresses(false);
}

static void tear_down(void)
{
	conntrack_free(ct);
	close(kernel);
	ev_loop_destroy(loop);
}

static void done(void *arg, int error, const struct conntrack_answer *answer)
{
	struct result *r = arg;

	r->calls++;
	r->error = error;
	ck_assert_ptr_null(r->query.owner);
	ck_assert((error == 0) == (answer != NULL));
	if (answer)
		r->answer = *answer;
	if (r->cancel)
		conntrack_cancel(r->cancel);
	if (r->ask)
		ck_assert_int_eq(conntrack_ask(ct, &r->ask->query, &proxy, &client, done, r->ask),
				 0);
	if (r->release) {
		free(r);
		released++;
	}
}

static void ask(struct result *r)
{
	ck_assert_int_eq(conntrack_ask(ct, &r->query, &proxy, &client, done, r), 0);
	ck_assert_uint_eq(r->calls, 0);
}

/* Lets the loop do what there is to do, without waiting. */
static void turn(void)
{
	ev_run(loop, EVRUN_NOWAIT);
}

/* A question as the fake kernel got it. */
static struct nlmsghdr *next_question(void)
{
	static char buffer[1024] __attribute__((aligned(8)));
	ssize_t got = recv(kernel, buffer, sizeof(buffer), 0);
	struct nlmsghdr *header = (struct nlmsghdr *)buffer;

	ck_assert_int_gt(got, 0);
	ck_assert(mnl_nlmsg_ok(header, (int)got));
	ck_assert_uint_eq(header->nlmsg_len, got);
	ck_assert_uint_eq(header->nlmsg_type, (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_GET);
	ck_assert_uint_eq(header->nlmsg_flags, NLM_F_REQUEST);
	return header;
}

static uint32_t next_sequence(void)
{
	return next_question()->nlmsg_seq;
}

static void set_side(struct nf_conntrack *nfct, bool reply, const union addr *from,
		     const union addr *to)
{
	const bool v4 = from->sa.sa_family == AF_INET;

	nfct_set_attr_u8(nfct, reply ? ATTR_REPL_L3PROTO : ATTR_ORIG_L3PROTO,
			 (uint8_t)from->sa.sa_family);
	nfct_set_attr_u8(nfct, reply ? ATTR_REPL_L4PROTO : ATTR_ORIG_L4PROTO, IPPROTO_TCP);
	nfct_set_attr_u16(nfct, reply ? ATTR_REPL_PORT_SRC : ATTR_ORIG_PORT_SRC,
			  htons(addr_port(from)));
	nfct_set_attr_u16(nfct, reply ? ATTR_REPL_PORT_DST : ATTR_ORIG_PORT_DST,
			  htons(addr_port(to)));
	if (v4) {
		nfct_set_attr_u32(nfct, reply ? ATTR_REPL_IPV4_SRC : ATTR_ORIG_IPV4_SRC,
				  from->in.sin_addr.s_addr);
		nfct_set_attr_u32(nfct, reply ? ATTR_REPL_IPV4_DST : ATTR_ORIG_IPV4_DST,
				  to->in.sin_addr.s_addr);
	} else {
		nfct_set_attr(nfct, reply ? ATTR_REPL_IPV6_SRC : ATTR_ORIG_IPV6_SRC,
			      &from->in6.sin6_addr);
		nfct_set_attr(nfct, reply ? ATTR_REPL_IPV6_DST : ATTR_ORIG_IPV6_DST,
			      &to->in6.sin6_addr);
	}
}

/* Writes the entry client -> server, answered by reply_from, into buffer. Returns the message's
 * length. */
static size_t make_entry(char *buffer, uint32_t sequence, const union addr *reply_from,
			 uint16_t port_on)
{
	struct nf_conntrack *nfct = nfct_new();
	struct nlmsghdr *header = mnl_nlmsg_put_header(buffer);
	struct nfgenmsg *generic = mnl_nlmsg_put_extra_header(header, sizeof(*generic));
	union addr dialled = server;

	header->nlmsg_type = MESSAGE_NEW;
	header->nlmsg_seq = sequence;
	generic->nfgen_family = (uint8_t)client.sa.sa_family;
	addr_set_port(&dialled, port_on);
	set_side(nfct, false, &client, &dialled);
	set_side(nfct, true, reply_from, &client);
	nfct_set_attr_u32(nfct, ATTR_MARK, 0x1234);
	ck_assert_int_eq(nfct_nlmsg_build(header, nfct), 0);
	nfct_destroy(nfct);
	return header->nlmsg_len;
}

static size_t make_error(char *buffer, uint32_t sequence, int error)
{
	struct nlmsghdr *header = mnl_nlmsg_put_header(buffer);
	struct nlmsgerr *e = mnl_nlmsg_put_extra_header(header, sizeof(*e));

	header->nlmsg_type = NLMSG_ERROR;
	header->nlmsg_seq = sequence;
	e->error = -error;
	return header->nlmsg_len;
}

static void say(const char *buffer, size_t length)
{
	ck_assert_int_eq(send(kernel, buffer, length, 0), (ssize_t)length);
}

static void say_entry(uint32_t sequence, uint16_t port)
{
	char buffer[4096] = { 0 };

	say(buffer, make_entry(buffer, sequence, &proxy, port));
}

static void say_error(uint32_t sequence, int error)
{
	char buffer[4096] = { 0 };

	say(buffer, make_error(buffer, sequence, error));
}

static void expect_answer(const struct result *r, uint16_t port)
{
	union addr dialled = server;

	addr_set_port(&dialled, port);
	ck_assert_uint_eq(r->calls, 1);
	ck_assert_int_eq(r->error, 0);
	ck_assert(addr_equal(&r->answer.destination, &dialled));
	ck_assert(addr_equal(&r->answer.client, &client));
	ck_assert_uint_eq(r->answer.mark, 0x1234);
}

START_TEST(test_answer)
{
	struct result r = { 0 };

	set_up(0, LONG);
	set_up_addresses(_i == 1);
	ask(&r);
	turn();
	ck_assert_uint_eq(r.calls, 0);
	say_entry(next_sequence(), 443);
	turn();
	expect_answer(&r, 443);
	tear_down();
}
END_TEST

/* Attributes of a question, byte by byte: this is what the kernel gets. */
START_TEST(test_question)
{
	struct nf_conntrack *nfct = nfct_new();
	struct result r = { 0 };
	struct nlmsghdr *question;

	set_up(7, LONG);
	ask(&r);
	question = next_question();
	question->nlmsg_type = MESSAGE_NEW; /* what the library knows how to read */
	ck_assert_int_ge(nfct_nlmsg_parse(question, nfct), 0);
	ck_assert(!nfct_attr_is_set(nfct, ATTR_ORIG_L3PROTO));
	ck_assert_uint_eq(nfct_get_attr_u8(nfct, ATTR_REPL_L4PROTO), IPPROTO_TCP);
	ck_assert_uint_eq(nfct_get_attr_u32(nfct, ATTR_REPL_IPV4_SRC), proxy.in.sin_addr.s_addr);
	ck_assert_uint_eq(nfct_get_attr_u32(nfct, ATTR_REPL_IPV4_DST), client.in.sin_addr.s_addr);
	ck_assert_uint_eq(nfct_get_attr_u16(nfct, ATTR_REPL_PORT_SRC), htons(9300));
	ck_assert_uint_eq(nfct_get_attr_u16(nfct, ATTR_REPL_PORT_DST), htons(40000));
	ck_assert_uint_eq(nfct_get_attr_u16(nfct, ATTR_ZONE), 7);
	nfct_destroy(nfct);
	tear_down();
}
END_TEST

START_TEST(test_kernel_error)
{
	static const int errors[] = { ENOENT, EPERM, EINVAL };
	struct result r = { 0 };

	set_up(0, LONG);
	ask(&r);
	say_error(next_sequence(), errors[_i]);
	turn();
	ck_assert_uint_eq(r.calls, 1);
	ck_assert_int_eq(r.error, errors[_i]);
	tear_down();
}
END_TEST

/* None of this is an answer: the question still gets its own. */
START_TEST(test_garbage)
{
	char buffer[32768] = { 0 };
	struct nlmsghdr *header = (struct nlmsghdr *)buffer;
	struct result r = { 0 };
	uint32_t sequence;
	size_t length;

	set_up(0, LONG);
	ask(&r);
	sequence = next_sequence();
	say("x", 1);
	memset(buffer, 0xff, 512);
	say(buffer, 512); /* a length beyond the datagram */
	memset(buffer, 0, sizeof(buffer));
	say(buffer, 512); /* a length below a header's */
	length = make_entry(buffer, sequence, &proxy, 443);
	say(buffer, length - 4);     /* cut */
	say(buffer, sizeof(buffer)); /* more than fits */
	make_error(buffer, sequence, 0);
	say(buffer, header->nlmsg_len); /* an acknowledgement */
	make_error(buffer, sequence, 5000);
	say(buffer, header->nlmsg_len); /* no errno */
	header->nlmsg_len = NLMSG_HDRLEN + 2;
	say(buffer, header->nlmsg_len); /* an error that says nothing */
	make_entry(buffer, sequence + 1, &proxy, 443);
	say(buffer, header->nlmsg_len); /* nobody asked */
	make_entry(buffer, sequence, &proxy, 443);
	header->nlmsg_type = NLMSG_NOOP;
	say(buffer, header->nlmsg_len); /* another type */
	turn();
	ck_assert_uint_eq(r.calls, 0);
	say_entry(sequence, 443);
	turn();
	expect_answer(&r, 443);
	tear_down();
}
END_TEST

/* An answer with our number but not to our question ends it. */
START_TEST(test_wrong_answer)
{
	char buffer[4096] = { 0 };
	struct nlmsghdr *header = (struct nlmsghdr *)buffer;
	union addr other = proxy;
	struct result r = { 0 };
	uint32_t sequence;

	set_up(0, LONG);
	ask(&r);
	sequence = next_sequence();
	other = _i == 0 ? address("10.0.0.9:9300") : _i == 1 ? address("10.0.0.1:9301") : proxy;
	make_entry(buffer, sequence, &other, 443);
	if (_i == 2)
		header->nlmsg_len = NLMSG_HDRLEN; /* no netfilter header */
	if (_i == 3)
		header->nlmsg_len = NLMSG_HDRLEN + sizeof(struct nfgenmsg); /* no tuple */
	if (_i == 4) {
		set_up_addresses(true); /* an IPv6 entry */
		make_entry(buffer, sequence, &proxy, 443);
	}
	say(buffer, header->nlmsg_len);
	turn();
	ck_assert_uint_eq(r.calls, 1);
	ck_assert_int_eq(r.error, EBADMSG);
	tear_down();
}
END_TEST

/*
 * Each byte of the headers in turn is made a wrong one: whatever comes of it, it's one call at
 * most. Not the attributes': the library ends the process when the kernel sends one that is not as
 * long as it must be.
 */
START_TEST(test_damaged_headers)
{
	char buffer[4096];
	size_t length;

	set_up(0, LONG);
	for (size_t i = 0; i < 2 * (NLMSG_HDRLEN + sizeof(struct nfgenmsg)); i++) {
		struct result r = { 0 };

		ask(&r);
		memset(buffer, 0, sizeof(buffer));
		length = make_entry(buffer, next_sequence(), &proxy, 443);
		buffer[i / 2] ^= (char)(i % 2 ? 0xff : 0x01);
		say(buffer, length);
		turn();
		ck_assert_uint_le(r.calls, 1);
		conntrack_cancel(&r.query);
	}
	tear_down();
}
END_TEST

/* What is left of a message that ends too early may lack attributes, but what it has is true. */
START_TEST(test_cut_answers)
{
	char buffer[4096];
	struct nlmsghdr *header = (struct nlmsghdr *)buffer;
	size_t length = NLMSG_HDRLEN, bad = 0; /* length: known after the first */

	set_up(0, LONG);
	for (uint32_t cut = NLMSG_HDRLEN; cut <= length; cut++) {
		struct result r = { 0 };

		ask(&r);
		memset(buffer, 0, sizeof(buffer));
		length = make_entry(buffer, next_sequence(), &proxy, 443);
		header->nlmsg_len = cut;
		say(buffer, length);
		turn();
		ck_assert_uint_eq(r.calls, 1);
		ck_assert(r.error == EBADMSG || addr_equal(&r.answer.destination, &server));
		bad += r.error == EBADMSG;
	}
	ck_assert_uint_ge(bad, 100); /* the two tuples */
	tear_down();
}
END_TEST

START_TEST(test_timeout)
{
	struct result r = { 0 };
	uint32_t sequence;

	set_up(0, SHORT);
	ask(&r);
	sequence = next_sequence();
	while (r.calls == 0)
		ev_run(loop, EVRUN_ONCE);
	ck_assert_int_eq(r.error, ETIMEDOUT);
	say_entry(sequence, 443); /* too late */
	turn();
	ck_assert_uint_eq(r.calls, 1);
	tear_down();
}
END_TEST

/* An answer that is there when the loop gets round to it counts, even if the time is over, too. */
START_TEST(test_held_up_loop)
{
	struct result r = { 0 };
	double until;

	set_up(0, HELD_UP);
	ask(&r);
	turn();
	say_entry(next_sequence(), 443);
	for (until = ev_time() + 2 * HELD_UP; ev_time() < until;)
		;
	while (r.calls == 0)
		ev_run(loop, EVRUN_ONCE);
	expect_answer(&r, 443);
	tear_down();
}
END_TEST

START_TEST(test_cancel)
{
	struct result r = { 0 }, other = { 0 };
	uint32_t sequence;

	set_up(0, LONG);
	conntrack_cancel(&r.query); /* nothing outstanding */
	ask(&r);
	ask(&other);
	sequence = next_sequence();
	conntrack_cancel(&r.query);
	conntrack_cancel(&r.query);
	say_entry(sequence, 443);
	say_entry(next_sequence(), 80);
	turn();
	ck_assert_uint_eq(r.calls, 0);
	expect_answer(&other, 80);
	tear_down();
}
END_TEST

START_TEST(test_free_while_outstanding)
{
	struct result r[3] = { 0 };

	set_up(0, LONG);
	for (int i = 0; i < 3; i++)
		ask(&r[i]);
	say_entry(next_sequence(), 443);
	tear_down();
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(r[i].calls, 0);
		ck_assert_ptr_null(r[i].query.owner);
	}
}
END_TEST

/* Answers in reverse, several in a datagram, errors among them. */
START_TEST(test_many_out_of_order)
{
	static struct result r[MANY];
	static uint32_t sequences[MANY];
	char buffer[4096] = { 0 };
	size_t used = 0;

	set_up(0, LONG);
	/* The fake kernel has a short queue of questions: it's emptied as they are asked. */
	for (int i = 0; i < MANY; i++) {
		ask(&r[i]);
		sequences[i] = next_sequence();
	}
	for (int i = MANY - 1; i >= 0; i--) {
		used += i % 7 == 3 ? make_error(buffer + used, sequences[i], ENOENT)
				   : make_entry(buffer + used, sequences[i], &proxy,
						(uint16_t)(1000 + i));
		if (i % 10 == 0) {
			say(buffer, used);
			memset(buffer, 0, used);
			used = 0;
			turn();
		}
	}
	for (int i = 0; i < MANY; i++) {
		if (i % 7 == 3)
			ck_assert_int_eq(r[i].error, ENOENT);
		else
			expect_answer(&r[i], (uint16_t)(1000 + i));
		ck_assert_uint_eq(r[i].calls, 1);
	}
	tear_down();
}
END_TEST

START_TEST(test_bounded)
{
	static struct result r[CONNTRACK_MAX];
	struct result last = { 0 };

	set_up(0, LONG);
	for (int i = 0; i < CONNTRACK_MAX; i++) {
		ask(&r[i]);
		next_sequence();
	}
	ck_assert_int_eq(conntrack_ask(ct, &last.query, &proxy, &client, done, &last), -1);
	ck_assert_int_eq(errno, EBUSY);
	conntrack_cancel(&r[5].query);
	ask(&last);
	say_entry(next_sequence(), 443);
	turn();
	expect_answer(&last, 443);
	tear_down();
}
END_TEST

/* A kernel that takes no questions. */
START_TEST(test_full_socket)
{
	struct result r = { 0 };
	static struct result many[CONNTRACK_MAX];
	int asked = 0;

	set_up(0, LONG);
	while (asked < CONNTRACK_MAX &&
	       conntrack_ask(ct, &many[asked].query, &proxy, &client, done, &many[asked]) == 0)
		asked++;
	ck_assert_int_lt(asked, CONNTRACK_MAX);
	ck_assert_int_eq(errno, EAGAIN);
	next_sequence();
	ask(&r);
	tear_down();
}
END_TEST

START_TEST(test_bad_addresses)
{
	union addr six = address("[::1]:1"), none = { .sa.sa_family = AF_UNSPEC };
	struct result r = { 0 };

	set_up(0, LONG);
	ck_assert_int_eq(conntrack_ask(ct, &r.query, &proxy, &six, done, &r), -1);
	ck_assert_int_eq(errno, EINVAL);
	ck_assert_int_eq(conntrack_ask(ct, &r.query, &none, &none, done, &r), -1);
	ck_assert_int_eq(errno, EINVAL);
	tear_down();
}
END_TEST

/* done() frees its query, cancels one whose answer stands in the same datagram, and asks anew. */
START_TEST(test_callback_acts)
{
	struct result *first = calloc(1, sizeof(*first));
	struct result second = { 0 }, third = { 0 };
	char buffer[4096] = { 0 };
	uint32_t a, b;
	size_t used;

	set_up(0, LONG);
	first->release = true;
	first->cancel = &second.query;
	first->ask = &third;
	ask(first);
	ask(&second);
	a = next_sequence();
	b = next_sequence();
	used = make_entry(buffer, a, &proxy, 443);
	used += make_entry(buffer + used, b, &proxy, 443);
	say(buffer, used);
	turn();
	ck_assert_uint_eq(released, 1);
	ck_assert_uint_eq(second.calls, 0);
	ck_assert_uint_eq(third.calls, 0);
	say_entry(next_sequence(), 80);
	turn();
	expect_answer(&third, 80);
	tear_down();
}
END_TEST

START_TEST(test_dead_socket)
{
	struct result r = { 0 };

	set_up(0, SHORT);
	ask(&r);
	close(kernel);
	while (r.calls == 0)
		ev_run(loop, EVRUN_ONCE);
	ck_assert_int_eq(r.error, ETIMEDOUT);
	ck_assert_int_eq(conntrack_ask(ct, &r.query, &proxy, &client, done, &r), -1);
	kernel = dup(STDERR_FILENO);
	tear_down();
}
END_TEST

/* From here on: the real kernel, in a network namespace of the test's own. False if it may not have
 * one. */
static bool enter_namespace(void)
{
	return geteuid() == 0 && unshare(CLONE_NEWNET) == 0;
}

/* Puts the entry client:port -> server, answered by the proxy, into the table of a zone. */
static void insert_entry(uint16_t port, uint16_t zone)
{
	struct nfct_handle *handle = nfct_open(CONNTRACK, 0);
	struct nf_conntrack *nfct = nfct_new();
	union addr from = client;

	ck_assert_ptr_nonnull(handle);
	addr_set_port(&from, port);
	set_side(nfct, false, &from, &server);
	set_side(nfct, true, &proxy, &from);
	nfct_set_attr_u8(nfct, ATTR_TCP_STATE, TCP_CONNTRACK_ESTABLISHED);
	nfct_set_attr_u32(nfct, ATTR_TIMEOUT, 100);
	nfct_set_attr_u32(nfct, ATTR_MARK, 0x1234);
	nfct_set_attr_u32(nfct, ATTR_STATUS,
			  IPS_CONFIRMED | IPS_DST_NAT | IPS_DST_NAT_DONE | IPS_SRC_NAT_DONE);
	if (zone)
		nfct_set_attr_u16(nfct, ATTR_ZONE, zone);
	ck_assert_msg(nfct_query(handle, NFCT_Q_CREATE, nfct) == 0, "cannot insert: %s",
		      strerror(errno));
	nfct_destroy(nfct);
	nfct_close(handle);
}

static void ask_kernel(struct result *r, uint16_t zone)
{
	loop = ev_loop_new(EVFLAG_NOENV);
	ct = conntrack_new(loop, zone, LONG);
	ck_assert_msg(ct != NULL, "conntrack_new: %s", strerror(errno));
	ask(r);
	while (r->calls == 0)
		ev_run(loop, EVRUN_NOWAIT);
	conntrack_free(ct);
	ev_loop_destroy(loop);
}

START_TEST(test_real_kernel)
{
	struct result found = { 0 }, missing = { 0 };
	const uint16_t zone = _i / 2 ? 5 : 0;

	if (!enter_namespace())
		return;
	set_up_addresses(_i % 2);
	insert_entry(40000, zone);
	ask_kernel(&found, zone);
	expect_answer(&found, 443);
	ask_kernel(&missing, zone + 1);
	ck_assert_int_eq(missing.error, ENOENT);
}
END_TEST

static void on_patience_over(struct ev_loop *l, ev_timer *timer, int events)
{
	(void)l;
	(void)timer;
	(void)events;
	ck_abort_msg("not all questions were answered");
}

/* As many questions at once as there may be; with a small receive buffer the kernel drops most
 * answers. */
START_TEST(test_real_overrun)
{
	static struct result r[CONNTRACK_MAX];
	const int size = 32768;
	unsigned answered = 0;
	ev_timer patience;

	if (!enter_namespace())
		return;
	set_up_addresses(false);
	insert_entry(40000, 0);
	loop = ev_loop_new(EVFLAG_NOENV);
	ct = conntrack_new(loop, 0, LONG);
	ck_assert_ptr_nonnull(ct);
	if (_i == 1) {
		conntrack_free(ct);
		int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC,
				NETLINK_NETFILTER);

		ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
		ct = conntrack_new_fd(loop, fd, 0, LONG);
	}
	for (int i = 0; i < CONNTRACK_MAX; i++)
		ask(&r[i]);
	ev_timer_init(&patience, on_patience_over, 30., 0.);
	ev_timer_start(loop, &patience);
	while (answered < CONNTRACK_MAX) {
		ev_run(loop, EVRUN_ONCE);
		while (answered < CONNTRACK_MAX && r[answered].calls > 0)
			expect_answer(&r[answered++], 443);
	}
	ev_timer_stop(loop, &patience);
	conntrack_free(ct);
	ev_loop_destroy(loop);
}
END_TEST

/* The test asks itself: what a process sends is not the kernel's word. */
START_TEST(test_other_sender)
{
	struct sockaddr_nl own = { .nl_family = AF_NETLINK };
	socklen_t length = sizeof(own);
	char buffer[4096] = { 0 };
	struct result r = { 0 };
	int fd, forger;
	size_t size;

	if (!enter_namespace())
		return;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_NETFILTER);
	forger = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&own, sizeof(own)), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&own, &length), 0);
	set_up_addresses(false);
	loop = ev_loop_new(EVFLAG_NOENV);
	ct = conntrack_new_fd(loop, fd, 0, LONG);
	size = make_entry(buffer, 1, &proxy, 443); /* the first question's number */
	ck_assert_int_eq(sendto(forger, buffer, size, 0, (struct sockaddr *)&own, sizeof(own)),
			 (ssize_t)size);
	ask(&r);
	while (r.calls == 0)
		ev_run(loop, EVRUN_NOWAIT);
	ck_assert_int_eq(r.error, ENOENT);
	conntrack_free(ct);
	close(forger);
	ev_loop_destroy(loop);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("conntrack");

	tcase_add_loop_test(tcase, test_answer, 0, 2);
	tcase_add_test(tcase, test_question);
	tcase_add_loop_test(tcase, test_kernel_error, 0, 3);
	tcase_add_test(tcase, test_garbage);
	tcase_add_loop_test(tcase, test_wrong_answer, 0, 5);
	tcase_add_test(tcase, test_damaged_headers);
	tcase_add_test(tcase, test_cut_answers);
	tcase_add_test(tcase, test_timeout);
	tcase_add_test(tcase, test_held_up_loop);
	tcase_add_test(tcase, test_cancel);
	tcase_add_test(tcase, test_free_while_outstanding);
	tcase_add_test(tcase, test_many_out_of_order);
	tcase_add_test(tcase, test_bounded);
	tcase_add_test(tcase, test_full_socket);
	tcase_add_test(tcase, test_bad_addresses);
	tcase_add_test(tcase, test_callback_acts);
	tcase_add_test(tcase, test_dead_socket);
	tcase_add_loop_test(tcase, test_real_kernel, 0, 4);
	tcase_add_loop_test(tcase, test_real_overrun, 0, 2);
	tcase_add_test(tcase, test_other_sender);
	return run_case("conntrack", tcase);
}
