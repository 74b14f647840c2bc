/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/addr.h"

struct route_request {
	struct nlmsghdr header;
	struct rtmsg route;
	struct rtattr attribute;
	uint8_t address[sizeof(struct in6_addr)];
};

/*
 * Asks for the route to a (rtnetlink(7), RTM_GETROUTE). Returns its RTN_ type, RTN_UNREACHABLE if
 * none, or -1.
 */
static int route_type(int routes, const union addr *a)
{
	const bool v4 = a->sa.sa_family == AF_INET;
	const size_t size = v4 ? sizeof(a->in.sin_addr) : sizeof(a->in6.sin6_addr);
	struct route_request request = {
		.header = { .nlmsg_type = RTM_GETROUTE, .nlmsg_flags = NLM_F_REQUEST },
		.route = { .rtm_family = a->sa.sa_family, .rtm_dst_len = 8 * size },
		.attribute = { .rta_type = RTA_DST, .rta_len = RTA_LENGTH(size) },
	};
	union {
		struct nlmsghdr header;
		uint8_t bytes[4096];
	} reply;
	ssize_t n;

	request.header.nlmsg_len = offsetof(struct route_request, address) + size;
	memcpy(request.address, v4 ? (const void *)&a->in.sin_addr : &a->in6.sin6_addr, size);
	/* The kernel answers within send(): the reply is there when it returns, and nothing else. */
	if (send(routes, &request, request.header.nlmsg_len, 0) < 0)
		return -1;
	n = recv(routes, &reply, sizeof(reply), MSG_DONTWAIT);
	if (n < 0 || !NLMSG_OK(&reply.header, (size_t)n))
		return -1;
	/* No route, so there will be no connection either. */
	if (reply.header.nlmsg_type == NLMSG_ERROR)
		return RTN_UNREACHABLE;
	if (reply.header.nlmsg_type != RTM_NEWROUTE ||
	    (size_t)n < NLMSG_LENGTH(sizeof(struct rtmsg)))
		return -1;
	return ((struct rtmsg *)NLMSG_DATA(&reply.header))->rtm_type;
}

int addr_open_routes(void)
{
	return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

bool addr_is_local(int routes, const union addr *a)
{
	union addr plain = *a;
	int fd = routes, type;

	addr_unmap(&plain);
	if (plain.sa.sa_family == AF_UNSPEC)
		return false;
	if (routes < 0)
		fd = addr_open_routes();
	type = fd < 0 ? -1 : route_type(fd, &plain);
	if (routes < 0 && fd >= 0)
		close(fd);
	/* Who asks wants to keep others from such an address: when in doubt, it is one. */
	return type < 0 || type == RTN_LOCAL || type == RTN_ANYCAST;
}
