/* SPDX-License-Identifier: ISC */
#include "wire/greeting.h"

#include <arpa/inet.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "tests/unit/vectors.h"
#include "wire/bytes.h"

/* One whole greeting as the vectors have it. */
struct greeting {
	struct key key;
	uint8_t proxy_nonce[NONCE_SIZE], relay_nonce[NONCE_SIZE];
	uint8_t hello[HELLO_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE];
};

static void load(struct greeting *g, const char *hello, const char *challenge, const char *proof)
{
	vector_exactly(vector_named(hello), "key_id", g->key.id, KEY_ID_SIZE);
	vector_exactly(vector_named(hello), "proxy_nonce", g->proxy_nonce, NONCE_SIZE);
	vector_exactly(vector_named(hello), "bytes", g->hello, HELLO_SIZE);
	vector_exactly(vector_named(challenge), "key", g->key.secret, KEY_SIZE);
	vector_exactly(vector_named(challenge), "relay_nonce", g->relay_nonce, NONCE_SIZE);
	vector_exactly(vector_named(challenge), "bytes", g->challenge, CHALLENGE_SIZE);
	vector_exactly(vector_named(proof), "bytes", g->proof, PROOF_SIZE);
}

static void load_keyed(struct greeting *g)
{
	load(g, "hello", "challenge", "proof");
}

static void check_vectors(const struct greeting *g, uint32_t features)
{
	uint8_t hello[HELLO_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE], id[KEY_ID_SIZE];

	/* We offer all that we know, which is more than some of them have. */
	hello_encode(hello, g->key.id, g->proxy_nonce);
	ck_assert_uint_eq(get_u32(hello + 8), FEATURE_PARITY);
	put_u32(hello + 8, features);
	ck_assert_mem_eq(hello, g->hello, HELLO_SIZE);
	ck_assert_int_eq(hello_decode(g->hello, id), GREETING_OK);
	ck_assert_mem_eq(id, g->key.id, KEY_ID_SIZE);
	challenge_encode(challenge, g->hello, g->key.secret, g->relay_nonce);
	ck_assert_mem_eq(challenge, g->challenge, CHALLENGE_SIZE);
	ck_assert_int_eq(challenge_check(g->challenge, g->hello, g->key.secret), GREETING_OK);
	ck_assert_uint_eq(challenge_features(g->challenge), features);
	proof_encode(proof, g->hello, g->challenge, g->key.secret);
	ck_assert_mem_eq(proof, g->proof, PROOF_SIZE);
	ck_assert_int_eq(proof_check(g->proof, g->hello, g->challenge, g->key.secret), GREETING_OK);
}

START_TEST(test_vectors)
{
	static const uint8_t zero[KEY_SIZE];
	struct greeting g;

	load_keyed(&g);
	check_vectors(&g, 0);
	load(&g, "hello-without-key", "challenge-without-key", "proof-without-key");
	ck_assert_mem_eq(g.key.id, zero, KEY_ID_SIZE);
	ck_assert_mem_eq(g.key.secret, zero, KEY_SIZE);
	check_vectors(&g, 0);
	load(&g, "hello-parity", "challenge-parity", "proof-parity");
	check_vectors(&g, FEATURE_PARITY);
}
END_TEST

START_TEST(test_every_bit_of_a_proof_counts)
{
	struct greeting g;

	load_keyed(&g);
	for (unsigned bit = 0; bit < 8 * PROOF_SIZE; bit++) {
		g.proof[bit / 8] ^= 1 << bit % 8;
		ck_assert_int_eq(proof_check(g.proof, g.hello, g.challenge, g.key.secret),
				 GREETING_PROOF_BAD);
		g.proof[bit / 8] ^= 1 << bit % 8;
	}
	for (unsigned bit = 0; bit < 8 * PROOF_SIZE; bit++) {
		uint8_t *byte = &g.challenge[CHALLENGE_SIZE - PROOF_SIZE + bit / 8];

		*byte ^= 1 << bit % 8;
		ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret),
				 GREETING_PROOF_BAD);
		*byte ^= 1 << bit % 8;
	}
}
END_TEST

