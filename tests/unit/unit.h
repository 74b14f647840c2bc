/* SPDX-License-Identifier: ISC */
#ifndef UNIT_H
#define UNIT_H

#include <check.h>
#include <stdlib.h>

/* Runs the tests of one case, each in a process of its own. Returns the exit status. */
static inline int run_case(const char *module, TCase *tcase)
{
	Suite *suite = suite_create(module);
	SRunner *runner;
	int failed;

	/* The sanitizers are slow, and so are machines that do something else, too. */
	tcase_set_timeout(tcase, 60);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Runs a module's tests, a list that NULL ends. Returns the exit status. */
static inline int run_tests(const char *module, const TTest *const tests[])
{
	TCase *tcase = tcase_create(module);

	for (size_t i = 0; tests[i]; i++)
		tcase_add_test(tcase, tests[i]);
	return run_case(module, tcase);
}

#define RUN_TESTS(module, ...) run_tests(module, (const TTest *const[]){ __VA_ARGS__, NULL })

#endif
