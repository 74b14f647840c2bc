/* SPDX-License-Identifier: ISC */
#ifndef WIRE_GREETING_H
#define WIRE_GREETING_H

#include <stdint.h>

/*
 * The greeting of the extended protocol, doc/protocol.md section 3.1: pure functions; the caller
 * brings the random nonces.
 */
#define EXTENSION_WORD 0xffff0001u
#define EXTENSION_FIRST 0xffff0000u /* first words from here up are no connection numbers */
#define GREETING_VERSION 1
#define FEATURE_PARITY 1u

#define KEY_ID_SIZE 8
#define KEY_SIZE 32
#define NONCE_SIZE 32
#define PROOF_SIZE 32
#define HELLO_SIZE 52
#define CHALLENGE_SIZE 76

/* All zero bytes stand for "no key". */
struct key {
	uint8_t id[KEY_ID_SIZE];
	uint8_t secret[KEY_SIZE];
};

enum greeting_error {
	GREETING_OK,
	GREETING_NOT_OURS, /* the extension word is another */
	GREETING_VERSION_BAD,
	GREETING_FEATURES_BAD,
	GREETING_PROOF_BAD,
};

/* Proxy: makes its first message. */
void hello_encode(uint8_t hello[HELLO_SIZE], const uint8_t key_id[KEY_ID_SIZE],
		  const uint8_t nonce[NONCE_SIZE]);

/* Relay: checks a Hello and gives the key id it names. */
enum greeting_error hello_decode(const uint8_t hello[HELLO_SIZE], uint8_t key_id[KEY_ID_SIZE]);

/* Relay: answers a Hello, proving that it has the secret. */
void challenge_encode(uint8_t challenge[CHALLENGE_SIZE], const uint8_t hello[HELLO_SIZE],
		      const uint8_t secret[KEY_SIZE], const uint8_t nonce[NONCE_SIZE]);

/* Proxy: checks the relay's answer, in constant time. */
enum greeting_error challenge_check(const uint8_t challenge[CHALLENGE_SIZE],
				    const uint8_t hello[HELLO_SIZE],
				    const uint8_t secret[KEY_SIZE]);

/* Both, of a Challenge that was checked or encoded: the features that both will use. */
uint32_t challenge_features(const uint8_t challenge[CHALLENGE_SIZE]);

/* Proxy: proves that it has the secret, too. */
void proof_encode(uint8_t proof[PROOF_SIZE], const uint8_t hello[HELLO_SIZE],
		  const uint8_t challenge[CHALLENGE_SIZE], const uint8_t secret[KEY_SIZE]);

/* Relay: checks it, in constant time. */
enum greeting_error proof_check(const uint8_t proof[PROOF_SIZE], const uint8_t hello[HELLO_SIZE],
				const uint8_t challenge[CHALLENGE_SIZE],
				const uint8_t secret[KEY_SIZE]);

const char *greeting_error_text(enum greeting_error error);

#endif
