/* SPDX-License-Identifier: ISC */
/* Both sides of establishment, against each other and against peers that do it wrong. */
#include "role/greet.h"

#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "role/dial.h"
#include "tests/unit/core/pair.h"
#include "wire/bytes.h"

static struct key keys[2] = {{.id = "first id", .secret = "a secret"}, {.id = "other id", .secret = "another secret"}};
static struct keyring both = {keys, 2}, only_first = {keys, 1}, none = {NULL, 0};

struct outcome {
	unsigned calls;
	int fd;
	bool refused;
	struct greet_result result;
	struct dial_result dial_result;
	const char *why;
};

struct scene {
	struct ev_loop *loop;
	int listener;
	union addr relay;
	struct outcome dialled, greeted;
	const struct keyring *ring;
	bool allow_base;
	double timeout;
	struct dial *dial;
	struct greet *greet;
};

static void on_dialled(void *arg, struct dial *dial, int fd, const struct dial_result *result, const char *why)
{
	struct scene *scene = arg;

	ck_assert_ptr_eq(dial, scene->dial);
	ck_assert((fd < 0) == (why != NULL));
	ck_assert((fd < 0) == (result == NULL));
	scene->dialled.calls++;
	scene->dialled.fd = fd;
	scene->dialled.why = why;
	if (result != NULL)
		scene->dialled.dial_result = *result;
}

static void on_greeted(void *arg, struct greet *greet, int fd, const struct greet_result *result, const char *why)
{
	struct scene *scene = arg;

	ck_assert_ptr_eq(greet, scene->greet);
	ck_assert((fd < 0) == (why != NULL));
	ck_assert((fd < 0) == (result == NULL));
	scene->greeted.calls++;
	scene->greeted.fd = fd;
	scene->greeted.why = why;
	if (result != NULL)
		scene->greeted.result = *result;
}

static void set_up(struct scene *scene, const struct keyring *ring)
{
	signal(SIGPIPE, SIG_IGN);
	memset(scene, 0, sizeof(*scene));
	scene->loop = ev_loop_new(EVFLAG_NOENV);
	scene->dialled.fd = scene->greeted.fd = -1;
	scene->ring = ring;
	scene->timeout = 30.;
	ck_assert_int_eq(addr_parse(&scene->relay, "127.0.0.1:0", 0, false), 0);
	scene->listener = sock_listen(&scene->relay, false);
	ck_assert_int_eq(sock_local(scene->listener, &scene->relay), 0);
}

static void tear_down(struct scene *scene)
{
	close_socket(&scene->dialled.fd);
	close_socket(&scene->greeted.fd);
	close_socket(&scene->listener);
	ev_loop_destroy(scene->loop);
}

static void start_dial(struct scene *scene, const struct key *key, bool base, uint32_t number)
{
	const struct dial_plan plan = {&scene->relay, "", key, scene->timeout, base, number};

	scene->dial = dial_start(scene->loop, &plan, on_dialled, scene);
	ck_assert_ptr_nonnull(scene->dial);
}

static int take(struct scene *scene)
{
	union addr peer;
	int fd;

	while ((fd = sock_accept(scene->listener, &peer)) < 0) {
		ck_assert_int_eq(errno, EAGAIN);
		ev_run(scene->loop, EVRUN_NOWAIT);
	}
	return fd;
}

static void start_greet(struct scene *scene, int fd)
{
	scene->greet = greet_start(scene->loop, fd, scene->ring, scene->allow_base, scene->timeout, on_greeted, scene);
	ck_assert_ptr_nonnull(scene->greet);
}

static void meet(struct scene *scene, const struct key *key, const struct keyring *ring)
{
	set_up(scene, ring);
	start_dial(scene, key, false, 0);
	start_greet(scene, take(scene));
	while (scene->dialled.calls == 0 || scene->greeted.calls == 0)
		ev_run(scene->loop, EVRUN_ONCE);
	ck_assert_uint_eq(scene->dialled.calls, 1);
	ck_assert_uint_eq(scene->greeted.calls, 1);
}

START_TEST(test_right_keys)
{
	static const struct key zero;
	struct scene scene;

	for (int i = 0; i < 3; i++) {
		const struct key *key = i < 2 ? &keys[i] : &zero;

		meet(&scene, key, i < 2 ? &both : &none);
		ck_assert_int_ge(scene.dialled.fd, 0);
		ck_assert_int_ge(scene.greeted.fd, 0);
		ck_assert(!scene.greeted.result.base);
		ck_assert_mem_eq(scene.greeted.result.key_id, key->id, KEY_ID_SIZE);
		ck_assert_uint_eq(scene.dialled.dial_result.features, FEATURE_PARITY);
		ck_assert_uint_eq(scene.greeted.result.features, FEATURE_PARITY);
		tear_down(&scene);
	}
}
END_TEST

