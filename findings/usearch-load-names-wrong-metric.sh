#!/usr/bin/env bash
# After load(), a usearch index says that it uses the metric it was made with, but uses the file's.
#
# Package: usearch 2.26.6.
# Input: ten vectors (not of unit length) in an index of metric "ip", saved; Index(metric="cos") that
#     loads the file.
# Seen: index.metric_kind is Cos, the distances are those of the inner product (-52 for a vector and
#     itself, where a cosine distance lies between 0 and 2). index.dtype does change to the file's.
# Expected: metric_kind IP, or cosine distances, or an error that the metrics differ.
# Known: no issue found.
# Instead: Index.restore(path), which takes all from the file, and compare Index.metadata(path) with
#     what you mean before load().
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
from usearch.index import Index, MetricKind

vectors = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
saved = Index(ndim=64, metric="ip", dtype="f32")
saved.add(np.arange(10), vectors)
saved.save("vectors.usearch")
loaded = Index(ndim=64, metric="cos", dtype="f32")
loaded.load("vectors.usearch")
distance = float(loaded.search(vectors[0], 1).distances[0])
inner = 1 - float(vectors[0] @ vectors[0])
print("usearch", usearch.__version__)
print("expected: metric IP with", round(inner, 2), "or metric Cos with 0.0")
print("seen:", loaded.metric_kind, "with", round(distance, 2))
print("file:", Index.metadata("vectors.usearch")["kind_metric"], "; restore:", end=" ")
print(Index.restore("vectors.usearch").metric_kind)
if loaded.metric_kind != MetricKind.Cos or abs(distance - inner) > 0.01:
    sys.exit("changed: the metric that is named is the one that is used")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
