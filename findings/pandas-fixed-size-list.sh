#!/usr/bin/env bash
# A round trip through pandas turns vectors of fixed length into Python objects and then plain lists.
#
# Packages: pandas 3.1.1, pyarrow 26.0.1.
# Input: a Parquet file with a column fixed_size_list<float>[4].
# Seen: read_parquet gives dtype object with one NumPy array a row; to_parquet writes list<float>: the
#     length is gone, and with it the type that vector databases and DuckDB's array functions want.
#     dtype_backend="pyarrow" keeps it, but then drop_duplicates raises ArrowNotImplementedError.
# Expected: the same type after reading and writing, as polars keeps it.
# Known: no issue found for this pair; Arrow names object columns of arrays as lists by design.
# Instead: change Parquet files of vectors with polars or pyarrow; in pandas read with
#     dtype_backend="pyarrow" and pass subset= (without the vectors) to drop_duplicates.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

vectors = pa.FixedSizeListArray.from_arrays(np.arange(8, dtype=np.float32), 4)
pq.write_table(pa.table({"v": vectors}), "first.parquet")


def stored(path):
    return str(pq.read_schema(path).field("v").type)


pd.read_parquet("first.parquet").to_parquet("pandas.parquet")
arrow = pd.read_parquet("first.parquet", dtype_backend="pyarrow")
arrow.to_parquet("backend.parquet")
pl.read_parquet("first.parquet").write_parquet("polars.parquet")
try:
    arrow.drop_duplicates()
    duplicates = "works"
except pa.ArrowNotImplementedError:
    duplicates = "ArrowNotImplementedError"
print("pandas", pd.__version__, "pyarrow", pa.__version__, "polars", pl.__version__)
print("expected:", stored("first.parquet"), "after each round trip")
for path in ("pandas.parquet", "backend.parquet", "polars.parquet"):
    print("seen:", path, stored(path))
print("seen: drop_duplicates with the pyarrow backend:", duplicates)
if not stored("pandas.parquet").startswith("list<") or duplicates == "works":
    sys.exit("changed: pandas keeps the length, or drop_duplicates takes vectors")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
