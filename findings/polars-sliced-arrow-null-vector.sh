#!/usr/bin/env bash
# polars cannot take over a slice of an Arrow table whose vector column holds a null.
#
# Package: polars 2.1.0 with pyarrow 26.0.1.
# Input: four vectors of two floats (fixed_size_list), the second null; the table without its first row
#     (table.slice(1), as reading in batches gives).
# Seen: pl.from_arrow raises ComputeError "validity mask length must be equal to the number of values
#     divided by size". The whole table works, and so does a slice of a table without nulls.
# Expected: the three rows, as DuckDB reads them from the same slice.
# Known: pola-rs/polars#16614 and #28583 are of the same kind (slices with offset), both closed.
# Instead: copy the slice before: table.take(range(len(table))), or go through Parquet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    polars==2.1.0 pyarrow==26.0.1 duckdb==2.0.1 || exit 2

cat > check.py <<'PY'
import sys

import duckdb
import polars as pl
import pyarrow as pa

KIND = pa.list_(pa.float32(), 2)
with_null = pa.table({"v": pa.array([[0, 0], None, [2, 2], [3, 3]], KIND)})
without = pa.table({"v": pa.array([[0, 0], [1, 1], [2, 2], [3, 3]], KIND)})


def rows(table):
    try:
        return pl.from_arrow(table)["v"].to_list()
    except pl.exceptions.ComputeError as error:
        return f"ComputeError: {error}"


part = with_null.slice(1)
by_duckdb = [row[0] for row in duckdb.sql("SELECT v FROM part").fetchall()]
copied = rows(part.take(list(range(len(part)))))
print("polars", pl.__version__, "pyarrow", pa.__version__)
print("expected: the three rows; DuckDB:", by_duckdb)
print("seen: whole table:", rows(with_null), "; slice without null:", rows(without.slice(1)))
print("      slice with null:", rows(part), "; copied:", copied)
if not isinstance(rows(part), str) or isinstance(copied, str) or len(by_duckdb) != 3:
    sys.exit("changed: polars takes the slice, or DuckDB or the copy fails")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
