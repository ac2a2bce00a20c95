#!/usr/bin/env bash
# usearch with dtype "i8" forgets the length of vectors, though the metric depends on it.
#
# Package: usearch 2.26.6.
# Input: two vectors that point the same way, one ten times as long, and a third; metrics "l2sq", "ip".
# Seen: with dtype "i8" the short and the long vector are stored as the same bytes and both have
#     distance 0 from the long one (l2sq); with "ip" both give the same score. No error or warning.
# Expected: the order that dtype "f32" and "f16" give (distance 0 and about 4300 here), or an error:
#     float vectors are scaled to unit length before they become int8, which is right for "cos" only.
# Known: no issue found that names these metrics.
# Instead: use "i8" with metric "cos" alone; for others "f16" or "bf16", or scale and round to int8
#     yourself and pass int8 arrays.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    usearch==2.26.6 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import numpy as np
import usearch
from usearch.index import Index

short, other = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
vectors = np.stack([short, 10 * short, other])


def distances(dtype, metric):
    index = Index(ndim=64, metric=metric, dtype=dtype)
    index.add(np.arange(3), vectors)
    found = index.search(10 * short, 3)
    by_key = dict(zip(found.keys.tolist(), found.distances.tolist()))
    return round(by_key[0], 1), round(by_key[1], 1)


print("usearch", usearch.__version__)
print("expected: the short vector is farther from the long one than the long one from itself")
seen = {(d, m): distances(d, m) for d in ("f16", "i8") for m in ("l2sq", "ip")}
for (dtype, metric), (to_short, to_long) in seen.items():
    print(f"seen: {dtype} {metric}: distance to the short {to_short}, to the long {to_long}")
equal = {key: to_short == to_long for key, (to_short, to_long) in seen.items()}
if any(equal[key] != (key[0] == "i8") for key in equal):
    sys.exit("changed: i8 keeps the length of vectors now, or f16 lost it")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
