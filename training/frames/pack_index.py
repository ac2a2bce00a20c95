"""Finished shards are read back, and an index of all of them is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccl_hub._util.files import write_atomically

from ..data.checks import Problem
from ..data.datasets import VideoItem, VideoList


@dataclass(frozen=True)
class PackedRow:
    """One video of a shard, without its pixels; a video that was left out has no frames."""

    id: str
    sha256: str
    size_px: tuple[int, int]
    duration_seconds: float
    seconds: np.ndarray  # float64 (n,)
    start_bytes: np.ndarray  # int64 (n,): where each frame begins in the shard file
    size_bytes: np.ndarray  # int64 (n,)
    problem: Problem | None

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.seconds)


@dataclass(frozen=True)
class PackedShard:
    """A finished shard file and its rows."""

    path: Path
    rows: tuple[PackedRow, ...]


def read_shard(path: Path, plan: str, items: Sequence[VideoItem]) -> PackedShard | None:
    """Return a finished shard, or None if the file must be made (again).

    Args:
        path: The file.
        plan: Fingerprint that the file must carry.
        items: Videos that it must hold, in order.
    """
    import pyarrow as pa

    if not path.is_file():
        return None
    with pa.memory_map(str(path)) as file:
        whole = file.read_buffer()
        try:
            reader = pa.ipc.open_file(pa.BufferReader(whole))
            if (reader.schema.metadata or {}).get(b"ccl_plan") != plan.encode():
                return None
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError):
            return None  # not an Arrow file, or cut short: the shard is made again
        if [batch.column("id")[0].as_py() for batch in batches] != [item.id for item in items]:
            return None
        return PackedShard(path, tuple(_row(batch, whole.address) for batch in batches))


def _row(batch: Any, file_address: int) -> PackedRow:
    """Return the row of a batch of one video, which is a view of the mapped file."""
    names = [name for name in batch.schema.names if name not in ("seconds", "frames")]
    value = {name: batch.column(name)[0].as_py() for name in names}
    code = value["problem_code"]
    frames = batch.column("frames").values
    _, offsets, data = frames.buffers()
    ends = np.frombuffer(offsets, np.int64) if len(frames) else np.zeros(1, np.int64)
    first = 0 if data is None else data.address - file_address
    return PackedRow(
        id=value["id"],
        sha256=value["sha256"],
        size_px=(value["height_px"], value["width_px"]),
        duration_seconds=value["duration_seconds"],
        seconds=np.array(batch.column("seconds").values.to_numpy(), np.float64),
        start_bytes=first + ends[: len(frames)],
        size_bytes=np.diff(ends[: len(frames) + 1]),
        problem=None if code is None else Problem(value["id"], code, value["problem_text"]),
    )


def write_index(path: Path, videos: VideoList, shards: Sequence[PackedShard]) -> None:
    """Write ``index.arrow``: one row per packed video, in the order of ``videos``.

    Raises:
        OutputError: The file cannot be written.
    """
    import pyarrow as pa

    by_id = {row.id: (n, row) for n, shard in enumerate(shards) for row in shard.rows}
    rows = [by_id[name] for name in videos.ids]
    first = np.concatenate([[0], np.cumsum([row.frames for _, row in rows])])

    def per_frame(name: str) -> Any:
        values = np.concatenate([getattr(row, name) for _, row in rows])
        return pa.LargeListArray.from_arrays(pa.array(first, pa.int64()), pa.array(values))

    batch = pa.record_batch(
        {
            **{
                name: pa.array([getattr(item, name) for item in videos], pa.string())
                for name in ("id", "label", "group", "split")
            },
            "sha256": pa.array([row.sha256 for _, row in rows], pa.string()),
            "shard": pa.array([number for number, _ in rows], pa.int64()),
            "height_px": pa.array([row.size_px[0] for _, row in rows], pa.int64()),
            "width_px": pa.array([row.size_px[1] for _, row in rows], pa.int64()),
            "duration_seconds": pa.array([row.duration_seconds for _, row in rows]),
            "seconds": per_frame("seconds"),
            "start_bytes": per_frame("start_bytes"),
            "size_bytes": per_frame("size_bytes"),
        }
    )

    def write(file: Any) -> None:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)

    write_atomically(path, write)
