"""Two folders of outputs are compared bit for bit, and what differs is told."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from tools.same_results.compare import compare_folders

VECTORS = np.arange(6, dtype=np.float32).reshape(2, 3)


def write_outputs(folder: Path, vectors: np.ndarray, finished: float = 1.0) -> None:
    """Write the same vectors in every format that is looked into."""
    folder.mkdir()
    np.save(folder / "a.npy", vectors)
    np.savez(folder / "a.npz", clips=vectors, provenance=np.array('{"model": "m"}'))
    safetensors.numpy.save_file({"clips": vectors}, folder / "a.safetensors", {"model": "m"})
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 3)
    pq.write_table(pa.table({"id": ["x", "y"], "embedding": rows}), folder / "a.parquet")
    (folder / "a.json").write_text(json.dumps({"rows": vectors.tolist()}))
    (folder / "log.jsonl").write_text(json.dumps({"loss": 1.0, "seconds": finished}) + "\n")
    with closing(sqlite3.connect(folder / "a.sqlite")) as database:
        database.execute("CREATE TABLE videos (id TEXT, sha256 TEXT, finished REAL)")
        row = ("x", vectors.tobytes().hex(), finished)
        database.execute("INSERT INTO videos VALUES (?, ?, ?)", row)
        database.commit()


def test_equal_outputs_are_the_same_whenever_they_were_made(tmp_path: Path) -> None:
    write_outputs(tmp_path / "old", VECTORS)
    write_outputs(tmp_path / "new", VECTORS, finished=2.0)
    verdicts = dict(compare_folders(tmp_path / "old", tmp_path / "new"))
    assert len(verdicts) == 7 and set(verdicts.values()) == {"same"}


def test_one_bit_is_a_difference_in_every_format(tmp_path: Path) -> None:
    changed = VECTORS.copy()
    changed[1, 2] = np.nextafter(np.float32(5), np.float32(6))
    write_outputs(tmp_path / "old", VECTORS)
    write_outputs(tmp_path / "new", changed)
    verdicts = dict(compare_folders(tmp_path / "old", tmp_path / "new"))
    assert verdicts.pop("log.jsonl") == "same"
    assert len(verdicts) == 6 and all(told.startswith("DIFFERS: ") for told in verdicts.values())
    assert verdicts["a.npz"] == "DIFFERS: clips: [5] 5.0 became 5.000000476837158, 1 of 6 differ"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (VECTORS.astype(np.float64), "float32[2, 3] became float64[2, 3]"),
        (VECTORS.reshape(3, 2), "float32[2, 3] became float32[3, 2]"),
        (-0.0 * VECTORS, "[1] 1.0 became -0.0, 5 of 6 differ"),
    ],
)
def test_differences_of_arrays_are_told(tmp_path: Path, value: np.ndarray, told: str) -> None:
    for side, array in (("old", VECTORS), ("new", value)):
        (tmp_path / side).mkdir()
        np.save(tmp_path / side / "a.npy", array)
    ((_, verdict),) = compare_folders(tmp_path / "old", tmp_path / "new")
    assert verdict == f"DIFFERS: value: {told}"


def test_what_only_one_tree_made_is_told(tmp_path: Path) -> None:
    for side, name in (("old", "a.txt"), ("new", "b.txt")):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).touch()
    verdicts = dict(compare_folders(tmp_path / "old", tmp_path / "new"))
    assert verdicts == {"a.txt": "only in the old tree", "b.txt": "only in the new tree"}
