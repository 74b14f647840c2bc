/* SPDX-License-Identifier: ISC */
#ifndef NET_SOCK_H
#define NET_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

/* TCP sockets: non-blocking and close-on-exec throughout. Functions that return -1 set errno. */

/*
 * Makes sure at start that nobody listens at *a yet (our own workers share it by SO_REUSEPORT, which would hide a second daemon), and puts
 * a free port into it if it has port 0. Returns 0 or -1.
 */
int sock_claim(union addr *a);

/* Listens at a, for sockets tuned as by sock_tune_local(); the unspecified IPv6 address takes IPv4 too. transparent: also for addresses that aren't ours. Returns the socket or -1. */
int sock_listen(const union addr *a, bool transparent);

/* Accepts one connection; *peer is unmapped. Returns the socket or -1. */
int sock_accept(int listener, union addr *peer);

/*
 * Begins to connect to a; congestion: algorithm's name, or NULL for the default. Returns the socket, connected or on its way
 * (wait until it's writable, then ask sock_error()), or -1. talks: there will be something to send as soon as it stands, with which the
 * handshake's last acknowledgement can go.
 */
int sock_connect(const union addr *a, const char *congestion, bool talks);

/* The error that is pending on the socket (and clears it), 0 if none. */
int sock_error(int fd);

/* Own and peer address, unmapped. Returns 0 or -1. */
int sock_local(int fd, union addr *a);
int sock_peer(int fd, union addr *a);

/* Sets what the sockets towards client and server need: no delay, keep-alive. */
void sock_tune_local(int fd);

/* Sets what a stripe needs: no delay, keep-alive, large first buffers, what sock_begin_congestion() sets. */
void sock_tune_stripe(int fd, const char *congestion);

/* Sets the algorithm, or what stripes that will have it begin with. Accepted sockets get that of the listener. Empty: leaves it as it is. */
void sock_set_congestion(int fd, const char *congestion);
void sock_begin_congestion(int fd, const char *congestion);

/* Most bytes that wait unsent in the socket before it stops being writable (TCP_NOTSENT_LOWAT). */
void sock_set_unsent(int fd, uint32_t bytes);

/* It's readable when so many bytes have come (SO_RCVLOWAT), or when no more can, or fit. */
void sock_set_wanted(int fd, uint32_t bytes);

/* Closes with a reset. */
void sock_abort(int fd);

/* True if the kernel has the congestion control algorithm and lets this process use it; else errno says why not. */
bool sock_has_congestion(const char *name);

/* What TCP_INFO says of a stripe that's about to take data. Sizes in bytes, times in microseconds, rates in bytes a second. */
struct sock_path {
	uint32_t rtt;
	uint32_t mss;
	uint32_t window; /* congestion window */
	uint32_t flying; /* sent and believed to be under way */
	uint32_t unsent; /* waiting in the socket */
	uint64_t pacing;
	uint64_t delivered; /* so far */
	uint32_t sent, repeated; /* packets so far: with data, that have arrived or were sent again; and of these retransmissions */
	uint32_t received, disordered; /* likewise, and of these such as came before another that was due */
	uint32_t rtt_min;
	uint32_t silence; /* milliseconds since the peer's last packet */
	bool stalled;	 /* a retransmission timer has expired and nothing was acknowledged since */
	bool rested;	 /* has sent nothing for longer than the retransmission timeout */
};

/* Returns 0 or -1. */
int sock_path(int fd, struct sock_path *path);

/* Bytes in the socket that the peer's kernel hasn't acknowledged; -1 on error. */
int sock_unacknowledged(int fd);

#endif
