# SPDX-License-Identifier: ISC
dist_man_MANS += doc/ro-ro-tcp-firewall.8
EXTRA_DIST += doc/protocol.md
