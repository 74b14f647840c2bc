# SPDX-License-Identifier: ISC
sbin_SCRIPTS += netfilter/ro-ro-tcp-firewall
EXTRA_DIST += netfilter/ro-ro-tcp-firewall
