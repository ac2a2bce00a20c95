"""The database of a library: LanceDB tables of frames, clips and videos (uses lancedb).

    videos   key, id, path, duration, ... and provenance: a video counts once it is in here
    frames   key, seconds, vector                          one row for each frame that is not flat
    clips    key, start, end, vector                       one row for each clip

A key is a number made of the video's id, so that a million rows hold no names. Tables are
versioned: a reader sees one version until it asks for the latest, whatever a writer does, and a
writer that is killed leaves the version before. ``benchmarks/find_index.py`` measures why LanceDB,
and why this index.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._util.extras import require_packages
from ..errors import OutputError

if TYPE_CHECKING:
    import pyarrow as pa

    from .space import Space

Vectors = npt.NDArray[np.float32]
Keys = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]

INDEX_FROM_ROWS = 65_536
"""Below, all vectors are held in memory, 134 MB of 512-d ones, and search is exact."""

BLOCK_ROWS = 16_384
KEYS_AT_ONCE = 500
QUERIES_AT_ONCE = 256
MOST_SCORES = 16 << 20
"""Cosines computed at once by exact search; 67 MB."""

PROBES, REFINED = 32, 10
"""Partitions that the index looks into, and rows compared exactly for each row asked for."""

_COLUMNS = {"frames": ["key", "seconds", "vector"], "clips": ["key", "start", "end", "vector"]}
KEEP_VERSIONS = timedelta(hours=1)
"""Younger versions are always kept: a reader may be on a disk without locks."""

_FOR_EVER = timedelta(days=36_500)

GROWN = 4
"""The index is made anew when the table has so many times the rows that it was made for."""

_MADE_FOR = "vector_for_"


def key_of(id: str) -> int:
    """Return the number of a video, the same in every library."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class Video:
    """One video of a library.

    Args:
        key: Its number.
        id: Its name; see :func:`ccl_hub.inputs.names.video_id`.
        path: Its file.
        duration_seconds: Its length.
        completeness: "complete", "incomplete" or "unknown".
        note: What is missing, in words.
        facts: What made its vectors, as JSON.
    """

    key: int
    id: str
    path: str
    duration_seconds: float
    completeness: str
    note: str
    facts: str


@dataclass(frozen=True)
class Frames:
    """Frames or clips of a library; of found ones, which query found them and how near they are.

    Args:
        keys: (R,) videos.
        seconds: (R,) times; of clips, when they begin.
        ends: (R,) when clips end; of frames, the same as ``seconds``.
        vectors: (R, D) unit vectors.
        queries: (R,) numbers of the queries, ascending; empty if there were none.
        cosines: (R,) likewise, descending for each query.
    """

    keys: Keys
    seconds: Seconds
    ends: Seconds
    vectors: Vectors
    queries: Keys
    cosines: Vectors

    def __getitem__(self, chosen: Any) -> Frames:
        return Frames(*(part[chosen] if len(part) else part for part in self._parts))

    @classmethod
    def joined(cls, pieces: Sequence[Frames]) -> Frames:
        """Put some together, in order."""
        parts = zip(*(piece._parts for piece in pieces), strict=True)
        return cls(*(np.concatenate(part) for part in parts))

    @classmethod
    def none(cls, dim: int) -> Frames:
        """Return no rows."""
        keys, times = np.empty(0, np.int64), np.empty(0)
        vectors = np.empty((0, dim), np.float32)
        return cls(keys, times, times, vectors, keys, np.empty(0, np.float32))

    def found_by(self, queries: Keys, cosines: Vectors) -> Frames:
        """Return the same rows as found ones."""
        return replace(self, queries=queries, cosines=cosines)

    @property
    def _parts(self) -> tuple[npt.NDArray[Any], ...]:
        return self.keys, self.seconds, self.ends, self.vectors, self.queries, self.cosines