/* The proxy is the first to notice, and hangs up before it has proved anything. */
START_TEST(test_wrong_keys)
{
	static const struct key zero;
	struct key wrong = keys[0];
	struct scene scene;
	const struct {
		const struct key *key;
		const struct keyring *ring;
	} cases[] = {{&wrong, &both}, {&keys[1], &only_first}, {&zero, &both}, {&keys[0], &none}};

	wrong.secret[KEY_SIZE - 1] ^= 1;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		meet(&scene, cases[i].key, cases[i].ring);
		ck_assert_str_eq(scene.dialled.why, "the relay does not have our key");
		ck_assert_str_eq(scene.greeted.why, "closed during the greeting");
		tear_down(&scene);
	}
}
END_TEST

static void say(int fd, const void *bytes, size_t n)
{
	ck_assert_int_eq(send(fd, bytes, n, MSG_NOSIGNAL), (int)n);
}

static void hear(struct scene *scene, int fd, uint8_t *bytes, size_t n)
{
	size_t have = 0;
	ssize_t got;

	while (have < n) {
		ev_run(scene->loop, EVRUN_NOWAIT);
		got = recv(fd, bytes + have, n - have, MSG_DONTWAIT);
		ck_assert(got > 0 || (got < 0 && errno == EAGAIN));
		have += got > 0 ? (size_t)got : 0;
	}
}

static void settle(struct scene *scene)
{
	for (int i = 0; i < 20; i++)
		ev_run(scene->loop, EVRUN_NOWAIT);
}

/* A whole greeting spoken by hand to a greet; changed: which byte of Hello and Proof is wrong, -1: none. piece: bytes at once. */
static void speak(struct scene *scene, int changed, size_t piece)
{
	static const uint8_t nonce[NONCE_SIZE] = "once";
	uint8_t hello[HELLO_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE];
	int fds[2];

	tcp_pair(fds);
	start_greet(scene, fds[1]);
	hello_encode(hello, keys[0].id, nonce);
	for (size_t at = 0; at < HELLO_SIZE; at += piece) {
		say(fds[0], hello + at, HELLO_SIZE - at < piece ? HELLO_SIZE - at : piece);
		settle(scene);
		ck_assert_uint_eq(scene->greeted.calls, 0);
	}
	hear(scene, fds[0], challenge, CHALLENGE_SIZE);
	ck_assert_int_eq(challenge_check(challenge, hello, keys[0].secret), GREETING_OK);
	proof_encode(proof, hello, challenge, keys[0].secret);
	if (changed >= 0)
		proof[changed] ^= 0x20;
	for (size_t at = 0; at < PROOF_SIZE; at += piece) {
		say(fds[0], proof + at, PROOF_SIZE - at < piece ? PROOF_SIZE - at : piece);
		settle(scene);
	}
	close_socket(&fds[0]);
}

START_TEST(test_in_pieces)
{
	static const size_t pieces[] = {1, 3, 4, 5, 32, 52};
	struct scene scene;

	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		set_up(&scene, &both);
		speak(&scene, -1, pieces[i]);
		ck_assert_uint_eq(scene.greeted.calls, 1);
		ck_assert_int_ge(scene.greeted.fd, 0);
		tear_down(&scene);
	}
}
END_TEST

START_TEST(test_wrong_proof)
{
	struct scene scene;

	for (int i = 0; i < PROOF_SIZE; i += 31) {
		set_up(&scene, &both);
		speak(&scene, i, PROOF_SIZE);
		ck_assert_str_eq(scene.greeted.why, "wrong or unknown key");
		tear_down(&scene);
	}
}
END_TEST

/* What comes right behind the proof is the stripe's. */
START_TEST(test_reads_no_further)
{
	struct scene scene;
	uint8_t bytes[CHALLENGE_SIZE], hello[HELLO_SIZE];
	static const uint8_t nonce[NONCE_SIZE];
	uint8_t behind[PROOF_SIZE + 5];
	int fds[2];

	set_up(&scene, &both);
	tcp_pair(fds);
	start_greet(&scene, fds[1]);
	hello_encode(hello, keys[0].id, nonce);
	say(fds[0], hello, HELLO_SIZE);
	hear(&scene, fds[0], bytes, CHALLENGE_SIZE);
	proof_encode(behind, hello, bytes, keys[0].secret);
	memcpy(behind + PROOF_SIZE, "first", 5);
	say(fds[0], behind, sizeof(behind));
	while (scene.greeted.calls == 0)
		ev_run(scene.loop, EVRUN_ONCE);
	ck_assert_int_ge(scene.greeted.fd, 0);
	ck_assert_int_eq(recv(scene.greeted.fd, bytes, sizeof(bytes), 0), 5);
	ck_assert_mem_eq(bytes, "first", 5);
	close_socket(&fds[0]);
	tear_down(&scene);
}
END_TEST

