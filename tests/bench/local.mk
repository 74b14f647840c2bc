# SPDX-License-Identifier: ISC
# Measurements, run by hand as root: see README.md.
EXTRA_DIST += tests/bench/README.md tests/bench/crossover.c tests/bench/measure.py tests/bench/peers.py \
	tests/bench/plots.py tests/bench/prepare.py tests/bench/report.py tests/bench/results.py \
	tests/bench/run tests/bench/scenarios.py tests/bench/setting.py tests/bench/targets.py \
	tests/bench/xfer.c tests/bench/xfer.h tests/bench/xfer_client.c tests/bench/xfer_server.c
