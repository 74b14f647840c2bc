# SPDX-License-Identifier: ISC
# All but main.c is in one library, so that the tests link the daemon itself.

noinst_LIBRARIES += src/libroro.a
src_libroro_a_SOURCES = \
	src/base/addr.c src/base/addr.h \
	src/base/addr_local.c \
	src/base/clock.c src/base/clock.h \
	src/base/log.c src/base/log.h \
	src/base/rules.c src/base/rules.h \
	src/wire/bytes.h \
	src/wire/control.c src/wire/control.h \
	src/wire/datagram.c src/wire/datagram.h \
	src/wire/greeting.c src/wire/greeting.h \
	src/wire/keyring.c src/wire/keyring.h \
	src/wire/parity.c src/wire/parity.h \
	src/net/conntrack.c src/net/conntrack.h \
	src/net/notify.c src/net/notify.h \
	src/net/privileges.c src/net/privileges.h \
	src/net/hangup.c src/net/hangup.h \
	src/net/heartbeat.c src/net/heartbeat.h \
	src/net/hold.c src/net/hold.h \
	src/net/sock.c src/net/sock.h \
	src/core/choose.c src/core/choose.h \
	src/core/cover.c src/core/cover.h \
	src/core/counters.h \
	src/core/engine.c src/core/engine.h \
	src/core/gather.c src/core/gather.h \
	src/core/govern.c src/core/govern.h \
	src/core/group.c src/core/group.h \
	src/core/loss.c src/core/loss.h \
	src/core/merge.c src/core/merge.h \
	src/core/spread.c src/core/spread.h \
	src/core/stripe.c src/core/stripe.h \
	src/core/stripe_look.c \
	src/core/stripe_read.c \
	src/core/turns.c src/core/turns.h \
	src/role/acceptor.c src/role/acceptor.h \
	src/role/dial.c src/role/dial.h \
	src/role/ended.c src/role/ended.h \
	src/role/fan.c src/role/fan.h \
	src/role/flow.c src/role/flow.h \
	src/role/flow_base.c \
	src/role/greet.c src/role/greet.h \
	src/role/guest.c \
	src/role/proxy.c src/role/proxy.h \
	src/role/relay.c src/role/relay.h \
	src/role/service.c src/role/service.h \
	src/role/supply.c src/role/supply.h \
	src/role/team.c src/role/team.h \
	src/app/commands.h \
	src/app/config.c src/app/config.h \
	src/app/control.c src/app/control.h \
	src/app/options.c src/app/options.h \
	src/app/options_read.c \
	src/app/report.c src/app/report.h \
	src/app/worker.c src/app/worker.h

# What a program needs to link: the library and what that needs in turn.
RORO_LIBS = src/libroro.a $(MNL_LIBS) $(CONNTRACK_LIBS) $(SODIUM_LIBS) $(CAPNG_LIBS) $(INIH_LIBS) \
	$(ISAL_LIBS) $(JANSSON_LIBS) $(EV_LIBS)

sbin_PROGRAMS += src/ro-ro-tcp
src_ro_ro_tcp_SOURCES = src/app/main.c src/app/cmd_check.c src/app/cmd_keygen.c src/app/cmd_proxy.c \
	src/app/cmd_relay.c src/app/cmd_status.c src/app/daemon.c src/app/daemon.h
src_ro_ro_tcp_LDADD = $(RORO_LIBS)