class Store:
    """The tables in one folder.

    Args:
        folder: The folder, made by the first :meth:`create`; or the address of one in an object
            store, as ``s3://bucket/library``.
        generation: Which set of tables; see :mod:`ccl_hub.find.files`.

    Raises:
        OutputError: lancedb is not installed.
    """

    def __init__(self, folder: Path | str, generation: int = 0) -> None:
        require_packages("a library of videos", ["lancedb"], "find", "use ccl-embed", OutputError)
        os.environ.setdefault("LANCEDB_LOG", "error")  # what it warns of is not the user's to mend
        import lancedb

        self.folder, self._suffix = folder, f"-{generation}" if generation else ""
        self._db: Any = lancedb.connect(folder)
        self._opened: dict[str, Any] = {}
        self._memory: dict[str, tuple[int, Frames]] = {}

    def create(self, dim: int) -> None:
        """Make the tables, empty, unless they are there."""
        import pyarrow as pa

        vector = ("vector", pa.list_(pa.float16(), dim))
        key = ("key", pa.int64())
        schemas = {
            "frames": [key, ("seconds", pa.float32()), vector],
            "clips": [key, ("start", pa.float32()), ("end", pa.float32()), vector],
            "videos": [
                *(key, ("id", pa.string()), ("path", pa.string())),
                *(("duration_seconds", pa.float64()), ("completeness", pa.string())),
                *(("note", pa.string()), ("facts", pa.string())),
            ],
        }
        for name, columns in schemas.items():
            self._db.create_table(name + self._suffix, schema=pa.schema(columns), exist_ok=True)

    def drop(self) -> None:
        """Remove the tables, if there are any."""
        for name in ("videos", "frames", "clips"):
            self._db.drop_table(name + self._suffix, ignore_missing=True)
        self._opened.clear()
        self._memory.clear()
        self.__dict__.pop("videos", None)

    def _table(self, name: str) -> Any:
        if name not in self._opened:
            self._opened[name] = self._db.open_table(name + self._suffix)
        return self._opened[name]

    def refresh(self) -> None:
        """See what writers have done since, and nothing of what they do from now on."""
        for name in ("videos", "frames", "clips"):
            if name in self._opened:
                self._opened[name].checkout_latest()
            else:
                self._table(name)
        self.__dict__.pop("videos", None)

    @cached_property
    def videos(self) -> dict[int, Video]:
        """Every video, by its key, as of the latest :meth:`refresh`."""
        rows = self._table("videos").to_arrow().to_pylist()
        return {row["key"]: Video(**row) for row in rows}

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return self.count("frames")

    def count(self, name: str) -> int:
        """Return the number of rows of "frames" or "clips"."""
        return int(self._table(name).count_rows())

    def fingerprints(self) -> Keys:
        """Return (N,) numbers of the videos, which change if a video is looked at otherwise."""
        facts = (f"{v.id}\0{v.duration_seconds}\0{v.facts}" for v in self.videos.values())
        return np.array(sorted(key_of(text) for text in facts), np.int64)

    # Writing -----------------------------------------------------------------------------------

    def put(
        self, frames: pa.Table | None, clips: pa.Table | None, videos: Sequence[Video]
    ) -> None:
        """Add the rows of videos that are not there; they count once all are written."""
        import pyarrow as pa

        for name, rows in (("frames", frames), ("clips", clips)):
            if rows is not None and len(rows):
                self._table(name).add(rows)
        if videos:
            rows = [vars(video) for video in videos]
            self._table("videos").add(pa.Table.from_pylist(rows, self._table("videos").schema))
        self.__dict__.pop("videos", None)

    def remove(self, keys: Iterable[int]) -> None:
        """Remove every row of some videos."""
        numbers = sorted(set(keys))
        for name in ("videos", "frames", "clips"):
            for begin in range(0, len(numbers), KEYS_AT_ONCE):
                some = ", ".join(map(str, numbers[begin : begin + KEYS_AT_ONCE]))
                self._table(name).delete(f"key IN ({some})")
        self.__dict__.pop("videos", None)

    def optimize(self) -> None:
        """Bring the index up to date with all rows, and files down to few; versions are kept."""
        for name in ("frames", "clips", "videos"):
            if name != "videos" and self.count(name) >= INDEX_FROM_ROWS:
                self._index(name)
            self._table(name).optimize(cleanup_older_than=_FOR_EVER)

    def forget_versions(self) -> None:
        """Remove earlier versions, and the files that only they use; no reader may need them."""
        for name in ("frames", "clips", "videos"):
            self._table(name).optimize(cleanup_older_than=KEEP_VERSIONS)

    def _index(self, name: str) -> None:
        """Make the indexes of a table that are missing, or were made for far fewer rows."""
        from lancedb import index

        table, rows = self._table(name), self.count(name)
        there = {made.name: made.columns for made in table.list_indices()}
        if not any("key" in columns for columns in there.values()):
            table.create_index("key", config=index.BTree())
        made = [old for old, columns in there.items() if "vector" in columns]
        made.sort(key=_rows_of)
        if not made or GROWN * _rows_of(made[-1]) <= rows:
            # Its partitions are learnt once: as rows are added, each grows, and search slows down.
            config, name = index.IvfRq(distance_type="cosine"), f"{_MADE_FOR}{rows}"
            table.create_index("vector", config=config, name=name)
            made.append(name)
        for old in made[:-1]:
            table.drop_index(old)

    def fill(self, other: Store, space: Space) -> None:
        """Take over every row of another generation, in a new space."""
        import pyarrow as pa

        for name, place in (("frames", space.frames), ("clips", space.clips)):
            for batch in other._table(name).search().to_batches(batch_size=BLOCK_ROWS):
                table = pa.Table.from_batches([batch])
                columns = {column: table.column(column) for column in table.column_names}
                del columns["vector"]
                if len(table):
                    self._table(name).add(with_vectors(columns, place(vectors_in(table))))
        self.put(None, None, list(other.videos.values()))

    # Reading -----------------------------------------------------------------------------------

    def blocks(self, name: str = "frames") -> Iterator[Frames]:
        """Yield all frames, or clips, in bounded memory."""
        import pyarrow as pa

        query = self._table(name).search().select(_COLUMNS[name])
        for batch in query.to_batches(batch_size=BLOCK_ROWS):
            if len(batch):
                yield _frames(pa.Table.from_batches([batch]))

    def sample(self, count: int, seed: int = 0) -> Frames:
        """Return frames at random, at most ``count``, in random order."""
        rows = self.frame_count
        chosen = np.random.default_rng(seed).permutation(rows)[:count]
        if rows < INDEX_FROM_ROWS:
            return self._all("frames")[chosen]
        taken = self._table("frames").take_offsets(np.sort(chosen).tolist())
        frames = _frames(taken.select(_COLUMNS["frames"]).to_arrow())
        return frames[np.random.default_rng(seed).permutation(len(frames.keys))]

    def of(self, key: int, name: str = "frames") -> Frames:
        """Return the frames, or clips, of a video in order of time."""
        if self.count(name) < INDEX_FROM_ROWS:
            every = self._all(name)
            rows = every[np.flatnonzero(every.keys == key)]
        else:
            query = self._table(name).search().where(f"key = {key}")
            rows = _frames(query.select(_COLUMNS[name]).to_arrow())
        return rows[np.argsort(rows.seconds, kind="stable")]

    def nearest(
        self,
        queries: Vectors,
        most: int,
        without: int | Collection[int] | None = None,
        name: str = "frames",
        with_vectors: bool = True,
    ) -> Frames:
        """Return the frames, or clips, nearest to each query by cosine.

        Args:
            queries: (Q, D) unit vectors; one of zeros finds nothing.
            most: Rows for each query, at most.
            without: A video, or several, that are left out.
            name: "frames" or "clips".
            with_vectors: Also return their vectors, which take most of the memory; without, they
                have no dimensions.

        Returns:
            At most Q * most rows, of videos that count.
        """
        asked = np.flatnonzero(np.abs(queries).max(axis=1, initial=0.0) > 0)
        gone = [] if without is None else [without] if isinstance(without, int) else list(without)
        count = self.count(name)
        if not len(asked) or not count:
            return Frames.none(queries.shape[1] if with_vectors else 0)
        if count < INDEX_FROM_ROWS:
            found = self._exactly(name, queries[asked], most, gone, with_vectors)
        else:
            found = self._by_index(name, queries[asked], most, gone, with_vectors)
        known = np.isin(found.keys, np.fromiter(self.videos, np.int64, len(self.videos)))
        found = found[known]
        return found.found_by(asked[found.queries], found.cosines)

    def _exactly(
        self, name: str, queries: Vectors, most: int, without: list[int], with_vectors: bool
    ) -> Frames:
        every = self._all(name)
        rows, left_out = len(every.keys), np.isin(every.keys, without)
        most = min(most, rows - int(left_out.sum()))
        given = every if with_vectors else replace(every, vectors=every.vectors[:, :0])
        pieces = [Frames.none(given.vectors.shape[1])]
        step = max(1, MOST_SCORES // max(1, rows))
        for begin in range(0, len(queries) if most else 0, step):
            cosines = queries[begin : begin + step] @ every.vectors.T  # (q,R)
            cosines[:, left_out] = -np.inf
            near = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
            values = np.take_along_axis(cosines, near, axis=1)
            order = np.argsort(-values, axis=1, kind="stable")
            near = np.take_along_axis(near, order, axis=1).reshape(-1)
            values = np.take_along_axis(values, order, axis=1).reshape(-1)
            numbers = np.repeat(np.arange(begin, begin + len(cosines)), most)
            pieces.append(given[near].found_by(numbers, values))
        return Frames.joined(pieces)

    def _by_index(
        self, name: str, queries: Vectors, most: int, without: list[int], with_vectors: bool
    ) -> Frames:
        columns = [column for column in _COLUMNS[name] if with_vectors or column != "vector"]
        pieces = [Frames.none(queries.shape[1] if with_vectors else 0)]
        for begin in range(0, len(queries), QUERIES_AT_ONCE):
            some = queries[begin : begin + QUERIES_AT_ONCE]
            query = self._table(name).search(some, vector_column_name="vector")
            query = query.distance_type("cosine").nprobes(PROBES).refine_factor(REFINED)
            if without:
                query = query.where(f"key NOT IN ({', '.join(map(str, without))})")
            table = query.limit(most).select([*columns, "_distance"]).to_arrow()
            numbers = np.zeros(len(table), np.int64)
            if "query_index" in table.column_names:  # there is none for a single query
                numbers = table["query_index"].to_numpy().astype(np.int64)
            found = _frames(table)
            cosines = 1 - table["_distance"].to_numpy().astype(np.float32)  # of the exact rows
            order = np.lexsort((-cosines, numbers))
            pieces.append(found.found_by(numbers + begin, cosines)[order])
        return Frames.joined(pieces)

    def _all(self, name: str) -> Frames:
        """Every row, held in memory until a refresh brings others."""
        table = self._table(name)
        if name not in self._memory or self._memory[name][0] != table.version:
            dim = table.schema.field("vector").type.list_size
            rows = Frames.joined([Frames.none(dim), *self.blocks(name)])
            self._memory[name] = table.version, rows
        return self._memory[name][1]


def _rows_of(index: str) -> int:
    """Return for how many rows an index was made, by its name."""
    rows = index.removeprefix(_MADE_FOR)
    return int(rows) if rows.isdecimal() else 0


def vectors_in(table: pa.Table) -> Vectors:
    """Return the column "vector" of an Arrow table as (R, D) float32."""
    width = table.schema.field("vector").type.list_size
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(table), width), np.float32)


def _frames(table: pa.Table) -> Frames:
    """Return the frames or clips of an Arrow table."""
    begin, end = ("start", "end") if "end" in table.column_names else ("seconds", "seconds")
    seconds, ends = (table.column(name).to_numpy().astype(np.float64) for name in (begin, end))
    there = "vector" in table.column_names
    vectors = vectors_in(table) if there else np.empty((len(table), 0), np.float32)
    none = Frames.none(0)
    keys = table.column("key").to_numpy()
    return Frames(keys, seconds, ends, vectors, none.queries, none.cosines)


def with_vectors(columns: dict[str, Any], vectors: Vectors) -> pa.Table:
    """Return an Arrow table of columns and (R, D) vectors, which are kept as float16."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors, np.float16).reshape(-1), pa.float16())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table({**columns, "vector": column})
