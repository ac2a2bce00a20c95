#!/usr/bin/env bash
# polars' arg_max and max skip a score of NaN, while its sort and top_k put it first.
#
# Packages: polars 2.1.0, numpy 2.4.6.
# Input: vectors of three films, one of NaN (an embedding that failed) and one null; scores by a dot
#     product with NumPy (to_numpy turns the null vector into NaN as well).
# Seen: arg_max finds the best film; top_k(1), sort(descending=True) and NumPy's argmax find the
#     failed one. So a search gives another film when "the best" becomes "the best five".
# Expected: one order. polars documents that NaN counts as the largest value when sorting; its
#     max and arg_max leave NaN out.
# Known: no issue found for the pair.
# Instead: filter(col("score").is_finite()) before ranking, and leave null vectors out before the
#     product.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    polars==2.1.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import numpy as np
import polars as pl

nan = float("nan")
films = pl.DataFrame(
    {"film": ["best", "failed", "other", "missing"], "v": [[1, 0], [nan, nan], [0.5, 0.5], None]},
    schema={"film": pl.String, "v": pl.Array(pl.Float32, 2)},
)
scores = films["v"].to_numpy() @ np.array([1, 0], np.float32)
films = films.with_columns(score=pl.Series(scores))
seen = {
    "arg_max": films["film"][films["score"].arg_max()],
    "top_k": films.top_k(1, by="score")["film"][0],
    "sort": films.sort("score", descending=True)["film"][0],
    "numpy.argmax": films["film"][int(scores.argmax())],
}
print("polars", pl.__version__, "numpy", np.__version__)
print("expected: the same film from arg_max, top_k(1) and sort")
print("seen:", seen, "scores:", films["score"].to_list())
if seen["arg_max"] != "best" or seen["top_k"] not in ("failed", "missing"):
    sys.exit("changed: arg_max and top_k agree about NaN")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
