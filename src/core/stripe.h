/* SPDX-License-Identifier: ISC */
#ifndef CORE_STRIPE_H
#define CORE_STRIPE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "core/engine.h"
#include "net/hangup.h"
#include "net/hold.h"
#include "net/sock.h"
#include "wire/control.h"
#include "wire/datagram.h"

struct group;
struct stripe;

/* What a role hears of its stripes. Each may end the stripe. */
struct stripe_ops {
	/* A control datagram that the engine doesn't deal with itself. False: it is out of place, and the stripe is ended. */
	bool (*control)(struct stripe *stripe, const struct control *control);
	/* It has left its group, or a role's hands, and is idle. Base stripes never are. */
	void (*idle)(struct stripe *stripe);
	/* Something was heard of it for the first time since it became idle: the peer has read all. May be NULL. */
	void (*heard)(struct stripe *stripe);
	/* It is closed and about to be freed. why is a constant text. */
	void (*closed)(struct stripe *stripe, const char *why);
};

/* What base stripes have in place of controls, which they don't know, and of a second flow, which they never get. */
bool stripe_refuse_control(struct stripe *stripe, const struct control *control);
void stripe_end_idle(struct stripe *stripe);

enum stripe_state {
	STRIPE_IDLE,
	STRIPE_HELD,	/* waits for its group: data is left unread, all else is heard */
	STRIPE_BOUND,
	STRIPE_LEAVING, /* its group has ended: data is dropped until the peer's Detach */
};

/* Control datagrams that wait to be sent. What a peer that reads can make us queue fits twice. */
#define STRIPE_CONTROL_QUEUE 256

/* A payload of which this much is left goes through a pipe; less is copied, which costs no more: tests/bench/crossover.c. */
#define STRIPE_BULK 32768

/*
 * Microseconds. On a shorter path several BBR stripes together overflow the queue all the time, and there's no time to hold them
 * back: there nothing is governed, and stripes stay with what they began with until losses make a window small.
 */
#define STRIPE_RTT_SHORT 5000

/* The incoming half: a header, then the payload of a control datagram or of a data datagram (to the merge). */
struct stripe_in {
	struct hold_ahead ahead; /* with a buffer only while there are bytes in it */
	bool drained; /* the socket had no more when it was last read, in this turn of the loop */
	bool bulk;    /* the last data datagram was large: what may be spliced is not read ahead */
	bool parsed;  /* datagram is valid: its payload comes next */
	bool known;   /* the merge has judged the data datagram */
	bool parked;  /* it isn't due: not read */
	bool kept, parity; /* the datagram's flags: see gather.h */
	bool late;    /* another stripe has brought the same already: it's dropped */
	bool eof;
	uint8_t dry;  /* splices in a row that found nothing */
	struct datagram datagram;
	uint32_t left; /* bytes of the payload still to come */
	uint32_t wanted; /* bytes that must have come before we're woken, if more than 1 */
	uint32_t last; /* the last data serial here, 0 before the first */
	struct gather_piece *piece; /* where its payload is gathered; NULL if it isn't */
};

/* The outgoing half: whole datagrams, controls between them. */
struct stripe_out {
	struct hold datagram; /* the data datagram that's being sent */
	uint8_t *controls;    /* STRIPE_CONTROL_QUEUE bytes; NULL while none are queued */
	uint16_t queued;      /* bytes in controls */
	uint16_t before;      /* of these, what is sent before the datagram */
	bool pending;	      /* in engine->unflushed */
	bool writable; /* may take data: not known to be full */
	bool shut;     /* base protocol: FIN sent */
	bool asked;    /* the peer has yet to confirm that it is bound: see group_confirm() */
	bool waits;    /* and takes no data before */
	bool used;     /* anything of this flow's data has gone out on it */
	bool carried;  /* data of this flow has gone out on it, and not only parity */
	bool settled;  /* uses the congestion control that was asked for */
	bool governed; /* a flow that moved much has found out what its path carries */
	bool counted;  /* path.delivered is of this flow's time */
	uint32_t last; /* the last data serial of this flow, 0 before the first */
	uint32_t unsent_limit;
	struct sock_path path;
	ev_tstamp path_at; /* when path was asked for; 0: never */
};

/* One TCP connection between proxy and relay, greeted. */
struct stripe {
	struct grave grave;
	struct engine *engine;
	const struct stripe_ops *ops;
	void *owner; /* the role's */
	TAILQ_ENTRY(stripe) engine_link;
	TAILQ_ENTRY(stripe) role_link;
	ev_tstamp role_time;
	uint32_t home; /* proxy: first word of the last token that was sent on it, 0 before the first */
	struct group *group;
	TAILQ_ENTRY(stripe) group_link;
	TAILQ_ENTRY(stripe) flush_link;
	int fd;
	enum stripe_state state;
	bool base;
	bool parity; /* both ends know DATAGRAM_KEPT and DATAGRAM_PARITY */
	bool closed;
	bool detach_sent, detach_received;
	bool unheard; /* nothing was heard since Detach: the peer may have yet to read what it carries */
	bool worn; /* too slow for another flow, as one of the ends has found when it left one */
	ev_io rd, wr;
	ev_timer leave_timer;
	ev_timer again; /* reads on when others had their turn */
	struct hangup_watch hangup;
	struct stripe_in in;
	struct stripe_out out;
};

