#!/usr/bin/env bash
# Hugging Face datasets cannot index a column in which one vector is missing, and does not say why.
#
# Packages: datasets 5.2.0 with faiss-cpu 1.15.1.
# Input: ten vectors of four floats (fixed_size_list) in a Dataset; one is null (a video that failed).
# Seen: add_faiss_index raises ValueError "not enough values to unpack (expected 2, got 1)": the column
#     became a one-dimensional array of objects. Without the null it works.
# Expected: an error that names the missing vector, or an index without that row.
# Known: no issue found.
# Instead: dataset.filter on rows that have a vector first, and keep the row numbers in a column.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    datasets==5.2.0 faiss-cpu==1.15.1 pyarrow==26.0.1 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import datasets
import faiss
import numpy as np
import pyarrow as pa

datasets.disable_progress_bars()
vectors = np.random.default_rng(0).random((10, 4), dtype=np.float32).tolist()


def indexed(rows):
    column = pa.array(rows, pa.list_(pa.float32(), 4))
    dataset = datasets.Dataset(pa.table({"v": column}))
    try:
        dataset.add_faiss_index("v")
    except ValueError as error:
        return f"ValueError: {error}"
    return dataset.search("v", np.array(rows[3], np.float32), k=1).indices.tolist()


print("datasets", datasets.__version__, "faiss", faiss.__version__)
print("expected: [3], or an error that says that a vector is missing")
print("seen: all there:", indexed(vectors))
missing = indexed([*vectors[:5], None, *vectors[6:]])
print("seen: one missing:", missing)
if indexed(vectors) != [3] or "unpack" not in str(missing):
    sys.exit("changed: a missing vector is told of or left out")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
