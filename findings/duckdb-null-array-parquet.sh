#!/usr/bin/env bash
# A Parquet file written by DuckDB with a missing vector (NULL ARRAY) cannot be read by Arrow.
#
# Packages: duckdb 2.0.1, read by pyarrow 26.0.1 (so by pandas and Hugging Face datasets too).
# Input: three rows with a FLOAT[2] column; the second vector is NULL (a video that failed).
# Seen: COPY ... TO 'x.parquet' succeeds; pyarrow raises ArrowInvalid "Length spanned by list offsets
#     (5) larger than values array (length 4)": DuckDB writes two entries for the NULL vector.
#     DuckDB and polars read the file.
# Expected: a file that each reader accepts: Parquet has one entry for a NULL list (as for FLOAT[]).
# Known: duckdb/duckdb#24731, open in 2026.
# Instead: cast to a plain list before COPY (v::FLOAT[]), leave rows without a vector out, or write
#     by way of Arrow: pyarrow.parquet.write_table(relation.to_arrow_table(), path).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    duckdb==2.0.1 pyarrow==26.0.1 || exit 2

cat > check.py <<'PY'
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

rows = "SELECT * FROM (VALUES (1, [1, 2]::FLOAT[2]), (2, NULL), (3, [5, 6]::FLOAT[2])) t(i, v)"
duckdb.sql(f"COPY ({rows}) TO 'array.parquet'")
duckdb.sql(f"COPY (SELECT i, v::FLOAT[] AS v FROM ({rows})) TO 'list.parquet'")


def read(path):
    try:
        return pq.read_table(path)["v"].to_pylist()
    except pa.ArrowInvalid as error:
        return str(error)


vectors = [[1.0, 2.0], None, [5.0, 6.0]]
print("duckdb", duckdb.__version__, "pyarrow", pa.__version__)
print("expected by pyarrow:", vectors)
print("seen, FLOAT[] column:  ", read("list.parquet"))
print("seen, FLOAT[2] column: ", read("array.parquet"))
if read("list.parquet") != vectors or not isinstance(read("array.parquet"), str):
    sys.exit("changed: pyarrow reads the file with a NULL array, or not even the one with lists")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