/* Takes over fd, connected and greeted, and begins to read it. Returns NULL with errno set, and fd is still the caller's. */
struct stripe *stripe_new(struct engine *engine, int fd, bool base, const struct stripe_ops *ops, void *owner);

/* Its group isn't there yet: data waits unread until group_add(). Detach makes it idle again. */
void stripe_hold(struct stripe *stripe);

/*
 * Another engine's thread takes it: give it up in the old one, adopt it in the new one. It must be held. Adopting returns 0, or -1 with errno
 * set, and then the stripe is gone.
 */
void stripe_give_up(struct stripe *stripe);
int stripe_adopt(struct stripe *stripe, struct engine *engine, void *owner);

/* Resets and frees one that was given up. */
void stripe_throw_away(struct stripe *stripe);

/* Ends the stripe, and its group if that has one and can't do without it, telling the role. clean: with a FIN, else with a reset. */
void stripe_close(struct stripe *stripe, bool clean, const char *why);

/* Ends all stripes of an engine. Their groups must have ended. */
void stripe_close_all(struct engine *engine);

/* For group.c: the state decides what is counted. */
void stripe_set_state(struct stripe *stripe, enum stripe_state state);

/* Ends it without a word to group or role: for their own use. */
void stripe_drop(struct stripe *stripe, bool clean);

/* Queues a control datagram that leaves with whatever does next. False if there's no room. */
bool stripe_queue(struct stripe *stripe, const struct control *control);

/*
 * Queues a control datagram that leaves with the next data, or else before the loop waits: so one packet has what is said in one turn. Ends the
 * stripe if the peer doesn't read.
 */
void stripe_send(struct stripe *stripe, const struct control *control);

/* Its hold has the payload of a datagram: puts the header in front. kept: parity may cover it; the peer must know of that. */
void stripe_start(struct stripe *stripe, uint32_t serial, uint32_t size, bool kept);

/* The same for a parity, whose first piece has that serial. */
void stripe_start_parity(struct stripe *stripe, uint32_t serial, uint32_t size);

/* Sends what is waiting now. True if nothing is left; false if something is, or if the stripe has ended. */
bool stripe_flush(struct stripe *stripe);

/* True if a new datagram may be given to it; and if it may be as soon as it isn't full any more. */
bool stripe_can_take(const struct stripe *stripe);
bool stripe_works(const struct stripe *stripe);

/* Asks the kernel for the state of the path, if what's known is older than max_age seconds. */
void stripe_look(struct stripe *stripe, ev_tstamp max_age);

/* From now on it uses the congestion control that was asked for, not what it began with; but on a short path only if its window is small. */
void stripe_settle(struct stripe *stripe);

/*
 * True if, when last looked, it would have been slower than a new stripe in the beginning of a flow: losses have made its window small, and it wasn't a
 * queue that overflowed.
 */
bool stripe_is_worn(const struct stripe *stripe);

/* Says that it leaves its group while the group goes on. */
void stripe_detach(struct stripe *stripe);

/*
 * Its group has ended (the caller has unlinked it): it becomes idle when the peer has said Detach. timeout > 0: seconds after which it is
 * reset. Base stripes are closed.
 */
void stripe_leave(struct stripe *stripe, ev_tstamp timeout);

/* The peer's Detach has come. False: out of place. */
bool stripe_take_detach(struct stripe *stripe);

/* Reads on from the loop, also what was read ahead, for which the socket alone would not wake us. */
void stripe_watch(struct stripe *stripe);

/* Reads on, from the loop or after it was parked or held. */
void stripe_read(struct stripe *stripe);

/* The same when the loop comes round next: others get their turn first. */
void stripe_read_later(struct stripe *stripe);

/* True if it is known by now that data comes next. */
bool stripe_data_is_next(const struct stripe *stripe);

/* Makes sure that there is a buffer for what is read ahead, and releases it if it is empty. False: out of memory. */
bool stripe_borrow_ahead(struct stripe *stripe);
void stripe_release_ahead(struct stripe *stripe);

/* Waits for reading until so many bytes have come: 1 is any. */
void stripe_await(struct stripe *stripe, uint32_t bytes);

/* Drops up to n bytes of payload. Returns 1 for done, go on; 0 for wait until readable; -1 for ended. */
int stripe_skip(struct stripe *stripe, uint32_t n);

/* Stops reading until stripe_read(). */
void stripe_park(struct stripe *stripe);

#endif