/* Every beginning of a greeting, and then the end; or silence. */
START_TEST(test_cut_short)
{
	static const uint8_t nonce[NONCE_SIZE];
	uint8_t message[HELLO_SIZE], challenge[CHALLENGE_SIZE];
	struct scene scene;
	int fds[2];

	for (size_t n = 0; n < HELLO_SIZE + PROOF_SIZE; n++) {
		set_up(&scene, &both);
		tcp_pair(fds);
		start_greet(&scene, fds[1]);
		hello_encode(message, keys[0].id, nonce);
		say(fds[0], message, n < HELLO_SIZE ? n : HELLO_SIZE);
		if (n >= HELLO_SIZE) {
			hear(&scene, fds[0], challenge, CHALLENGE_SIZE);
			say(fds[0], challenge, n - HELLO_SIZE);
		}
		settle(&scene);
		ck_assert_uint_eq(scene.greeted.calls, 0);
		if (n % 2)
			close_socket(&fds[0]);
		else
			reset_socket(&fds[0]);
		while (scene.greeted.calls == 0)
			ev_run(scene.loop, EVRUN_ONCE);
		ck_assert_str_eq(scene.greeted.why, "closed during the greeting");
		tear_down(&scene);
	}
	set_up(&scene, &both);
	scene.timeout = 0.02;
	tcp_pair(fds);
	start_greet(&scene, fds[1]);
	while (scene.greeted.calls == 0)
		ev_run(scene.loop, EVRUN_ONCE);
	ck_assert_str_eq(scene.greeted.why, "no greeting in time");
	close_socket(&fds[0]);
	/* Or it is given up. */
	tcp_pair(fds);
	start_greet(&scene, fds[1]);
	greet_cancel(scene.greet);
	settle(&scene);
	ck_assert_uint_eq(scene.greeted.calls, 1);
	close_socket(&fds[0]);
	tear_down(&scene);
}
END_TEST

/* As a relay does that knows none. */
static void answer_without_features(uint8_t challenge[CHALLENGE_SIZE], const uint8_t hello[HELLO_SIZE])
{
	static const char label[] = "ro-ro-tcp relay 1";
	const size_t head = CHALLENGE_SIZE - PROOF_SIZE;
	crypto_auth_hmacsha512256_state state;

	memset(challenge, 0, head);
	put_u32(challenge, EXTENSION_WORD);
	put_u16(challenge + 4, GREETING_VERSION);
	crypto_auth_hmacsha512256_init(&state, keys[0].secret, KEY_SIZE);
	crypto_auth_hmacsha512256_update(&state, (const uint8_t *)label, strlen(label));
	crypto_auth_hmacsha512256_update(&state, hello, HELLO_SIZE);
	crypto_auth_hmacsha512256_update(&state, challenge, head);
	crypto_auth_hmacsha512256_final(&state, challenge + head);
}

/* Neither end uses what the other doesn't know. */
START_TEST(test_features)
{
	static const uint8_t nonce[NONCE_SIZE];
	static const uint32_t offers[] = {0, FEATURE_PARITY, ~FEATURE_PARITY, ~0u};
	uint8_t hello[HELLO_SIZE], challenge[CHALLENGE_SIZE], proof[PROOF_SIZE];
	struct scene scene;
	int fds[2], fd;

	for (size_t i = 0; i < sizeof(offers) / sizeof(offers[0]); i++) {
		set_up(&scene, &both);
		tcp_pair(fds);
		start_greet(&scene, fds[1]);
		hello_encode(hello, keys[0].id, nonce);
		put_u32(hello + 8, offers[i]);
		say(fds[0], hello, HELLO_SIZE);
		hear(&scene, fds[0], challenge, CHALLENGE_SIZE);
		proof_encode(proof, hello, challenge, keys[0].secret);
		say(fds[0], proof, PROOF_SIZE);
		while (scene.greeted.calls == 0)
			ev_run(scene.loop, EVRUN_ONCE);
		ck_assert_uint_eq(scene.greeted.result.features, offers[i] & FEATURE_PARITY);
		close_socket(&fds[0]);
		tear_down(&scene);
	}
	set_up(&scene, &both);
	start_dial(&scene, &keys[0], false, 0);
	fd = take(&scene);
	hear(&scene, fd, hello, HELLO_SIZE);
	ck_assert_uint_eq(get_u32(hello + 8), FEATURE_PARITY);
	answer_without_features(challenge, hello);
	say(fd, challenge, CHALLENGE_SIZE);
	while (scene.dialled.calls == 0)
		ev_run(scene.loop, EVRUN_ONCE);
	ck_assert_int_ge(scene.dialled.fd, 0);
	ck_assert_uint_eq(scene.dialled.dial_result.features, 0);
	close_socket(&fd);
	tear_down(&scene);
}
END_TEST

