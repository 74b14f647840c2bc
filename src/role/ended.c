/* SPDX-License-Identifier: ISC */
#include "role/ended.h"

#include <stdlib.h>
#include <string.h>

/* uthash keeps the order in which they were added. */
static void forget_first(struct ended **list)
{
	struct ended *first = *list;

	HASH_DEL(*list, first);
	free(first);
}

void ended_note(struct ended **list, const uint8_t token[TOKEN_SIZE], const uint8_t key_id[KEY_ID_SIZE], uint32_t number,
		ev_tstamp now)
{
	struct ended *ended = malloc(sizeof(*ended));

	if (ended == NULL)
		return;
	if (HASH_COUNT(*list) >= ENDED_MAX)
		forget_first(list);
	memcpy(ended->token, token, TOKEN_SIZE);
	memcpy(ended->key_id, key_id, KEY_ID_SIZE);
	ended->number = number;
	ended->at = now;
	HASH_ADD(hh, *list, token, TOKEN_SIZE, ended);
}

uint32_t ended_number(struct ended *list, const uint8_t token[TOKEN_SIZE], const uint8_t key_id[KEY_ID_SIZE])
{
	struct ended *ended;

	HASH_FIND(hh, list, token, TOKEN_SIZE, ended);
	return ended != NULL && memcmp(ended->key_id, key_id, KEY_ID_SIZE) == 0 ? ended->number : 0;
}

void ended_forget(struct ended **list, ev_tstamp before)
{
	while (*list != NULL && (*list)->at < before)
		forget_first(list);
}
