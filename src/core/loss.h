/* SPDX-License-Identifier: ISC */
#ifndef CORE_LOSS_H
#define CORE_LOSS_H

#include <stdbool.h>

#include "net/sock.h"

struct engine;

/* What an engine's stripes have shown of late: whether packets get lost on the way. */

/* A stripe of the engine has come from one state of its path to another. */
void loss_learn(struct engine *engine, const struct sock_path *before, const struct sock_path *now);

/* True if it's known that many packets were lost on the way out; and if too few were sent for that to be known. */
bool loss_is_out(const struct engine *engine);
bool loss_is_unknown_out(const struct engine *engine);

/* True if many packets were lost, on the way out or in; and as long as it isn't known. */
bool loss_is_likely(const struct engine *engine);

#endif