/* Nobody can change anything of what went before, and no other key will do. */
START_TEST(test_every_byte_is_covered)
{
	struct greeting g;

	load_keyed(&g);
	for (size_t i = 0; i < HELLO_SIZE; i++) {
		g.hello[i] ^= 0x10;
		ck_assert_int_ne(challenge_check(g.challenge, g.hello, g.key.secret), GREETING_OK);
		ck_assert_int_eq(proof_check(g.proof, g.hello, g.challenge, g.key.secret),
				 GREETING_PROOF_BAD);
		g.hello[i] ^= 0x10;
	}
	for (size_t i = 0; i < CHALLENGE_SIZE; i++) {
		g.challenge[i] ^= 0x10;
		ck_assert_int_ne(challenge_check(g.challenge, g.hello, g.key.secret), GREETING_OK);
		ck_assert_int_eq(proof_check(g.proof, g.hello, g.challenge, g.key.secret),
				 GREETING_PROOF_BAD);
		g.challenge[i] ^= 0x10;
	}
	for (size_t i = 0; i < KEY_SIZE; i++) {
		g.key.secret[i] ^= 0x10;
		ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret),
				 GREETING_PROOF_BAD);
		ck_assert_int_eq(proof_check(g.proof, g.hello, g.challenge, g.key.secret),
				 GREETING_PROOF_BAD);
		g.key.secret[i] ^= 0x10;
	}
	check_vectors(&g, 0);
}
END_TEST

/* What one end proved is no proof of the other. */
START_TEST(test_proofs_are_not_reflected)
{
	struct greeting g;

	load_keyed(&g);
	ck_assert_int_eq(proof_check(g.challenge + CHALLENGE_SIZE - PROOF_SIZE, g.hello,
				     g.challenge, g.key.secret),
			 GREETING_PROOF_BAD);
	memcpy(g.challenge + CHALLENGE_SIZE - PROOF_SIZE, g.proof, PROOF_SIZE);
	ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret), GREETING_PROOF_BAD);
}
END_TEST

static void set_version(uint8_t *message, uint16_t version)
{
	version = htons(version);
	memcpy(message + 4, &version, sizeof(version));
}

START_TEST(test_hello)
{
	static const uint8_t base_first[HELLO_SIZE];
	struct greeting g;
	uint8_t id[KEY_ID_SIZE];

	load_keyed(&g);
	for (size_t i = 0; i < 4; i++) {
		g.hello[i] ^= 1;
		ck_assert_int_eq(hello_decode(g.hello, id), GREETING_NOT_OURS);
		g.hello[i] ^= 1;
	}
	ck_assert_int_eq(hello_decode(base_first, id), GREETING_NOT_OURS);
	set_version(g.hello, 0);
	ck_assert_int_eq(hello_decode(g.hello, id), GREETING_VERSION_BAD);
	set_version(g.hello, 0x100);
	ck_assert_int_eq(hello_decode(g.hello, id), GREETING_OK);
	memset(g.hello + 6, 0xff, 2 + 4); /* zero and features */
	ck_assert_int_eq(hello_decode(g.hello, id), GREETING_OK);
	ck_assert_mem_eq(id, g.key.id, KEY_ID_SIZE);
}
END_TEST

/* A later proxy offers more than we know. */
START_TEST(test_answer_to_a_later_version)
{
	static const uint8_t version_1_features_1[] = { 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1 };
	uint8_t challenge[CHALLENGE_SIZE];
	struct greeting g;

	load_keyed(&g);
	set_version(g.hello, 0xffff);
	memset(g.hello + 8, 0xff, 4);
	challenge_encode(challenge, g.hello, g.key.secret, g.relay_nonce);
	ck_assert_mem_eq(challenge, version_1_features_1, sizeof(version_1_features_1));
	ck_assert_int_eq(challenge_check(challenge, g.hello, g.key.secret), GREETING_OK);
}
END_TEST

START_TEST(test_challenge)
{
	struct greeting g;

	load_keyed(&g);
	for (size_t i = 0; i < 4; i++) {
		g.challenge[i] ^= 1;
		ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret),
				 GREETING_NOT_OURS);
		g.challenge[i] ^= 1;
	}
	set_version(g.challenge, 0);
	ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret), GREETING_VERSION_BAD);
	set_version(g.challenge, 2);
	ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret), GREETING_VERSION_BAD);
	set_version(g.challenge, 1);
	for (unsigned bit = 0; bit < 32; bit++) {
		g.challenge[8 + bit / 8] ^= 0x80 >> bit % 8;
		ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret),
				 GREETING_FEATURES_BAD);
		g.challenge[8 + bit / 8] ^= 0x80 >> bit % 8;
	}
	ck_assert_int_eq(challenge_check(g.challenge, g.hello, g.key.secret), GREETING_OK);
}
END_TEST

START_TEST(test_error_texts)
{
	for (int i = GREETING_OK; i <= GREETING_PROOF_BAD; i++)
		ck_assert_str_ne(greeting_error_text(i), "unknown error");
	ck_assert_str_eq(greeting_error_text(GREETING_PROOF_BAD + 1), "unknown error");
}
END_TEST

int main(void)
{
	return RUN_TESTS("greeting", test_vectors, test_every_bit_of_a_proof_counts,
			 test_every_byte_is_covered, test_proofs_are_not_reflected, test_hello,
			 test_answer_to_a_later_version, test_challenge, test_error_texts);
}
