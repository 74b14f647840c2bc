# SPDX-License-Identifier: ISC
dist_man_MANS += doc/ro-ro-tcp.8 doc/ro-ro-tcp-firewall.8
dist_doc_DATA += doc/deploy.md doc/design.md doc/performance.md doc/protocol.md
