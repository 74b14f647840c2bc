# SPDX-License-Identifier: ISC
# One program a decoder. Without --enable-fuzzers they replay the files they are given.

FUZZ_TARGETS = \
	tests/fuzz/fuzz_addr \
	tests/fuzz/fuzz_control \
	tests/fuzz/fuzz_datagram \
	tests/fuzz/fuzz_greeting \
	tests/fuzz/fuzz_keyring \
	tests/fuzz/fuzz_parity \
	tests/fuzz/fuzz_rules

if FUZZERS
FUZZ_MAIN =
else
FUZZ_MAIN = tests/fuzz/replay.c
endif
FUZZ_ALL = tests/fuzz/fuzz.h $(FUZZ_MAIN)
FUZZ_LINK = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)

check_PROGRAMS += $(FUZZ_TARGETS)
tests_fuzz_fuzz_addr_SOURCES = tests/fuzz/fuzz_addr.c $(FUZZ_ALL)
tests_fuzz_fuzz_addr_LDADD = $(RORO_LIBS)
tests_fuzz_fuzz_addr_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_control_SOURCES = tests/fuzz/fuzz_control.c $(FUZZ_ALL)
tests_fuzz_fuzz_control_LDADD = $(RORO_LIBS)
tests_fuzz_fuzz_control_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_datagram_SOURCES = tests/fuzz/fuzz_datagram.c $(FUZZ_ALL)
tests_fuzz_fuzz_datagram_LDADD = $(RORO_LIBS)
tests_fuzz_fuzz_datagram_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_greeting_SOURCES = tests/fuzz/fuzz_greeting.c $(FUZZ_ALL)
tests_fuzz_fuzz_greeting_LDADD = $(RORO_LIBS)
tests_fuzz_fuzz_greeting_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_keyring_SOURCES = tests/fuzz/fuzz_keyring.c $(FUZZ_ALL)
tests_fuzz_fuzz_keyring_LDADD = $(RORO_LIBS)
tests_fuzz_fuzz_keyring_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_parity_SOURCES = tests/fuzz/fuzz_parity.c $(FUZZ_ALL)
tests_fuzz_fuzz_parity_LDADD = $(RORO_LIBS)
tests_fuzz_fuzz_parity_LDFLAGS = $(FUZZ_LINK)
tests_fuzz_fuzz_rules_SOURCES = tests/fuzz/fuzz_rules.c $(FUZZ_ALL)
tests_fuzz_fuzz_rules_LDADD = $(RORO_LIBS)
tests_fuzz_fuzz_rules_LDFLAGS = $(FUZZ_LINK)

TESTS += tests/fuzz/replay-corpus
EXTRA_DIST += tests/fuzz/replay-corpus tests/fuzz/run tests/fuzz/corpus
