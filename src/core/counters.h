/* SPDX-License-Identifier: ISC */
#ifndef CORE_COUNTERS_H
#define CORE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * What a worker counts. Only the worker's own thread writes; the control socket reads. So no locked instruction is needed, only
 * loads and stores that don't tear.
 *
 * "now" counters go up and down; the others only up.
 */
#define COUNTERS(X) \
	X(flows_now, "flows being carried") \
	X(flows_total, "flows accepted (proxy) or opened (relay)") \
	X(flows_finished, "flows that ended cleanly, both directions") \
	X(flows_reset, "flows that were reset") \
	X(flows_refused, "flows that never stood: refused, unreachable, timed out, forbidden") \
	X(flows_unknown_destination, "captured flows without a usable destination") \
	X(stripes_now, "stripes open, in any state") \
	X(stripes_idle_now, "greeted stripes without a flow") \
	X(stripes_total, "stripes connected or accepted") \
	X(stripes_failed, "stripes that could not be connected or greeted") \
	X(stripes_lost, "stripes that ended while a flow used them") \
	X(stripes_reused, "times a stripe went from one flow to the next") \
	X(stripes_worn, "stripes given up since losses had made them slow") \
	X(greetings_refused, "greetings with a wrong or unknown key, or malformed") \
	X(conntrack_missing, "captured flows that conntrack has no entry for") \
	X(conntrack_failed, "conntrack questions that failed or timed out") \
	X(bytes_out, "payload bytes sent over stripes, parities not counted") \
	X(bytes_in, "payload bytes received over stripes") \
	X(datagrams_out, "data datagrams sent") \
	X(parities_out, "parities sent of young flows' datagrams") \
	X(datagrams_in, "data datagrams received") \
	X(datagrams_recovered, "data datagrams made from others and parities") \
	X(bytes_spliced, "payload bytes that went through a pipe, both ways") \
	X(pipes_now, "pipes that exist") \
	X(pipes_busy_now, "pipes with bytes in them") \
	X(buffers_now, "copy buffers that exist") \
	X(buffers_busy_now, "copy buffers with bytes in them") \
	X(accepts_paused, "times accepting paused for want of descriptors")

struct counters {
#define COUNTER_FIELD(name, text) _Atomic uint64_t name;
	COUNTERS(COUNTER_FIELD)
#undef COUNTER_FIELD
};

static inline void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline void counter_sub(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) - n, memory_order_relaxed);
}

static inline uint64_t counter_read(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

#endif
