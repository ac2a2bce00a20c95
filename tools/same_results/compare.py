"""Compare two folders of outputs, file by file and value by value, bit for bit."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import yaml

# Files that are not compared, by a regular expression of their path; and the reason.
SKIPPED = {
    r"^logs/": "words for people, with times and speeds",
    r"^stopped/": "where a signal met the run; what it resumes to is compared",
    r"^ablation.*/done/.*\.log$": "words for people, with times and speeds",
    r"^ablation.*/untrained/model\.safetensors$": "weights without a seed, of which none is used",
}
# Values that are not compared, by a regular expression of file and name; and the reason.
VARIES = {
    r"\.sqlite: .*\.finished$": "when a video was finished",
    r"\.out: .*\belapsed_seconds$": "how long a job took",
    r"log\.jsonl: .*\b(seconds|clips_per_second|data_wait_share)$": "how fast a training was",
    r"checkpoints/.*: metadata\.state\.seconds$": "how long a training has taken",
    r"\btraining_seconds$": "the same in an exported model",
    r"^ablation.*/results/.*: model\.weights_sha256$": "of a checkpoint that holds those seconds",
    r"checkpoints/.*: metadata\.sha256$": "a hash that covers those seconds; tensors are compared",
}


def compare_folders(old: Path, new: Path) -> Iterator[tuple[str, str]]:
    """Give the verdict on every file of either folder: same, DIFFERS and how, or only in one."""
    files = {side: _files(folder) for side, folder in (("old", old), ("new", new))}
    for name in sorted(files["old"] | files["new"]):
        if name not in files["new"]:
            yield name, "only in the old tree"
        elif name not in files["old"]:
            yield name, "only in the new tree"
        else:
            difference = first_difference(read(old / name), read(new / name), name)
            yield name, f"DIFFERS: {difference}" if difference else "same"


def _files(folder: Path) -> set[str]:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not any(re.search(skip, name) for skip in SKIPPED)}


def first_difference(old: dict[str, Any], new: dict[str, Any], file: str) -> str | None:
    """Return the first difference of two files as :func:`read` gives them, or None."""
    for name in [*old, *(name for name in new if name not in old)]:
        if any(re.search(pattern, f"{file}: {name}") for pattern in VARIES):
            continue
        if name not in old or name not in new:
            return f"{name or 'it'} is only in the {'new' if name in new else 'old'} one"
        if not _equal(old[name], new[name]):
            return f"{name or 'value'}: {_difference(old[name], new[name])}"
    return None


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        layout = (old.dtype, old.shape) == (new.dtype, new.shape)
        return layout and old.tobytes() == new.tobytes()
    return type(old) is type(new) and bool(old == new)


def _difference(old: Any, new: Any) -> str:
    """Describe in one line how two values differ."""
    if not (isinstance(old, np.ndarray) and isinstance(new, np.ndarray)):
        return f"{old!r:.80} became {new!r:.80}"
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{old.dtype}{list(old.shape)} became {new.dtype}{list(new.shape)}"
    different = np.flatnonzero(old.reshape(-1) != new.reshape(-1))
    if not len(different):
        return "equal values with other bits"
    first = different[0]
    text = f"{old.reshape(-1)[first]} became {new.reshape(-1)[first]}"
    return f"[{first}] {text}, {len(different)} of {old.size} differ"


# Reading ----------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Return the values of a file by their names: arrays, numbers, texts, bytes."""
    return READERS.get(path.suffix, _read_bytes)(path)


def _read_bytes(path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes()}


def _read_json(path: Path) -> dict[str, Any]:
    return dict(_flat("", json.loads(path.read_text(encoding="utf-8"))))


def _read_card(path: Path) -> dict[str, Any]:
    """Read a model card: the values of its YAML head, however they are quoted, and its text."""
    text = path.read_text(encoding="utf-8")
    if not text.startswith("---\n"):  # Markdown without a head, such as a table
        return {"text": text}
    _, head, text = text.split("---\n", 2)
    return {**dict(_flat("head", yaml.safe_load(head))), "text": text}


def _read_lines(path: Path) -> dict[str, Any]:
    """Read lines of JSON, or of text."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {name: value for n, line in enumerate(lines) for name, value in _flat(f"{n}", line)}


def _read_numpy(path: Path) -> dict[str, Any]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"": loaded}
    with loaded:
        arrays = {name: loaded[name] for name in loaded}
    texts = {n: a for n, a in arrays.items() if a.ndim == 0 and a.dtype.kind in "US"}
    flat = (pair for name, text in texts.items() for pair in _flat(name, str(text)))
    return {**{n: a for n, a in arrays.items() if n not in texts}, **dict(flat)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="np") as file:
        values = dict(_flat("metadata", file.metadata() or {}))
    for name, tensor in safetensors.deserialize(path.read_bytes()):
        values[f"{name} layout"] = f"{tensor['dtype']}{tensor['shape']}"
        values[name] = np.frombuffer(tensor["data"], np.uint8)
    return values


def _read_parquet(path: Path) -> dict[str, Any]:
    table = pq.read_table(path)
    values: dict[str, Any] = {"schema": str(table.schema)}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_fixed_size_list(column.type):
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            values[name] = flat.reshape(len(column), -1)
        else:
            for row, value in enumerate(column.to_pylist()):
                values.update(_flat(f"{name}[{row}]", value))
    return values


def _read_sqlite(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            rows = database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()  # noqa: S608
            for number, row in enumerate(rows):
                for column in row.keys():
                    values[f"{table}[{number}].{column}"] = row[column]
    return values


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Give the leaves of a value with their full names; a text that is JSON is parsed first."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _flat(f"{name}[{number}]", inner)
    else:
        yield name, value


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".md": _read_card,
    ".out": _read_lines,
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".sqlite": _read_sqlite,
}
