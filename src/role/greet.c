/* SPDX-License-Identifier: ISC */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "role/greet.h"
#include "wire/bytes.h"

#define FIRST_WORD 4

struct greet {
	struct ev_loop *loop;
	int fd;
	const struct keyring *keys;
	bool allow_base;
	greet_done *done;
	void *arg;
	ev_io io;
	ev_timer timer;
	uint8_t hello[HELLO_SIZE];
	uint8_t challenge[CHALLENGE_SIZE];
	uint8_t proof[PROOF_SIZE];
	uint8_t secret[KEY_SIZE];
	size_t have; /* bytes of Hello and Proof together */
	struct greet_result result;
};

static void stop(struct greet *greet)
{
	ev_io_stop(greet->loop, &greet->io);
	ev_timer_stop(greet->loop, &greet->timer);
	sodium_memzero(greet->secret, sizeof(greet->secret));
}

static void refuse(struct greet *greet, const char *why)
{
	stop(greet);
	close(greet->fd);
	greet->done(greet->arg, greet, -1, NULL, why);
	free(greet);
}

static void accept_it(struct greet *greet)
{
	stop(greet);
	greet->done(greet->arg, greet, greet->fd, &greet->result, NULL);
	free(greet);
}

/* A key that we don't have is answered like one that we do, from a secret that nobody knows. */
static void find_secret(struct greet *greet)
{
	static const uint8_t none[KEY_ID_SIZE];
	const struct key *key;

	if (greet->keys->count == 0) {
		if (memcmp(greet->result.key_id, none, KEY_ID_SIZE) == 0)
			memset(greet->secret, 0, KEY_SIZE);
		else
			randombytes_buf(greet->secret, KEY_SIZE);
		return;
	}
	key = keyring_find(greet->keys, greet->result.key_id);
	if (key != NULL)
		memcpy(greet->secret, key->secret, KEY_SIZE);
	else
		randombytes_buf(greet->secret, KEY_SIZE);
}

static void take_hello(struct greet *greet)
{
	enum greeting_error error = hello_decode(greet->hello, greet->result.key_id);
	uint8_t nonce[NONCE_SIZE];

	if (error != GREETING_OK) {
		refuse(greet, greeting_error_text(error));
		return;
	}
	find_secret(greet);
	randombytes_buf(nonce, sizeof(nonce));
	challenge_encode(greet->challenge, greet->hello, greet->secret, nonce);
	greet->result.features = challenge_features(greet->challenge);
	/* The first bytes on a connection always fit into its send buffer. */
	if (send(greet->fd, greet->challenge, CHALLENGE_SIZE, MSG_DONTWAIT | MSG_NOSIGNAL) != CHALLENGE_SIZE)
		refuse(greet, "closed during the greeting");
}

static void take_first_word(struct greet *greet)
{
	uint32_t word = get_u32(greet->hello);

	if (word == EXTENSION_WORD)
		return;
	if (word >= EXTENSION_FIRST) {
		refuse(greet, "unknown extension");
	} else if (!greet->allow_base) {
		refuse(greet, "speaks the base protocol, which is not allowed here");
	} else {
		greet->result.base = true;
		greet->result.number = word;
		accept_it(greet);
	}
}

static void take_proof(struct greet *greet)
{
	if (proof_check(greet->proof, greet->hello, greet->challenge, greet->secret) == GREETING_OK)
		accept_it(greet);
	else
		refuse(greet, "wrong or unknown key");
}

/* Reads no further than the part that is due: what follows belongs to the stripe. */
static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct greet *greet = io->data;
	uint8_t *to = greet->have < HELLO_SIZE ? greet->hello + greet->have : greet->proof + (greet->have - HELLO_SIZE);
	size_t end = greet->have < FIRST_WORD ? FIRST_WORD
		     : greet->have < HELLO_SIZE ? HELLO_SIZE
						: HELLO_SIZE + PROOF_SIZE;
	ssize_t n = recv(greet->fd, to, end - greet->have, MSG_DONTWAIT);

	(void)loop;
	(void)revents;
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		refuse(greet, "closed during the greeting");
		return;
	}
	greet->have += (size_t)n;
	if (greet->have < end)
		return;
	if (end == FIRST_WORD)
		take_first_word(greet);
	else if (end == HELLO_SIZE)
		take_hello(greet);
	else
		take_proof(greet);
}

static void on_timeout(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	refuse(timer->data, "no greeting in time");
}

struct greet *greet_start(struct ev_loop *loop, int fd, const struct keyring *keys, bool allow_base, double timeout,
			  greet_done *done, void *arg)
{
	struct greet *greet = calloc(1, sizeof(*greet));

	if (greet == NULL)
		return NULL;
	greet->loop = loop;
	greet->fd = fd;
	greet->keys = keys;
	greet->allow_base = allow_base;
	greet->done = done;
	greet->arg = arg;
	ev_io_init(&greet->io, on_readable, fd, EV_READ);
	ev_timer_init(&greet->timer, on_timeout, timeout, 0.);
	greet->io.data = greet->timer.data = greet;
	ev_io_start(loop, &greet->io);
	ev_timer_start(loop, &greet->timer);
	return greet;
}

void greet_cancel(struct greet *greet)
{
	stop(greet);
	close(greet->fd);
	free(greet);
}
