/* SPDX-License-Identifier: ISC */
#include "role/ended.h"

#include <math.h>
#include <string.h>

#include "tests/unit/unit.h"

static const uint8_t key[KEY_ID_SIZE] = "a key", other_key[KEY_ID_SIZE] = "another";

/* The i-th group's; its number is i, and it ended at i seconds. */
static const uint8_t *token(uint32_t i)
{
	static uint8_t bytes[TOKEN_SIZE];

	memcpy(bytes, &i, sizeof(i));
	return bytes;
}

static void end(struct ended **list, uint32_t i)
{
	ended_note(list, token(i), key, i, i);
}

START_TEST(test_number)
{
	struct ended *list = NULL;

	ck_assert_uint_eq(ended_number(list, token(1), key), 0);
	end(&list, 1);
	end(&list, 2);
	ck_assert_uint_eq(ended_number(list, token(1), key), 1);
	ck_assert_uint_eq(ended_number(list, token(2), key), 2);
	ck_assert_uint_eq(ended_number(list, token(3), key), 0);
	ck_assert_uint_eq(ended_number(list, token(1), other_key), 0);
	ended_forget(&list, INFINITY);
	ck_assert_ptr_null(list);
}
END_TEST

START_TEST(test_forget)
{
	struct ended *list = NULL;

	for (uint32_t i = 1; i <= 5; i++)
		end(&list, i);
	ended_forget(&list, 3);
	ck_assert_uint_eq(ended_number(list, token(2), key), 0);
	ck_assert_uint_eq(ended_number(list, token(3), key), 3);
	ended_forget(&list, INFINITY);
}
END_TEST

START_TEST(test_most)
{
	struct ended *list = NULL;

	for (uint32_t i = 1; i <= ENDED_MAX + 2; i++)
		end(&list, i);
	ck_assert_uint_eq(HASH_COUNT(list), ENDED_MAX);
	ck_assert_uint_eq(ended_number(list, token(2), key), 0);
	ck_assert_uint_eq(ended_number(list, token(3), key), 3);
	ck_assert_uint_eq(ended_number(list, token(ENDED_MAX + 2), key), ENDED_MAX + 2);
	ended_forget(&list, INFINITY);
}
END_TEST

int main(void)
{
	return RUN_TESTS("ended", test_number, test_forget, test_most);
}
