/* SPDX-License-Identifier: ISC */
#ifndef BENCH_XFER_H
#define BENCH_XFER_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Both ends of a measurement in one process: a thread in the client's network namespace and one in
 * the server's. So there is one clock, nothing has to be told to the other side over the link that
 * is measured, and what arrives can be compared with what was sent.
 */

enum {
	BUCKET_MS = 100,
	BUCKETS = 6000,
	PIECE = 256 * 1024, /* at most so much is sent or received by one call */
	PATTERN = 1024 * 1024,
};

/* What a client asks for, in the first byte of a request. */
enum operation {
	OP_DOWN = 'D',	/* the server sends size bytes */
	OP_CLOSE = 'C', /* as OP_DOWN, then it closes */
	OP_UP = 'U',	/* the client sends size bytes and gets one back */
};

enum which_meter { METER_MAIN, METER_RIVAL, METER_PING, METERS };

/* Sent as it is: both ends are the same program. */
struct request {
	uint64_t size; /* UINT64_MAX: without end */
	uint8_t operation;
	uint8_t meter;
	uint8_t unused[6];
};

/* Bytes as they arrived, by the time since the start. */
struct meter {
	_Atomic uint64_t bucket[BUCKETS];
};

/* Shared by the two threads. */
struct run {
	const char *server_namespace; /* path, for setns(2) */
	uint16_t port;		      /* the server's, rivals use the one after it */
	_Atomic int64_t start;	      /* ns; 0 before the start */
	_Atomic uint64_t corrupt;     /* pieces that were not what the other end had sent */
	_Atomic bool serving;
	struct meter meter[METERS];
	/* No period of a compressor's window, and readable for PIECE bytes from any offset < PATTERN. */
	uint8_t pattern[PATTERN + PIECE];
};

/* CLOCK_MONOTONIC in ns. */
int64_t now_ns(void);

/* Prints what failed, with errno, and ends the program. */
_Noreturn void die(const char *what);

/* Sends up to `left` bytes of the pattern from `offset`. Returns as send(2). */
ssize_t pattern_send(const struct run *run, int fd, uint64_t offset, uint64_t left);

/*
 * Receives up to `left` bytes, compares them with the pattern from `offset` and counts them in the
 * meter. `buffer` has PIECE bytes. Returns as recv(2).
 */
ssize_t pattern_receive(struct run *run, int fd, uint8_t *buffer, uint64_t offset, uint64_t left,
			enum which_meter meter);

/* The server, as a thread's main function; `argument` is the struct run. Never returns. */
void *server_main(void *argument);

/* One connection of the client with one request at a time under way. */
enum flow_state {
	FLOW_CLOSED,
	FLOW_CONNECTING,
	FLOW_ASKING,
	FLOW_SENDING,
	FLOW_RECEIVING,
	FLOW_ENDING, /* has all, waits for the server's end */
	FLOW_DONE,
	FLOW_FAILED,
};

struct flow {
	enum flow_state state;
	int fd;
	int error; /* errno when it failed */
	struct request request;
	size_t asked;
	uint64_t moved;	  /* of the object, in its direction */
	uint64_t to_come; /* bytes that the server still has to send */
	uint64_t received;
	int64_t connect_at, connected_at, first_at, done_at; /* 0 if it did not get there */
	int64_t ask_at;
};

struct client {
	struct run *run;
	int epoll;
	uint8_t *buffer; /* PIECE bytes */
};

void client_init(struct client *client, struct run *run);

/* Begins to connect and will then ask. `congestion`: NULL for the namespace's default. */
void flow_open(struct client *client, struct flow *flow, const struct sockaddr_in *to,
	       const struct request *request, const char *congestion);

/* Asks again on a flow that is done and still open. */
void flow_ask(struct client *client, struct flow *flow, const struct request *request);

void flow_close(struct flow *flow);

/*
 * Waits until `deadline` (ns) or until a flow is done or has failed, and returns that flow; NULL at
 * the deadline. Each end of a request is returned once.
 */
struct flow *client_wait(struct client *client, int64_t deadline);

#endif
