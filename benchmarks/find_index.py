"""Measure embedded vector databases on frames: the choice behind ``ccl_hub.find``.

    python -m benchmarks.find_index --rows 1000000 --dim 512 --folder /tmp/find-index

Each candidate gets the same rows in its own process and folder: LanceDB with several indices, and
usearch and faiss whose vectors lie in Parquet beside them. Told for each: build time, size on
disk, peak memory, recall@10 against exact search, the time of one query after loading, how often
that is as fast as an exact scan, the time to add 1,000 rows and to delete a video, durably.

The rows imitate frames every 0.5 s: shots of a few seconds around centres whose spectrum falls
off as that of whitened or raw features does (``--decay``), each frame near the one before. A query
is a frame with noise, as an edited copy is. ``--vectors FILE.npy`` takes real ones (N, D) instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np

TOP, QUERIES, SHOT_ROWS, VIDEO_ROWS, ADDED = 10, 200, 12, 1200, 1000
CANDIDATES = (
    *("lancedb-flat", "lancedb-ivf-sq", "lancedb-ivf-pq", "lancedb-ivf-rq", "lancedb-hnsw-sq"),
    *("usearch", "faiss-ivf-sq", "faiss-hnsw-sq"),
)


def imitated(rows: int, dim: int, decay: float, seed: int = 0) -> np.ndarray:
    """Return (rows, dim) float16 unit vectors, shot by shot."""
    generator = np.random.default_rng(seed)
    spread = np.arange(1, dim + 1, dtype=np.float32) ** -decay
    out = np.empty((rows, dim), np.float16)
    for begin in range(0, rows, SHOT_ROWS * 4096):
        count = min(SHOT_ROWS * 4096, rows - begin)
        centres = generator.standard_normal((count // SHOT_ROWS + 1, dim), np.float32)
        steps = generator.standard_normal((count, dim), np.float32) * 0.12
        block = np.repeat(centres, SHOT_ROWS, axis=0)[:count] + np.cumsum(steps, axis=0) * 0
        for row in range(1, SHOT_ROWS):  # a walk away from the first frame of the shot
            steps[row::SHOT_ROWS] += steps[row - 1 :: SHOT_ROWS][: len(steps[row::SHOT_ROWS])]
        block = (block + steps) * spread
        out[begin : begin + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return out


def queries_of(vectors: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    """Return (QUERIES, D) float32 unit vectors: rows with noise of this share of their length."""
    generator = np.random.default_rng(seed)
    chosen = vectors[generator.choice(len(vectors), QUERIES, replace=False)].astype(np.float32)
    scale = noise * chosen.std(axis=0)
    noisy = chosen + generator.standard_normal(chosen.shape, np.float32) * scale
    return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


def exact(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return (Q, TOP) rows by cosine, best first."""
    best = np.full((len(queries), TOP), -np.inf, np.float32)
    rows = np.zeros((len(queries), TOP), np.int64)
    for begin in range(0, len(vectors), 65_536):
        scores = queries @ vectors[begin : begin + 65_536].astype(np.float32).T
        both = np.concatenate([best, scores], axis=1)
        numbers = np.broadcast_to(np.arange(begin, begin + scores.shape[1]), scores.shape)
        numbers = np.concatenate([rows, numbers], axis=1)
        top = np.argsort(-both, axis=1)[:, :TOP]
        best, rows = np.take_along_axis(both, top, 1), np.take_along_axis(numbers, top, 1)
    return rows


class Candidate(Protocol):
    """What is measured."""

    def build(self, vectors: np.ndarray) -> None:
        """Write vectors and index."""

    def load(self) -> None:
        """Open what was written."""

    def search(self, query: np.ndarray) -> np.ndarray:
        """Return (TOP,) rows."""

    def add(self, vectors: np.ndarray, first: int) -> None:
        """Add rows, durably."""

    def delete(self, first: int, last: int) -> None:
        """Delete rows, durably."""


