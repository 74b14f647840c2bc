/* SPDX-License-Identifier: ISC */
#include "tests/unit/core/script.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

size_t dice(size_t sides)
{
	return (size_t)random() % sides;
}

void script_open(struct script *script, size_t room)
{
	*script = (struct script){.bytes = malloc(room), .room = room};
	ck_assert_ptr_nonnull(script->bytes);
}

void script_append(struct script *script, const void *bytes, size_t n)
{
	ck_assert_uint_le(script->length + n, script->room);
	memcpy(script->bytes + script->length, bytes, n);
	script->length += n;
}

void script_header(struct script *script, uint32_t serial, size_t size, uint32_t flags)
{
	uint8_t header[DATAGRAM_HEADER];

	datagram_encode(header, serial, (uint32_t)size | flags);
	script_append(script, header, sizeof(header));
}

void script_pattern(uint8_t *bytes, size_t offset, size_t size)
{
	for (size_t done = 0, n; done < size; done += n) {
		const uint8_t *from = pattern(1, offset + done, (n = size - done, &n));

		memcpy(bytes + done, from, n);
	}
}

static void write_some(struct pair *pair, unsigned stripe, struct script *script, size_t n)
{
	size_t left = script->length - script->at;
	ssize_t sent = send(pair->raw[stripe], script->bytes + script->at, n < left ? n : left, MSG_DONTWAIT | MSG_NOSIGNAL);

	ck_assert(sent >= 0 || errno == EAGAIN);
	script->at += sent > 0 ? (size_t)sent : 0;
}

/* True if there's more to write. */
static bool write_any(struct pair *pair, struct script scripts[], unsigned first, unsigned end, size_t (*some)(void))
{
	bool going = false;

	for (unsigned i = first; i < end; i++) {
		if (dice(3) == 0)
			write_some(pair, i, &scripts[i], some());
		going = going || scripts[i].at < scripts[i].length;
	}
	return going;
}

void scripts_play(struct pair *pair, struct script scripts[], unsigned first, unsigned end, size_t (*some)(void), struct pour *out)
{
	pair_start_clock(pair);
	while (write_any(pair, scripts, first, end, some)) {
		ck_assert_msg(!pair_is_late(pair), "%zu of %zu", out->got, out->size);
		ck_assert_ptr_nonnull(pair->a.group);
		if (dice(4) == 0)
			pour(out);
		pair_turn(pair);
	}
}

void scripts_finish(struct pair *pair, struct script scripts[], unsigned count, uint32_t datagrams, struct pour *out)
{
	struct end *a = &pair->a;

	UNTIL(pair, (pour(out), pour_done(out)));
	UNTIL(pair, counter_read(&a->engine->counters.datagrams_in) == datagrams);
	raw_control(pair, 0, &(struct control){.type = CONTROL_FIN, .serial = datagrams});
	local_expect_end(pair, a);
	shutdown(a->local, SHUT_WR);
	UNTIL(pair, a->group == NULL);
	ck_assert_int_eq(a->reason, REASON_NONE);
	/* What was behind is dropped, and nothing else is. */
	for (unsigned i = 0; i < count; i++) {
		raw_control(pair, i, &(struct control){.type = CONTROL_DETACH});
		free(scripts[i].bytes);
	}
	UNTIL(pair, a->idle == count);
}
