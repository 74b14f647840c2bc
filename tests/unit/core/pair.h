/* SPDX-License-Identifier: ISC */
#ifndef PAIR_H
#define PAIR_H

#include "core/group.h"
#include "tests/unit/unit.h"

/*
 * Two engines, each with one group, joined by stripes over TCP on loopback; or one engine whose stripes end in raw sockets, by which a
 * test plays the peer byte by byte. The test plays client and server, too. All of it runs in one thread, by turns, without a sleep.
 */
#define PAIR_STRIPES 16

/* Every test that moves data runs in each of these; a test's _i is its mode. */
#define MODE_SPLICE 1
#define MODE_BASE 2
#define MODES_EXTENDED 2
#define MODES_ALL 4

struct end {
	struct engine *engine;
	struct group *group;			/* NULL when it has ended */
	struct stripe *stripes[PAIR_STRIPES]; /* NULL when they're closed */
	int local;				/* the client's, or server's, socket; -1 when it's closed */
	enum reason reason;			/* what the group ended with */
	unsigned ended, grown, idle, closed, controls;
	const char *why; /* the last stripe was closed */
	struct control control;
	bool free_stripes; /* close a stripe as soon as it's idle */
};

struct pair {
	struct end a, b; /* b.engine is NULL if a's stripes end in raw sockets */
	int raw[PAIR_STRIPES];
	unsigned count;
	int mode;
	double deadline;
};

/* Connected TCP sockets on loopback, non-blocking. */
void tcp_pair(int fds[2]);

/* Closes *fd, with a reset, and sets it to -1. */
void reset_socket(int *fd);
void close_socket(int *fd);

/* Engines and stripes that are bound to groups; local sockets set. */
void pair_open(struct pair *pair, unsigned count, int mode);
void pair_open_raw(struct pair *pair, unsigned count, int mode);

/* As above in parts: engines and idle stripes, then groups. */
void pair_connect(struct pair *pair, unsigned count, int mode, bool raw);
void end_open_group(struct end *end, int mode);
void end_bind(struct end *end, unsigned index);

/* Each loop once, without waiting. */
void pair_turn(struct pair *pair);

/* Turns until the condition holds; fails the test after a generous time. */
#define UNTIL(pair, condition)                                                                     \
	do {                                                                                       \
		pair_start_clock(pair);                                                            \
		while (!(condition)) {                                                             \
			ck_assert_msg(!pair_is_late(pair), "waited in vain for: %s", #condition);  \
			pair_turn(pair);                                                           \
		}                                                                                  \
	} while (0)
void pair_start_clock(struct pair *pair);
bool pair_is_late(const struct pair *pair);

/* As many turns as anything that's under way needs to show: for what must not happen. */
void pair_settle(struct pair *pair);

/* So many flows besides those of the test are busy in the engine. */
void end_crowd(struct end *end, unsigned flows);

/* End a's flow is governed from now on, and finds its speed. */
void pair_begin_startup(struct pair *pair);

/* Closes all that's still open and makes sure that nothing was left behind. */
void pair_close(struct pair *pair);

/* Bytes from one socket to another, of a pattern that tells where they belong. */
struct pour {
	int from, to;
	size_t size, sent, got;
	unsigned seed;
	size_t piece; /* most bytes of a write; 0: as many as are taken */
	bool keep;    /* don't half-close at the end */
	bool lazy;    /* don't read */
	bool shut, ended, reset;
};
void pour(struct pour *p);
bool pour_done(const struct pour *p);
const uint8_t *pattern(unsigned seed, size_t offset, size_t *length);

/* Peer's side of a raw stripe. */
void raw_write(struct pair *pair, unsigned index, const void *bytes, size_t length);
void raw_header(struct pair *pair, unsigned index, uint32_t serial, uint32_t size);
void raw_data(struct pair *pair, unsigned index, uint32_t serial, const char *text);
void raw_control(struct pair *pair, unsigned index, const struct control *control);

/* Reads n bytes, turning until they are there. */
void raw_read(struct pair *pair, unsigned index, void *bytes, size_t n);
/* Reads datagrams until a control comes that is of the type; data is dropped, other controls fail the test. */
struct control raw_expect(struct pair *pair, unsigned index, enum control_type type);
/* Reads and drops until the stripe has ended; true if by a reset. */
bool raw_ended_by_reset(struct pair *pair, unsigned index);

/* The client's, or server's, side. */
void local_expect(struct pair *pair, struct end *end, const char *text);
void local_expect_end(struct pair *pair, struct end *end);
void local_expect_reset(struct pair *pair, struct end *end);
void local_expect_nothing(struct pair *pair, struct end *end);
void local_write(struct end *end, const char *text);

struct looped_test {
	const TTest *test;
	int times;
};
int run_looped(const char *module, const struct looped_test *tests);

#endif
