/* SPDX-License-Identifier: ISC */
#ifndef VECTORS_H
#define VECTORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

/* The sections of vectors.txt. Whatever is asked for and isn't there fails the test. */
struct vector;

const struct vector *vector_first(void);
const struct vector *vector_next(const struct vector *v);
const struct vector *vector_named(const char *name);
const char *vector_name(const struct vector *v);

/* A line's value; vector_text() gives NULL where there's none of this name. */
const char *vector_text(const struct vector *v, const char *field);
uint32_t vector_number(const struct vector *v, const char *field);
void vector_addr(const struct vector *v, const char *field, union addr *a);

/*
 * The bytes are in static memory, until the next call; vector_exactly() copies as many as there
 * must be.
 */
const uint8_t *vector_bytes(const struct vector *v, const char *field, size_t *size);
void vector_exactly(const struct vector *v, const char *field, uint8_t *out, size_t size);

#endif
