"""One packing process: decode videos, encode their frames, write whole shards.

Each runs apart from the packing, so that a decoder that aborts or hangs costs one video alone. The
module imports neither torch nor, at module level, a decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ccl_hub._util.files import file_sha256, write_atomically
from ccl_hub.config import Preprocessing
from ccl_hub.errors import DecodeError, MediaError, MediaNotFoundError, TrainingError

from ..data.checks import Problem
from ..data.datasets import VideoItem
from .codec import CODECS, encode_frame


@dataclass(frozen=True)
class PackOptions:
    """Everything that decides the bytes of a packed store.

    Args:
        preprocessing: The resize; a store is the same for any crop, mean and std.
        codec: ``"jpeg"`` (4:4:4) or ``"raw"`` (uint8 RGB, about six times as large).
        quality: JPEG quality, 50 to 100.
        keep_incomplete: Also pack the frames of truncated videos, which are reported either way.
    """

    preprocessing: Preprocessing
    codec: str = "jpeg"
    quality: int = 95
    keep_incomplete: bool = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise TrainingError(f"codec is {self.codec!r}; allowed: {' or '.join(CODECS)}.")
        if not 50 <= self.quality <= 100:
            raise TrainingError(f"quality is {self.quality}; allowed: 50 to 100.")


@dataclass(frozen=True)
class _Packed:
    """The row of one video in its shard; a video that failed has no frames."""

    sha256: str
    seconds: np.ndarray
    duration_seconds: float
    size_px: tuple[int, int]
    frames: list[bytes]
    problem: Problem | None


def _shard_schema(plan: str) -> Any:
    """Return the Arrow schema of a shard, with the fingerprint of what it was made from."""
    import pyarrow as pa

    fields = [
        ("id", pa.string()),
        ("sha256", pa.string()),
        ("problem_code", pa.string()),
        ("problem_text", pa.string()),
        ("height_px", pa.int64()),
        ("width_px", pa.int64()),
        ("duration_seconds", pa.float64()),
        ("seconds", pa.large_list(pa.float64())),
        ("frames", pa.large_list(pa.large_binary())),
    ]
    return pa.schema(fields, metadata={"ccl_plan": plan})


def write_shard(
    path: Path,
    items: list[VideoItem],
    options: PackOptions,
    plan: str,
    skip: dict[str, Problem],
    report: Callable[[str, str], None],
) -> None:
    """Pack videos into one shard file, atomically.

    Args:
        path: The shard file.
        items: Its videos.
        options: How to make frames.
        plan: Fingerprint kept in the file, by which a later run knows it.
        skip: Videos to leave out, with the problem to record.
        report: Called with ``("start", id)`` and ``("end", id)`` around every video.

    Raises:
        OutputError: The shard cannot be written.
    """
    import pyarrow as pa

    schema = _shard_schema(plan)

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, schema) as writer:
            for item in items:
                report("start", item.id)
                if item.id in skip:
                    row = _unusable("", skip[item.id])
                else:
                    row = _pack_video(item, options)
                writer.write_batch(_batch(item, row, schema))
                report("end", item.id)

    write_atomically(path, write)


def _batch(item: VideoItem, row: _Packed, schema: Any) -> Any:
    import pyarrow as pa

    values = {
        **vars(row),
        "id": item.id,
        "problem_code": None if row.problem is None else row.problem.code,
        "problem_text": None if row.problem is None else row.problem.text,
        "height_px": row.size_px[0],
        "width_px": row.size_px[1],
    }
    arrays = [pa.array([values[field.name]], field.type) for field in schema]
    return pa.record_batch(arrays, schema=schema)


def _pack_video(item: VideoItem, options: PackOptions) -> _Packed:
    """Decode and encode one video; a video that fails becomes a row with its problem."""
    digest = ""
    try:
        if not item.path.is_file():
            raise MediaNotFoundError(f"no file {item.path}")
        digest = file_sha256(item.path)
        try:
            packed = _decoded(item, options, digest)
        except DecodeError:  # its packets have another order than its frames
            packed = _decoded(item, options, digest, decode_index=True)
        if packed.problem is None or options.keep_incomplete:
            return packed
        problem = packed.problem
    except MediaError as error:
        problem = Problem(item.id, error.code, error.reason)
    except OSError as error:
        problem = Problem(item.id, "unreadable", error.strerror or str(error))
    return _unusable(digest, problem)


def _unusable(digest: str, problem: Problem) -> _Packed:
    return _Packed(digest, np.empty(0), 0.0, (0, 0), [], problem)


def _decoded(
    item: VideoItem, options: PackOptions, digest: str, decode_index: bool = False
) -> _Packed:
    """Decode and encode one frame at a time, with the decoder of inference."""
    from ccl_hub.video import VideoReader

    numbers, frames, size = [], [], (0, 0)
    with VideoReader(
        item.path, resize=options.preprocessing, threads=1, decode_index=decode_index
    ) as reader:
        seconds = reader.info.seconds
        for number, frame in reader.frames(range(len(seconds)), skip_missing=True):
            numbers.append(number)
            frames.append(encode_frame(frame, options.codec, options.quality))
            size = frame.shape[:2]
        info = reader.info  # decoding has completed it
    problem = None
    if info.completeness == "incomplete":
        problem = Problem(item.id, "incomplete", info.note)
    return _Packed(digest, seconds[numbers], info.duration_seconds, size, frames, problem)


def serve(connection: Connection, options: PackOptions) -> None:
    """Pack shards until told to stop; the main function of a packing process.

    Args:
        connection: Receives ``(path, items, plan, skip)`` or None; sends pairs of an event and a
            text: ``start`` and ``end`` of a video, ``shard`` when one is written, ``error``.
        options: How to make frames.
    """

    def report(event: str, text: str) -> None:
        connection.send((event, text))

    try:
        while (task := connection.recv()) is not None:
            path, items, plan, skip = task
            try:
                write_shard(path, items, options, plan, skip, report)
            except OSError as error:
                report("error", str(error))
                return
            report("shard", str(path))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the packing was stopped; a half-written file has no final name
