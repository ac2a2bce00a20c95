#!/usr/bin/env bash
# safetensors' NumPy writer stores wrong numbers, silently, for a view that is not contiguous.
#
# Package: safetensors 0.8.0 (0.7.0 is right), numpy 2.4.6.
# Input: an array of float32 embeddings: transposed, every second row, some columns, or Fortran order
#     (as scikit-learn's PCA returns).
# Seen: save_file and save raise nothing; load_file returns the right shape with other numbers: the
#     bytes that follow the array's first element in memory are written as they lie.
# Expected: the numbers that were given (as in 0.7.0 and numpy.save), or an error, as in
#     safetensors.torch, which refuses tensors that are not contiguous.
# Known: safetensors/safetensors#825 (Fortran order), open in 2026.
# Instead: numpy.ascontiguousarray on every array before save_file, and compare after loading.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    safetensors==0.8.0 numpy==2.4.6 || exit 2

cat > check.py <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

whole = np.arange(12, dtype=np.float32).reshape(3, 4)
views = {
    "transposed": whole.T,
    "every second row": whole[::2],
    "first two columns": whole[:, :2],
    "Fortran order": np.asfortranarray(whole),
}
same = {}
for name, view in views.items():
    save_file({"vectors": view}, "vectors.safetensors")
    same[name] = bool((load_file("vectors.safetensors")["vectors"] == view).all())
print("safetensors", safetensors.__version__)
print("expected: each array is read back as it was written, or is refused")
print("seen: read back equal:", same)
if any(same.values()):
    sys.exit("changed: an array that is not contiguous is read back as written")
PY
venv/bin/python check.py 2> log.txt || { code=$?; tail -n 3 log.txt >&2; exit "$code"; }
