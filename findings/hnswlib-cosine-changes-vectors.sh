#!/usr/bin/env bash
# hnswlib's get_items does not give back what was added when the space is "cosine".
#
# Package: hnswlib 0.8.0.
# Input: ten vectors of 64 numbers whose length is not 1.
# Seen: get_items returns the vectors scaled to length 1; with the spaces "l2" and "ip" it returns them
#     unchanged. Nothing says that the length is lost.
# Expected: the vectors that were added (usearch with metric "cos" and dtype "f32" gives those).
# Known: no issue found.
# Instead: keep the vectors elsewhere if their length matters (re-ranking, another metric), and do
#     not rebuild an index of another space from get_items.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    hnswlib==0.8.0 usearch==2.26.6 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import importlib.metadata
import sys

import hnswlib
import numpy as np
from usearch.index import Index

vectors = 5 * np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
kept = {}
for space in ("l2", "ip", "cosine"):
    index = hnswlib.Index(space, 64)
    index.init_index(10)
    index.add_items(vectors)
    kept[space] = bool(np.allclose(index.get_items(range(10), return_type="numpy"), vectors))
other = Index(ndim=64, metric="cos", dtype="f32")
other.add(np.arange(10), vectors)
print("hnswlib", importlib.metadata.version("hnswlib"))
print("expected: vectors given back as added in each space; usearch cos:", end=" ")
print(bool(np.allclose(other.get(np.arange(10)), vectors)))
print("seen: given back as added:", kept)
if kept != {"l2": True, "ip": True, "cosine": False}:
    sys.exit("changed: get_items gives the added vectors in the cosine space too")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
