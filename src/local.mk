# SPDX-License-Identifier: ISC
# All but main.c is in one library, so that the tests link the daemon itself.

noinst_LIBRARIES += src/libroro.a
src_libroro_a_SOURCES = \
	src/base/addr.c src/base/addr.h \
	src/base/addr_local.c \
	src/base/log.c src/base/log.h \
	src/base/rules.c src/base/rules.h \
	src/wire/bytes.h \
	src/wire/control.c src/wire/control.h \
	src/wire/datagram.c src/wire/datagram.h \
	src/wire/greeting.c src/wire/greeting.h \
	src/wire/keyring.c src/wire/keyring.h \
	src/net/conntrack.c src/net/conntrack.h \
	src/net/notify.c src/net/notify.h \
	src/net/privileges.c src/net/privileges.h \
	src/core/counters.h \
	src/core/engine.h \
	src/role/proxy.h \
	src/role/relay.h \
	src/app/commands.h \
	src/app/config.c src/app/config.h \
	src/app/control.c src/app/control.h \
	src/app/options.c src/app/options.h \
	src/app/options_read.c \
	src/app/report.c src/app/report.h \
	src/app/worker.c src/app/worker.h

# What a program needs to link: the library and what that needs in turn.
RORO_LIBS = src/libroro.a $(MNL_LIBS) $(CONNTRACK_LIBS) $(SODIUM_LIBS) $(CAPNG_LIBS) $(INIH_LIBS) \
	$(JANSSON_LIBS) $(EV_LIBS)

# The program comes with src/app/main.c:
# sbin_PROGRAMS += src/ro-ro-tcp
# src_ro_ro_tcp_SOURCES = src/app/main.c
# src_ro_ro_tcp_LDADD = $(RORO_LIBS)