/* The first word tells what it is. */
START_TEST(test_first_word)
{
	static const struct {
		uint32_t word;
		bool allow_base, good;
	} rows[] = {
		{0, true, true},	   {1, true, true},	      {0xfffeffff, true, true}, {0, false, false},
		{7, false, false},	   {0xffff0000, true, false}, {0xffff0002, true, false}, {0xffffffff, true, false},
		{0xffff0002, false, false},
	};
	struct scene scene;
	uint8_t word[4];
	int fds[2];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		set_up(&scene, &both);
		scene.allow_base = rows[i].allow_base;
		tcp_pair(fds);
		start_greet(&scene, fds[1]);
		put_u32(word, rows[i].word);
		say(fds[0], word, 4);
		while (scene.greeted.calls == 0)
			ev_run(scene.loop, EVRUN_ONCE);
		ck_assert((scene.greeted.fd >= 0) == rows[i].good);
		if (rows[i].good) {
			ck_assert(scene.greeted.result.base);
			ck_assert_uint_eq(scene.greeted.result.number, rows[i].word);
		}
		close_socket(&fds[0]);
		tear_down(&scene);
	}
}
END_TEST

/* The proxy's side of the base protocol. */
START_TEST(test_base_numbers)
{
	static const struct {
		uint32_t asked, answered;
		bool good;
	} rows[] = {
		{0, 1, true}, {0, 0xfffeffff, true}, {7, 7, true}, {0, 0, false}, {7, 8, false}, {7, 0, false},
		{0, 0xffff0000, false}, {0, 0xffff0001, false}, {0, 0xffffffff, false},
	};
	struct scene scene;
	uint8_t word[4];
	int fd;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		set_up(&scene, &both);
		start_dial(&scene, &keys[0], true, rows[i].asked);
		fd = take(&scene);
		hear(&scene, fd, word, 4);
		ck_assert_uint_eq(get_u32(word), rows[i].asked);
		put_u32(word, rows[i].answered);
		say(fd, word, 2);
		settle(&scene);
		ck_assert_uint_eq(scene.dialled.calls, 0);
		say(fd, word + 2, 2);
		while (scene.dialled.calls == 0)
			ev_run(scene.loop, EVRUN_ONCE);
		ck_assert((scene.dialled.fd >= 0) == rows[i].good);
		ck_assert_uint_eq(scene.dialled.dial_result.number, rows[i].good ? rows[i].answered : 0);
		close_socket(&fd);
		tear_down(&scene);
	}
}
END_TEST

/* The relay isn't there, hangs up, says nothing, or something else. */
START_TEST(test_dial_fails)
{
	uint8_t bytes[HELLO_SIZE], challenge[CHALLENGE_SIZE] = {0};
	struct scene scene;
	int fd;

	set_up(&scene, &both);
	close_socket(&scene.listener);
	start_dial(&scene, &keys[0], false, 0);
	while (scene.dialled.calls == 0)
		ev_run(scene.loop, EVRUN_ONCE);
	ck_assert_str_eq(scene.dialled.why, "connection refused");
	tear_down(&scene);

	for (size_t n = 0; n <= CHALLENGE_SIZE; n += 4) {
		set_up(&scene, &both);
		start_dial(&scene, &keys[0], false, 0);
		fd = take(&scene);
		hear(&scene, fd, bytes, HELLO_SIZE);
		say(fd, challenge, n);
		if (n < CHALLENGE_SIZE)
			close_socket(&fd);
		while (scene.dialled.calls == 0)
			ev_run(scene.loop, EVRUN_ONCE);
		ck_assert_int_eq(scene.dialled.fd, -1);
		close_socket(&fd);
		tear_down(&scene);
	}

	set_up(&scene, &both);
	scene.timeout = 0.02;
	start_dial(&scene, &keys[0], false, 0);
	fd = take(&scene);
	while (scene.dialled.calls == 0)
		ev_run(scene.loop, EVRUN_ONCE);
	ck_assert_str_eq(scene.dialled.why, "no answer to the greeting");
	close_socket(&fd);
	start_dial(&scene, &keys[0], false, 0);
	dial_cancel(scene.dial);
	settle(&scene);
	ck_assert_uint_eq(scene.dialled.calls, 1);
	tear_down(&scene);
}
END_TEST

int main(void)
{
	return RUN_TESTS("greet", test_right_keys, test_wrong_keys, test_in_pieces, test_wrong_proof,
			 test_reads_no_further, test_cut_short, test_features, test_first_word, test_base_numbers, test_dial_fails);
}
