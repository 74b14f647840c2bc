/* SPDX-License-Identifier: ISC */
#ifndef ROLE_GREET_H
#define ROLE_GREET_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire/keyring.h"

/* The relay's side of establishment on a new connection: the greeting, or the base protocol's first word. */
struct greet;

struct greet_result {
	bool base;
	uint32_t number;	      /* base: what the proxy sent */
	uint8_t key_id[KEY_ID_SIZE]; /* extended: the key it has shown to have */
	uint32_t features;	      /* extended: what both ends will use */
};

/* Once, from the loop: result is NULL if it came to nothing (fd is closed then; why tells), else fd is the receiver's. */
typedef void greet_done(void *arg, struct greet *greet, int fd, const struct greet_result *result, const char *why);

/* Takes over fd. keys: what is accepted; none: the all-zero key is. Returns NULL with errno set, and fd is still the caller's. */
struct greet *greet_start(struct ev_loop *loop, int fd, const struct keyring *keys, bool allow_base, double timeout,
			  greet_done *done, void *arg);

/* Closes it without calling back. */
void greet_cancel(struct greet *greet);

#endif
