# SPDX-License-Identifier: ISC
# What a host with systemd needs. It's here, and not with the packaging alone, so that `make install` can bring it, too.

SUFFIXES = .service.in .service
UNITS = debian/ro-ro-tcp-proxy.service debian/ro-ro-tcp-relay.service

if SYSTEMD
systemdsystemunit_DATA = $(UNITS)
# Or systemd-networkd would take the policy rule away: see ro-ro-tcp-firewall(8).
networkdconfdir = $(prefix)/lib/systemd/networkd.conf.d
networkdconf_DATA = debian/ro-ro-tcp.conf
endif
CLEANFILES += $(UNITS)
EXTRA_DIST += debian/ro-ro-tcp-proxy.service.in debian/ro-ro-tcp-relay.service.in debian/ro-ro-tcp.conf

.service.in.service:
	$(AM_V_GEN)$(MKDIR_P) $(@D) && sed -e 's,@sbindir\@,$(sbindir),g' -e 's,@sysconfdir\@,$(sysconfdir),g' $< >$@

# Examples: in /etc they are the administrator's.
dist_doc_DATA += debian/proxy.conf debian/relay.conf debian/firewall.conf
