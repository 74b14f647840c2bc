/* SPDX-License-Identifier: ISC */
#ifndef CORE_GROUP_H
#define CORE_GROUP_H

#include "core/cover.h"
#include "core/govern.h"
#include "core/merge.h"
#include "core/spread.h"
#include "core/stripe.h"
#include "core/turns.h"

struct group_ops {
	/* The group is over: its stripes have left, its local socket is closed, it is about to be freed. */
	void (*ended)(struct group *group, enum reason reason);
	/* group->moved has reached group->grow_at. */
	void (*grow)(struct group *group);
	/* The peer has taken a stripe out by itself: all that it has to send is on its way, and it needs no more of them. May be NULL. */
	void (*parting)(struct group *group);
	/* A stripe that the peer may have counted on is lost. False: the group is to end. May be NULL. */
	bool (*lost)(struct group *group, const struct stripe *stripe);
};

/* The stripes that carry one flow, and the local socket: the client's on the proxy, the server's on the relay. */
struct group {
	struct grave grave;
	struct engine *engine;
	const struct group_ops *ops;
	void *owner; /* the role's */
	uint32_t number;
	int local; /* -1 until there's one */
	ev_io local_rd, local_wr;
	struct hangup_watch hangup;
	ev_timer timer;
	double deadline; /* by clock_monotonic(), while resetting */
	struct stripe_list stripes;
	unsigned stripe_count;
	unsigned joining; /* base: stripes that are yet to come */
	uint64_t moved;	  /* payload bytes, both ways */
	uint64_t busy;	  /* when it last did: engine_note_busy() */
	uint64_t grow_at;
	bool base;
	bool ended;
	bool watched;	   /* by hangup */
	bool local_failed; /* the local socket was reset: what it still has to give is sent, then Reset */
	bool resetting;	   /* the peer's Reset was delivered: the local socket is reset once all is acknowledged */
	enum reason reset_reason;
	struct turn turn;
	struct spread spread;
	struct merge merge;
	struct govern *govern; /* NULL until it's needed */
	struct cover *cover;   /* likewise */
	struct gather *gather; /* likewise */
};

/* Returns NULL with errno set. */
struct group *group_new(struct engine *engine, bool base, const struct group_ops *ops, void *owner);

/* Takes over the connected local socket; data flows from now on. */
void group_set_local(struct group *group, int fd);

/* Nobody reads the local socket for now; a reset of it is heard all the same. May end the group. */
void group_stop_reading(struct group *group);

/*
 * Binds an idle (or held) stripe, sends the control datagram that comes first on it (NULL: none), and reads what it has. May end the group,
 * if the stripe is dead.
 */
void group_add(struct group *group, struct stripe *stripe, const struct control *first);

/*
 * The peer has confirmed a stripe whose out.asked was set before group_add(). Until then the group doesn't end, if this one has carried data: the others
 * would leave, and the peer couldn't know that one is still to come.
 */
void group_confirm(struct group *group, struct stripe *stripe);
bool group_is_unconfirmed(const struct group *group);

/* Unlinks a stripe that leaves. */
void group_remove(struct group *group, struct stripe *stripe);

/* How the stripes fare when their group ends. */
enum group_end {
	GROUP_FINISH, /* all was delivered both ways */
	GROUP_REFUSE, /* nothing was: stripes are as good as new */
	GROUP_RESET,  /* Reset was sent or obeyed: stripes are good again when both sides have said Detach */
	GROUP_ABORT,  /* stripes are reset with it */
};
void group_end(struct group *group, enum group_end end, enum reason reason);

/* Something happened to the local socket (error: an errno value): reset towards the peer, in order. */
void group_local_failed(struct group *group, int error);

/* The engine's own control datagrams (Fin, Reset). False: out of place. */
bool group_control(struct group *group, const struct control *control);

/* A direction has ended; ends the group if both have. */
void group_check_done(struct group *group);

/* Counts n payload bytes that were moved. */
void group_count(struct group *group, size_t n);

#endif
