#!/usr/bin/env bash
# usearch fills up a short result with key 0, a key that a vector may have.
#
# Package: usearch 2.26.6 (faiss-cpu 1.15.1 for comparison).
# Input: three vectors with keys 0, 1, 2; two queries at once, five neighbours wanted.
# Seen: result.keys is a 2 x 5 array whose last two columns are 0, with distance NaN. Key 0 so appears
#     three times in each row. The number of true results is in result.counts alone.
# Expected: a key that no vector has, as faiss's -1, or rows of the true length (a search with one
#     query gives three results, not five).
# Known: no issue found.
# Instead: keys[i, :counts[i]], or begin the keys at 1.
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

vectors = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
index = Index(ndim=8, metric="l2sq")
index.add(np.arange(3), vectors)
many, one = index.search(vectors[:2], 5), index.search(vectors[0], 5)
flat = faiss.IndexFlatL2(8)
flat.add(vectors)
print("usearch", usearch.__version__, "faiss", faiss.__version__)
print("expected: a mark that is no key, as faiss:", flat.search(vectors[:2], 5)[1][0].tolist())
print("seen: two queries:", many.keys[0].tolist(), many.distances[0].tolist())
print("      counts:", many.counts.tolist(), "; one query:", one.keys.tolist())
if many.keys[:, 3:].tolist() != [[0, 0], [0, 0]] or many.counts.tolist() != [3, 3]:
    sys.exit("changed: short results are no longer filled up with key 0")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