class Lance:
    """LanceDB: vectors and index in one versioned table."""

    def __init__(self, folder: Path, kind: str, rows: int) -> None:
        import lancedb

        self.folder, self.kind, self.rows = folder, kind, rows
        self.db = lancedb.connect(folder)

    def _table(self, vectors: np.ndarray, first: int) -> Any:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float16())
        columns = {
            "row": pa.array(np.arange(first, first + len(vectors))),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
        return pa.table(columns)

    def build(self, vectors: np.ndarray) -> None:
        """See :class:`Candidate`."""
        from lancedb import index

        table: Any = None
        for begin in range(0, len(vectors), 65_536):
            data = self._table(vectors[begin : begin + 65_536], begin)
            if table is None:
                table = self.db.create_table("frames", data)
            else:
                table.add(data)
        dim = vectors.shape[1]
        kinds: dict[str, Callable[[], Any]] = {
            "ivf-sq": lambda: index.IvfSq(distance_type="cosine"),
            "ivf-pq": lambda: index.IvfPq(distance_type="cosine", num_sub_vectors=dim // 8),
            "ivf-rq": lambda: index.IvfRq(distance_type="cosine"),
            "hnsw-sq": lambda: index.HnswSq(distance_type="cosine", num_partitions=1),
        }
        if self.kind in kinds:
            table.create_index("vector", config=kinds[self.kind]())
        table.optimize(cleanup_older_than=timedelta(0))

    def load(self) -> None:
        """See :class:`Candidate`."""
        self.table = self.db.open_table("frames")

    def search(self, query: np.ndarray) -> np.ndarray:
        """See :class:`Candidate`."""
        find = self.table.search(query, vector_column_name="vector").distance_type("cosine")
        find = find.select(["row"]).limit(TOP)
        if self.kind == "flat":
            find = find.bypass_vector_index()
        elif self.kind == "hnsw-sq":
            find = find.ef(150).refine_factor(3)
        else:
            find = find.nprobes(max(10, int(self.rows**0.5) // 20)).refine_factor(10)
        return find.to_arrow()["row"].to_numpy()

    def add(self, vectors: np.ndarray, first: int) -> None:
        """See :class:`Candidate`."""
        self.table.add(self._table(vectors, first))

    def delete(self, first: int, last: int) -> None:
        """See :class:`Candidate`."""
        self.table.delete(f"row >= {first} AND row < {last}")


class Parquet:
    """Vectors in Parquet; the rows of a query are read from memory, as the index holds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, vectors: np.ndarray, name: str) -> None:
        """Write vectors to a file beside the index."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float16())
        table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})
        pq.write_table(table, self.folder / name, compression="none")


class Usearch(Parquet):
    """usearch: a graph of float16 vectors, seen from its file."""

    def build(self, vectors: np.ndarray) -> None:
        """See :class:`Candidate`."""
        from usearch.index import Index

        self.keep(vectors, "vectors.parquet")
        index = Index(ndim=vectors.shape[1], metric="cos", dtype="f16", expansion_search=128)
        index.add(np.arange(len(vectors)), vectors, threads=0)
        index.save(str(self.folder / "frames.usearch"))

    def load(self) -> None:
        """See :class:`Candidate`."""
        from usearch.index import Index

        view = Index.restore(str(self.folder / "frames.usearch"), view=True)
        self.index = view
        self.index.expansion_search = 128

    def search(self, query: np.ndarray) -> np.ndarray:
        """See :class:`Candidate`."""
        return np.asarray(self.index.search(query.astype(np.float16), TOP).keys, np.int64)

    def _changed(self, change: Callable[[Any], object]) -> None:
        from usearch.index import Index

        index = Index.restore(str(self.folder / "frames.usearch"))
        change(index)
        index.save(str(self.folder / "new.usearch"))
        (self.folder / "new.usearch").replace(self.folder / "frames.usearch")

    def add(self, vectors: np.ndarray, first: int) -> None:
        """See :class:`Candidate`."""
        self.keep(vectors, f"vectors-{first}.parquet")
        numbers = np.arange(first, first + len(vectors))
        self._changed(lambda index: index.add(numbers, vectors))

    def delete(self, first: int, last: int) -> None:
        """See :class:`Candidate`."""
        self._changed(lambda index: index.remove(np.arange(first, last)))


class Faiss(Parquet):
    """faiss: an index in one file, read into memory."""

    def __init__(self, folder: Path, kind: str, rows: int) -> None:
        super().__init__(folder)
        self.kind, self.lists = kind, max(16, int(rows**0.5))

    def build(self, vectors: np.ndarray) -> None:
        """See :class:`Candidate`."""
        import faiss

        self.keep(vectors, "vectors.parquet")
        name = f"IVF{self.lists},SQfp16" if self.kind == "ivf-sq" else "HNSW32,SQfp16"
        index = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(vectors) // (64 * self.lists))].astype(np.float32))
        for begin in range(0, len(vectors), 65_536):
            index.add(vectors[begin : begin + 65_536].astype(np.float32))
        faiss.write_index(index, str(self.folder / "frames.faiss"))

    def load(self) -> None:
        """See :class:`Candidate`."""
        import faiss

        self.index = faiss.read_index(str(self.folder / "frames.faiss"))
        if self.kind == "ivf-sq":
            self.index.nprobe = max(10, self.lists // 20)
        else:
            self.index.hnsw.efSearch = 128

    def search(self, query: np.ndarray) -> np.ndarray:
        """See :class:`Candidate`."""
        return self.index.search(query[None], TOP)[1][0]

    def _save(self) -> None:
        import faiss

        faiss.write_index(self.index, str(self.folder / "new.faiss"))
        (self.folder / "new.faiss").replace(self.folder / "frames.faiss")

    def add(self, vectors: np.ndarray, first: int) -> None:
        """See :class:`Candidate`."""
        self.keep(vectors, f"vectors-{first}.parquet")
        self.index.add(vectors.astype(np.float32))
        self._save()

    def delete(self, first: int, last: int) -> None:
        """See :class:`Candidate`."""
        import faiss

        self.index.remove_ids(faiss.IDSelectorRange(first, last))  # HNSW raises: it cannot
        self._save()


def made(name: str, folder: Path, rows: int) -> Candidate:
    """Return a candidate by its name."""
    library, _, kind = name.partition("-")
    if library == "usearch":
        return Usearch(folder)
    return Lance(folder, kind, rows) if library == "lancedb" else Faiss(folder, kind, rows)


def timed(work: Callable[[], object]) -> float | str:
    """Return the seconds that work takes, or why it cannot be done."""
    began = time.perf_counter()
    try:
        work()
    except Exception as error:  # a candidate that cannot is a result
        return f"cannot ({type(error).__name__})"
    return time.perf_counter() - began


def measure(name: str, folder: Path, vectors: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Measure one candidate; building and searching are in one process each."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    candidate = made(name, folder, len(vectors))
    facts: dict[str, Any] = {"candidate": name, "rows": len(vectors), "dim": vectors.shape[1]}
    facts["build_seconds"] = timed(lambda: candidate.build(vectors))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    facts["disk_bytes"] = size
    facts["load_seconds"] = timed(candidate.load)
    for query in queries[:10]:
        candidate.search(query)
    truth, hits, milliseconds = exact(vectors, queries), 0, []
    for query, rows in zip(queries, truth, strict=True):
        began = time.perf_counter()
        found = candidate.search(query)
        milliseconds.append(1000 * (time.perf_counter() - began))
        hits += len(np.intersect1d(found, rows))
    facts["recall_at_10"] = hits / truth.size
    facts["query_ms_median"] = float(np.median(milliseconds))
    facts["query_ms_p95"] = float(np.quantile(milliseconds, 0.95))
    facts["add_1000_seconds"] = timed(lambda: candidate.add(vectors[:ADDED], len(vectors)))
    facts["delete_video_seconds"] = timed(lambda: candidate.delete(0, VIDEO_ROWS))
    facts["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return facts


def main() -> None:
    """Measure every candidate in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--decay", type=float, default=0.3, help="0 white, 1 a few directions")
    parser.add_argument("--noise", type=float, default=0.5, help="of a query, in its deviations")
    parser.add_argument("--vectors", type=Path, help=".npy of (N, D) real vectors")
    parser.add_argument("--folder", type=Path, required=True, help="for what is built; emptied")
    parser.add_argument("--candidates", default=",".join(CANDIDATES))
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        if options.vectors:
            vectors = np.load(options.vectors)[: options.rows].astype(np.float16)
        else:
            vectors = imitated(options.rows, options.dim, options.decay)
        queries = queries_of(vectors, options.noise)
        print(json.dumps(measure(options.alone, options.folder / "index", vectors, queries)))
        return
    names = options.candidates.split(",")
    for name in names:
        command = [sys.executable, "-m", "benchmarks.find_index", *sys.argv[1:], "--alone", name]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout.strip() or f"{name}: {done.stderr.strip()[-300:]}", flush=True)


if __name__ == "__main__":
    main()
