/* SPDX-License-Identifier: ISC */
#include "vectors.h"

#include <check.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_MAX 8
#define VECTORS_MAX 64
#define TEXT_MAX 1024

struct vector {
	char name[64];
	size_t count;
	struct {
		char name[16];
		char value[TEXT_MAX];
	} fields[FIELDS_MAX];
};

static struct vector vectors[VECTORS_MAX];
static size_t vector_count;

static void load_line(const char *line)
{
	struct vector *v = &vectors[vector_count ? vector_count - 1 : 0];
	char name[64], value[TEXT_MAX] = "";

	if (*line == '#' || *line == '\n')
		return;
	if (sscanf(line, "[%63[^]]]", name) == 1) {
		ck_assert_uint_lt(vector_count, VECTORS_MAX);
		strcpy(vectors[vector_count++].name, name);
		return;
	}
	ck_assert_msg(sscanf(line, "%15s = %1023[^\n]", name, value) >= 1, "vectors.txt: %s", line);
	ck_assert_uint_gt(vector_count, 0);
	ck_assert_uint_lt(v->count, FIELDS_MAX);
	strcpy(v->fields[v->count].name, name);
	strcpy(v->fields[v->count++].value, value);
}

static void load(void)
{
	const char *folder = getenv("srcdir");
	char path[4096], line[2 * TEXT_MAX];
	FILE *file;

	if (vector_count)
		return;
	snprintf(path, sizeof(path), "%s/tests/unit/vectors.txt", folder ? folder : ".");
	file = fopen(path, "r");
	ck_assert_msg(file != NULL, "%s: cannot be opened", path);
	while (fgets(line, sizeof(line), file))
		load_line(line);
	fclose(file);
	ck_assert_uint_gt(vector_count, 0);
}

const struct vector *vector_first(void)
{
	load();
	return &vectors[0];
}

const struct vector *vector_next(const struct vector *v)
{
	return v + 1 < vectors + vector_count ? v + 1 : NULL;
}

const struct vector *vector_named(const char *name)
{
	for (const struct vector *v = vector_first(); v; v = vector_next(v))
		if (strcmp(v->name, name) == 0)
			return v;
	ck_abort_msg("vectors.txt: no [%s]", name);
}

const char *vector_name(const struct vector *v)
{
	return v->name;
}

const char *vector_text(const struct vector *v, const char *field)
{
	for (size_t i = 0; i < v->count; i++)
		if (strcmp(v->fields[i].name, field) == 0)
			return v->fields[i].value;
	return NULL;
}

static const char *must_have(const struct vector *v, const char *field)
{
	const char *text = vector_text(v, field);

	ck_assert_msg(text != NULL, "vectors.txt: no %s in [%s]", field, v->name);
	return text;
}

uint32_t vector_number(const struct vector *v, const char *field)
{
	return strtoul(must_have(v, field), NULL, 10);
}

void vector_addr(const struct vector *v, const char *field, union addr *a)
{
	ck_assert_int_eq(addr_parse(a, must_have(v, field), 0, false), 0);
}

const uint8_t *vector_bytes(const struct vector *v, const char *field, size_t *size)
{
	static uint8_t bytes[TEXT_MAX / 2];
	const char *text = must_have(v, field);

	ck_assert_int_eq(sodium_hex2bin(bytes, sizeof(bytes), text, strlen(text), NULL, size, NULL),
			 0);
	return bytes;
}

void vector_exactly(const struct vector *v, const char *field, uint8_t *out, size_t size)
{
	size_t found;
	const uint8_t *bytes = vector_bytes(v, field, &found);

	ck_assert_uint_eq(found, size);
	memcpy(out, bytes, size);
}
