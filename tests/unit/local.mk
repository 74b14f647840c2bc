# SPDX-License-Identifier: ISC
# One program a module, laid out as in src. A program without _SOURCES is made from the .c file of its name.

UNIT_TESTS = \
	tests/unit/app/check_config \
	tests/unit/app/check_control \
	tests/unit/app/check_options \
	tests/unit/app/check_worker \
	tests/unit/base/check_addr \
	tests/unit/base/check_clock \
	tests/unit/base/check_log \
	tests/unit/base/check_rules \
	tests/unit/core/check_choose \
	tests/unit/core/check_copies \
	tests/unit/core/check_cover \
	tests/unit/core/check_group \
	tests/unit/core/check_flow \
	tests/unit/core/check_gather \
	tests/unit/core/check_govern \
	tests/unit/core/check_loss \
	tests/unit/core/check_merge \
	tests/unit/core/check_stripe \
	tests/unit/core/check_turns \
	tests/unit/net/check_conntrack \
	tests/unit/net/check_hangup \
	tests/unit/net/check_hold \
	tests/unit/net/check_privileges \
	tests/unit/net/check_sock \
	tests/unit/role/check_acceptor \
	tests/unit/role/check_ended \
	tests/unit/role/check_greet \
	tests/unit/role/check_guest \
	tests/unit/role/check_relay \
	tests/unit/role/check_service \
	tests/unit/role/check_supply \
	tests/unit/role/check_team \
	tests/unit/role/check_fan \
	tests/unit/wire/check_control \
	tests/unit/wire/check_datagram \
	tests/unit/wire/check_greeting \
	tests/unit/wire/check_keyring \
	tests/unit/wire/check_parity

UNIT_LIBS = $(RORO_LIBS) $(CHECK_LIBS)
UNIT_PAIR = tests/unit/unit.h tests/unit/core/pair.c tests/unit/core/pair.h
UNIT_SCRIPT = $(UNIT_PAIR) tests/unit/core/script.c tests/unit/core/script.h
UNIT_RELAY = tests/unit/unit.h tests/unit/role/local_relay.h
UNIT_VECTORS = tests/unit/unit.h tests/unit/vectors.c tests/unit/vectors.h

tests_unit_app_check_config_LDADD = $(UNIT_LIBS)
tests_unit_app_check_control_LDADD = $(UNIT_LIBS)
tests_unit_app_check_options_LDADD = $(UNIT_LIBS)
tests_unit_app_check_worker_LDADD = $(UNIT_LIBS)
tests_unit_base_check_addr_LDADD = $(UNIT_LIBS)
tests_unit_base_check_clock_LDADD = $(UNIT_LIBS)
tests_unit_base_check_log_LDADD = $(UNIT_LIBS)
tests_unit_base_check_rules_LDADD = $(UNIT_LIBS)
tests_unit_core_check_choose_SOURCES = tests/unit/core/check_choose.c $(UNIT_PAIR)
tests_unit_core_check_choose_LDADD = $(UNIT_LIBS)
tests_unit_core_check_group_SOURCES = tests/unit/core/check_group.c $(UNIT_PAIR)
tests_unit_core_check_group_LDADD = $(UNIT_LIBS)
tests_unit_core_check_flow_SOURCES = tests/unit/core/check_flow.c $(UNIT_PAIR)
tests_unit_core_check_flow_LDADD = $(UNIT_LIBS)

