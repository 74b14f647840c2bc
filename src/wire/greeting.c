/* SPDX-License-Identifier: ISC */
#include "wire/greeting.h"

#include <sodium.h>
#include <string.h>

#include "wire/bytes.h"

/* Where the fields stand. */
#define VERSION 4
#define ZERO 6
#define FEATURES 8
#define HELLO_KEY_ID 12
#define HELLO_NONCE (HELLO_KEY_ID + KEY_ID_SIZE)
#define CHALLENGE_NONCE 12
#define CHALLENGE_PROOF (CHALLENGE_NONCE + NONCE_SIZE)

#define FEATURES_KNOWN FEATURE_PARITY

_Static_assert(HELLO_NONCE + NONCE_SIZE == HELLO_SIZE, "layout of Hello");
_Static_assert(CHALLENGE_PROOF + PROOF_SIZE == CHALLENGE_SIZE, "layout of Challenge");
_Static_assert(crypto_auth_hmacsha512256_BYTES == PROOF_SIZE, "the MAC is a whole proof");
_Static_assert(crypto_auth_hmacsha512256_KEYBYTES == KEY_SIZE, "the MAC takes a whole key");

/* HMAC-SHA-512-256 over label, hello and the first size bytes of challenge. */
static void mac(uint8_t out[PROOF_SIZE], const uint8_t secret[KEY_SIZE], const char *label,
		const uint8_t hello[HELLO_SIZE], const uint8_t *challenge, size_t size)
{
	crypto_auth_hmacsha512256_state state;

	crypto_auth_hmacsha512256_init(&state, secret, KEY_SIZE);
	crypto_auth_hmacsha512256_update(&state, (const uint8_t *)label, strlen(label));
	crypto_auth_hmacsha512256_update(&state, hello, HELLO_SIZE);
	crypto_auth_hmacsha512256_update(&state, challenge, size);
	crypto_auth_hmacsha512256_final(&state, out);
	sodium_memzero(&state, sizeof(state));
}

static void relay_proof(uint8_t out[PROOF_SIZE], const uint8_t secret[KEY_SIZE],
			const uint8_t hello[HELLO_SIZE], const uint8_t challenge[CHALLENGE_SIZE])
{
	mac(out, secret, "ro-ro-tcp relay 1", hello, challenge, CHALLENGE_PROOF);
}

static void put_head(uint8_t *out, uint16_t version, uint32_t features)
{
	put_u32(out, EXTENSION_WORD);
	put_u16(out + VERSION, version);
	put_u16(out + ZERO, 0);
	put_u32(out + FEATURES, features);
}

void hello_encode(uint8_t hello[HELLO_SIZE], const uint8_t key_id[KEY_ID_SIZE],
		  const uint8_t nonce[NONCE_SIZE])
{
	put_head(hello, GREETING_VERSION, FEATURES_KNOWN);
	memcpy(hello + HELLO_KEY_ID, key_id, KEY_ID_SIZE);
	memcpy(hello + HELLO_NONCE, nonce, NONCE_SIZE);
}

enum greeting_error hello_decode(const uint8_t hello[HELLO_SIZE], uint8_t key_id[KEY_ID_SIZE])
{
	if (get_u32(hello) != EXTENSION_WORD)
		return GREETING_NOT_OURS;
	if (get_u16(hello + VERSION) == 0)
		return GREETING_VERSION_BAD;
	memcpy(key_id, hello + HELLO_KEY_ID, KEY_ID_SIZE);
	return GREETING_OK;
}

void challenge_encode(uint8_t challenge[CHALLENGE_SIZE], const uint8_t hello[HELLO_SIZE],
		      const uint8_t secret[KEY_SIZE], const uint8_t nonce[NONCE_SIZE])
{
	/* Version 1 is the lowest there is, so every offer covers it. */
	put_head(challenge, GREETING_VERSION, get_u32(hello + FEATURES) & FEATURES_KNOWN);
	memcpy(challenge + CHALLENGE_NONCE, nonce, NONCE_SIZE);
	relay_proof(challenge + CHALLENGE_PROOF, secret, hello, challenge);
}

enum greeting_error challenge_check(const uint8_t challenge[CHALLENGE_SIZE],
				    const uint8_t hello[HELLO_SIZE], const uint8_t secret[KEY_SIZE])
{
	const uint16_t version = get_u16(challenge + VERSION);
	uint8_t expected[PROOF_SIZE];

	if (get_u32(challenge) != EXTENSION_WORD)
		return GREETING_NOT_OURS;
	if (version == 0 || version > get_u16(hello + VERSION))
		return GREETING_VERSION_BAD;
	if (get_u32(challenge + FEATURES) & ~get_u32(hello + FEATURES))
		return GREETING_FEATURES_BAD;
	relay_proof(expected, secret, hello, challenge);
	return sodium_memcmp(expected, challenge + CHALLENGE_PROOF, PROOF_SIZE) == 0
		       ? GREETING_OK
		       : GREETING_PROOF_BAD;
}

uint32_t challenge_features(const uint8_t challenge[CHALLENGE_SIZE])
{
	return get_u32(challenge + FEATURES);
}

void proof_encode(uint8_t proof[PROOF_SIZE], const uint8_t hello[HELLO_SIZE],
		  const uint8_t challenge[CHALLENGE_SIZE], const uint8_t secret[KEY_SIZE])
{
	mac(proof, secret, "ro-ro-tcp proxy 1", hello, challenge, CHALLENGE_SIZE);
}

enum greeting_error proof_check(const uint8_t proof[PROOF_SIZE], const uint8_t hello[HELLO_SIZE],
				const uint8_t challenge[CHALLENGE_SIZE],
				const uint8_t secret[KEY_SIZE])
{
	uint8_t expected[PROOF_SIZE];

	proof_encode(expected, hello, challenge, secret);
	return sodium_memcmp(expected, proof, PROOF_SIZE) == 0 ? GREETING_OK : GREETING_PROOF_BAD;
}

const char *greeting_error_text(enum greeting_error error)
{
	switch (error) {
	case GREETING_OK:
		return "no error";
	case GREETING_NOT_OURS:
		return "not the extended protocol of ro-ro-tcp";
	case GREETING_VERSION_BAD:
		return "a version that was not offered";
	case GREETING_FEATURES_BAD:
		return "features that were not offered";
	case GREETING_PROOF_BAD:
		return "wrong key";
	}
	return "unknown error";
}
