#!/usr/bin/env bash
# pyarrow cannot join two tables when one carries vectors, even if the vectors are no key.
#
# Package: pyarrow 26.0.1 (polars 2.1.0 and duckdb 2.0.1 for comparison).
# Input: a table of ids and vectors (fixed_size_list<float>[4]) and one of ids and labels.
# Seen: Table.join on the id raises ArrowInvalid "Data type fixed_size_list<item: float>[4] is not
#     supported in join non-key field".
# Expected: the joined table, as polars and DuckDB give it.
# Known: apache/arrow has the limit for all nested types.
# Instead: join ids alone with a row number column, then table.take(row numbers); or use polars
#     (pl.from_arrow, join, to_arrow), which keeps the type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import numpy as np
import polars as pl
import pyarrow as pa

vectors = pa.FixedSizeListArray.from_arrays(np.arange(12, dtype=np.float32), 4)
films = pa.table({"id": [1, 2, 3], "v": vectors})
labels = pa.table({"id": [1, 2, 3], "label": ["a", "b", "c"]})
by_polars = pl.from_arrow(films).join(pl.from_arrow(labels), on="id").to_arrow()
try:
    seen = str(films.join(labels, "id").schema)
except pa.ArrowInvalid as error:
    seen = f"ArrowInvalid: {error}"
print("pyarrow", pa.__version__, "polars", pl.__version__)
print("expected: columns id, v, label, as from polars:", by_polars.schema.names)
print("seen:", seen)
if "not supported in join" not in seen:
    sys.exit("changed: pyarrow joins tables with vectors")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
