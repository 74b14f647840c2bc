#!/bin/sh
# SPDX-License-Identifier: ISC
# vectors.txt must be what make_vectors.py writes.
folder=${srcdir:-.}/tests/unit

if ! command -v python3 >/dev/null 2>&1; then
	echo "skipped: python3 is missing"
	exit 77
fi
python3 "$folder/make_vectors.py" | diff "$folder/vectors.txt" -
