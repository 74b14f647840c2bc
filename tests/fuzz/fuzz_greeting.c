/* SPDX-License-Identifier: ISC */
/*
 * Input: a Hello, a Challenge and a Proof behind each other; what is missing is zero. The key is
 * that of the vectors.
 */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "wire/greeting.h"

struct greeting {
	uint8_t hello[HELLO_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *nonce;
	uint8_t secret[KEY_SIZE], id[KEY_ID_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE];
	struct greeting g = { 0 };
	enum greeting_error error;

	for (size_t i = 0; i < KEY_SIZE; i++)
		secret[i] = 0x40 + i;
	memcpy(&g, data, size < sizeof(g) ? size : sizeof(g));
	nonce = g.challenge + CHALLENGE_SIZE - PROOF_SIZE - NONCE_SIZE;

	/* A relay of ours answers any Hello it takes in a way that the proxy takes. */
	error = hello_decode(g.hello, id);
	challenge_encode(challenge, g.hello, secret, nonce);
	MUST((challenge_check(challenge, g.hello, secret) == GREETING_OK) ==
	     (g.hello[4] || g.hello[5]));
	if (error == GREETING_OK)
		MUST(g.hello[4] || g.hello[5]);

	/* What is taken has the proof that belongs to it. */
	if (challenge_check(g.challenge, g.hello, secret) == GREETING_OK &&
	    memcmp(g.challenge, challenge, 12) == 0)
		MUST(memcmp(g.challenge, challenge, CHALLENGE_SIZE) == 0);
	proof_encode(proof, g.hello, g.challenge, secret);
	MUST(proof_check(proof, g.hello, g.challenge, secret) == GREETING_OK);
	MUST((proof_check(g.proof, g.hello, g.challenge, secret) == GREETING_OK) ==
	     (memcmp(proof, g.proof, PROOF_SIZE) == 0));
	MUST(greeting_error_text(error) != NULL);
	return 0;
}
