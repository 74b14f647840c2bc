# SPDX-License-Identifier: ISC
# The WAN emulator of the lab. `make tests/lab/wan` builds it alone.
check_PROGRAMS += tests/lab/wan
tests_lab_wan_SOURCES = tests/lab/wan.c tests/lab/wan_control.c tests/lab/wan_control.h \
	tests/lab/wan_link.c tests/lab/wan_link.h

EXTRA_DIST += tests/lab/lab tests/lab/labnet.py tests/lab/test_lab.py tests/lab/README.md
