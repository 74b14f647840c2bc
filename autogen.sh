#!/bin/sh
# SPDX-License-Identifier: ISC
# Makes ./configure out of configure.ac. Needed only for a checkout; a release tarball has it already.
set -eu
cd "$(dirname "$0")"

need() { # PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

missing=
need autoreconf autoconf
need automake automake
need pkg-config pkg-config
if [ -n "$missing" ]; then
	echo "autogen.sh: tools are missing; on Debian: apt-get install$missing" >&2
	exit 1
fi
exec autoreconf -fi
