/* SPDX-License-Identifier: ISC */
#ifndef ROLE_ENDED_H
#define ROLE_ENDED_H

#include <ev.h>
#include <stdint.h>
#include <uthash.h>

#include "wire/control.h"
#include "wire/greeting.h"

/*
 * The groups of a relay that have ended by Fin both ways, the oldest first. A Join that was lost, and sent again by TCP, may come when all that it
 * carries has long come by other stripes, as parity or copies, and its group is gone: then it needn't wait for an Open, and there's nothing lost.
 */
struct ended {
	uint8_t token[TOKEN_SIZE];
	uint8_t key_id[KEY_ID_SIZE];
	uint32_t number;
	ev_tstamp at;
	UT_hash_handle hh;
};

/* So many are remembered. */
#define ENDED_MAX 4096

/* *list: NULL at first. Without memory it does nothing. */
void ended_note(struct ended **list, const uint8_t token[TOKEN_SIZE], const uint8_t key_id[KEY_ID_SIZE], uint32_t number,
		ev_tstamp now);

/* The number of the group that had the token, and the key; 0 if none is remembered. */
uint32_t ended_number(struct ended *list, const uint8_t token[TOKEN_SIZE], const uint8_t key_id[KEY_ID_SIZE]);

/* Forgets those that ended before. */
void ended_forget(struct ended **list, ev_tstamp before);

#endif
