/* SPDX-License-Identifier: ISC */
/* Input: a stripe's bytes, datagram after datagram, as the extended protocol reads them. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "wire/control.h"
#include "wire/datagram.h"

static void check_serials(uint32_t serial, uint32_t other)
{
	MUST(serial_next(serial) != 0 && serial_previous(serial) != 0);
	MUST(serial_previous(serial_next(serial)) == serial);
	MUST(serial_next(serial_previous(serial)) == serial);
	MUST(serial_distance(serial, serial_next(serial)) == 1);
	MUST((serial_distance(serial, other) == 0) == (serial == other));
	/* There and back is once around all serials. */
	if (serial != other)
		MUST(serial_distance(serial, other) + serial_distance(other, serial) ==
		     SERIAL_LAST);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t previous = SERIAL_FIRST;

	while (size >= DATAGRAM_HEADER) {
		struct datagram d = datagram_decode(data);
		uint8_t again[DATAGRAM_HEADER];
		struct control control;

		datagram_encode(again, d.serial, d.size);
		MUST(memcmp(again, data, DATAGRAM_HEADER) == 0);
		data += DATAGRAM_HEADER;
		size -= DATAGRAM_HEADER;
		if (d.size > DATAGRAM_MAX_EXTENDED || d.size > size)
			break;
		if (d.serial == SERIAL_CONTROL) {
			if (control_decode(&control, data, d.size) == CONTROL_BAD)
				break;
		} else {
			check_serials(d.serial, previous);
			previous = d.serial;
		}
		data += d.size;
		size -= d.size;
	}
	return 0;
}