tests_unit_core_check_govern_SOURCES = tests/unit/core/check_govern.c $(UNIT_PAIR)
tests_unit_core_check_govern_LDADD = $(UNIT_LIBS)
tests_unit_core_check_merge_SOURCES = tests/unit/core/check_merge.c $(UNIT_PAIR)
tests_unit_core_check_merge_LDADD = $(UNIT_LIBS)
tests_unit_core_check_copies_SOURCES = tests/unit/core/check_copies.c $(UNIT_SCRIPT)
tests_unit_core_check_copies_LDADD = $(UNIT_LIBS)
tests_unit_core_check_cover_SOURCES = tests/unit/core/check_cover.c $(UNIT_PAIR)
tests_unit_core_check_cover_LDADD = $(UNIT_LIBS)
tests_unit_core_check_gather_SOURCES = tests/unit/core/check_gather.c $(UNIT_SCRIPT)
tests_unit_core_check_gather_LDADD = $(UNIT_LIBS)
tests_unit_core_check_loss_SOURCES = tests/unit/core/check_loss.c $(UNIT_PAIR)
tests_unit_core_check_loss_LDADD = $(UNIT_LIBS)
tests_unit_core_check_stripe_SOURCES = tests/unit/core/check_stripe.c $(UNIT_PAIR)
tests_unit_core_check_stripe_LDADD = $(UNIT_LIBS)
tests_unit_core_check_turns_SOURCES = tests/unit/core/check_turns.c $(UNIT_PAIR)
tests_unit_core_check_turns_LDADD = $(UNIT_LIBS)
tests_unit_net_check_conntrack_LDADD = $(UNIT_LIBS)
tests_unit_net_check_hangup_SOURCES = tests/unit/net/check_hangup.c $(UNIT_PAIR)
tests_unit_net_check_hangup_LDADD = $(UNIT_LIBS)
tests_unit_net_check_hold_SOURCES = tests/unit/net/check_hold.c $(UNIT_PAIR)
tests_unit_net_check_hold_LDADD = $(UNIT_LIBS)
tests_unit_net_check_privileges_LDADD = $(UNIT_LIBS)
tests_unit_net_check_sock_SOURCES = tests/unit/net/check_sock.c $(UNIT_PAIR)
tests_unit_net_check_sock_LDADD = $(UNIT_LIBS)
tests_unit_role_check_acceptor_SOURCES = tests/unit/role/check_acceptor.c $(UNIT_PAIR)
tests_unit_role_check_acceptor_LDADD = $(UNIT_LIBS)
tests_unit_role_check_ended_LDADD = $(UNIT_LIBS)
tests_unit_role_check_greet_SOURCES = tests/unit/role/check_greet.c $(UNIT_PAIR)
tests_unit_role_check_greet_LDADD = $(UNIT_LIBS)
tests_unit_role_check_guest_SOURCES = tests/unit/role/check_guest.c $(UNIT_RELAY)
tests_unit_role_check_guest_LDADD = $(UNIT_LIBS)
tests_unit_role_check_relay_SOURCES = tests/unit/role/check_relay.c $(UNIT_RELAY)
tests_unit_role_check_relay_LDADD = $(UNIT_LIBS)
tests_unit_role_check_service_SOURCES = tests/unit/role/check_service.c $(UNIT_PAIR)
tests_unit_role_check_service_LDADD = $(UNIT_LIBS)
tests_unit_role_check_supply_SOURCES = tests/unit/role/check_supply.c $(UNIT_PAIR)
tests_unit_role_check_supply_LDADD = $(UNIT_LIBS)
tests_unit_role_check_team_SOURCES = tests/unit/role/check_team.c $(UNIT_PAIR)
tests_unit_role_check_team_LDADD = $(UNIT_LIBS)
tests_unit_role_check_fan_LDADD = $(UNIT_LIBS)
tests_unit_wire_check_control_SOURCES = tests/unit/wire/check_control.c $(UNIT_VECTORS)
tests_unit_wire_check_control_LDADD = $(UNIT_LIBS)
tests_unit_wire_check_datagram_SOURCES = tests/unit/wire/check_datagram.c $(UNIT_VECTORS)
tests_unit_wire_check_datagram_LDADD = $(UNIT_LIBS)
tests_unit_wire_check_greeting_SOURCES = tests/unit/wire/check_greeting.c $(UNIT_VECTORS)
tests_unit_wire_check_greeting_LDADD = $(UNIT_LIBS)
tests_unit_wire_check_keyring_LDADD = $(UNIT_LIBS)
tests_unit_wire_check_parity_SOURCES = tests/unit/wire/check_parity.c $(UNIT_VECTORS)
tests_unit_wire_check_parity_LDADD = $(UNIT_LIBS)

if HAVE_CHECK
check_PROGRAMS += $(UNIT_TESTS)
TESTS += $(UNIT_TESTS)
endif

# vectors.txt is what the script makes of the protocol today.
TESTS += tests/unit/check_vectors.sh
EXTRA_DIST += tests/unit/check_vectors.sh tests/unit/make_vectors.py tests/unit/vectors.txt
