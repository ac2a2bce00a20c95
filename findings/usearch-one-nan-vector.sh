#!/usr/bin/env bash
# One vector of NaN in a usearch index makes other vectors unfindable.
#
# Package: usearch 2.26.6 (faiss-cpu 1.15.1 for comparison).
# Input: 1000 random vectors of 64 numbers, one of them all NaN (a video whose embedding failed).
# Seen: add() accepts it. Each of the other 999 vectors is then searched by itself: about a quarter is
#     not found as its own nearest neighbour (the share changes with the order). Without the NaN
#     all are found. The NaN breaks the order of the candidates in the graph.
# Expected: at most the NaN vector is lost, as in an exact index, or an error. (faiss's HNSW index
#     loses about two in a hundred, its flat index none.)
# Known: no issue found.
# Instead: numpy.isfinite(vectors).all(axis=1) before add(), and leave the other rows out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    usearch==2.26.6 faiss-cpu==1.15.1 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import faiss
import numpy as np
import usearch
from usearch.index import Index

vectors = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float32)
broken = vectors.copy()
broken[10] = np.nan
others = np.delete(np.arange(1000), 10)


def by_usearch(data):
    index = Index(ndim=64, metric="cos", dtype="f32")
    index.add(np.arange(1000), data, threads=1)
    found = index.search(vectors[others], 1, threads=1).keys[:, 0]
    return int((found == others).sum())


def by_faiss(data):
    index = faiss.IndexHNSWFlat(64, 16)
    index.add(data)
    return int((index.search(vectors[others], 1)[1][:, 0] == others).sum())


print("usearch", usearch.__version__, "faiss", faiss.__version__)
print("expected: 999 of 999 vectors find themselves, with the NaN vector or without")
print("seen: usearch without NaN", by_usearch(vectors), "and with", by_usearch(broken), end="; ")
print("faiss HNSW with NaN", by_faiss(broken))
if by_usearch(vectors) < 990 or by_usearch(broken) > 900:
    sys.exit("changed: the NaN vector no longer hides others")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
