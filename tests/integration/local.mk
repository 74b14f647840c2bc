# SPDX-License-Identifier: ISC
# These need root and the lab: tests/run runs them, not `make check`.
EXTRA_DIST += tests/integration
