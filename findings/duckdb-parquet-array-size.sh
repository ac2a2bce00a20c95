#!/usr/bin/env bash
# DuckDB loses the fixed length of vectors in Parquet, both when it writes and when it reads.
#
# Packages: duckdb 2.0.1, pyarrow 26.0.1, polars 2.1.0.
# Input: five vectors of four floats, written by pyarrow as fixed_size_list<float>[4], and by DuckDB
#     as FLOAT[4].
# Seen: DuckDB reads pyarrow's file as FLOAT[], so array_cosine_similarity(v, v) is a BinderException;
#     what DuckDB writes from FLOAT[4] is list<float> for pyarrow and List for polars, so polars cannot
#     concatenate it with a file of pyarrow's (SchemaError). The same table in memory is FLOAT[4].
# Expected: FLOAT[4] and fixed_size_list[4]; polars and pyarrow keep it between them (by the Arrow
#     schema that pyarrow stores in the file).
# Known: duckdb/duckdb#17238 names the loss of the size.
# Instead: v::FLOAT[4] after reading, in a view; write by pyarrow from relation.to_arrow_table().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

values = np.arange(1, 21, dtype=np.float32)
vectors = pa.table({"v": pa.FixedSizeListArray.from_arrays(values, 4)})
pq.write_table(vectors, "arrow.parquet")
duckdb.sql("COPY (SELECT v::FLOAT[4] AS v FROM 'arrow.parquet') TO 'duck.parquet'")
in_memory = str(duckdb.sql("SELECT v FROM vectors").types[0])
in_file = str(duckdb.sql("SELECT v FROM 'arrow.parquet'").types[0])
by_polars = [pl.read_parquet(path).schema["v"] for path in ("arrow.parquet", "duck.parquet")]
written = str(pq.read_schema("duck.parquet").field("v").type)
try:
    duckdb.sql("SELECT array_cosine_similarity(v, v) FROM 'arrow.parquet'")
    similarity = "works"
except duckdb.BinderException:
    similarity = "BinderException"
print("duckdb", duckdb.__version__, "pyarrow", pa.__version__, "polars", pl.__version__)
print("expected: FLOAT[4] from memory and file, and a fixed length in the file of DuckDB")
print(f"seen: from memory {in_memory}, from the file {in_file}, similarity: {similarity};")
print(f"      DuckDB's file for pyarrow: {written}; polars: {by_polars}")
lost = (in_memory, in_file, similarity) == ("FLOAT[4]", "FLOAT[]", "BinderException")
if not lost or not written.startswith("list<"):
    sys.exit("changed: the fixed length is kept in one direction at least")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
