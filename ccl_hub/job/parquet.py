"""Embeddings as a Parquet dataset: a folder of parts, one row for each clip, frame or video.

Vectors are fixed-size lists of float32, so that pandas, polars, DuckDB and LanceDB read them as
they are; times and provenance are columns. Needs pyarrow (extra ``parquet``).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._util.extras import require_packages
from .._util.files import write_atomically
from ..embed.embeddings import FACTS
from ..errors import OutputError
from ..inputs.names import as_text

if TYPE_CHECKING:
    from ..embed.embeddings import Embeddings

ROW_GROUP_ROWS = 1 << 16
"""Rows, 134 MB of 512-d vectors, that are in memory once more while they are written."""


def check_pyarrow() -> None:
    """Refuse to begin without pyarrow.

    Raises:
        OutputError: It is not installed.
    """
    require_packages(
        "a .parquet dataset", ["pyarrow"], "parquet", "write to a folder", OutputError
    )


def rows_bytes(id: str, embeddings: Embeddings, level: str) -> tuple[int, memoryview]:
    """Return the rows of one video, and how many, as an Arrow stream.

    Args:
        id: Name of the video.
        embeddings: Its vectors.
        level: "clip", "frame" or "video".
    """
    import pyarrow as pa

    facts = embeddings.provenance
    clips, frames = embeddings.frame_seconds.shape
    positions: dict[str, Any] = {}
    if level == "video":
        vectors, spans = embeddings.video[None], np.array([[0.0, facts.duration_seconds]])
    else:
        vectors, spans = embeddings.clips, embeddings.clip_seconds
        positions["clip_index"] = np.arange(clips, dtype=np.int32)
    if level == "frame":
        vectors = embeddings.frames.reshape(clips * frames, -1)  # (W*T,D)
        instants = embeddings.frame_seconds.reshape(-1)
        spans = np.stack([instants, instants], axis=1)
        positions["clip_index"] = positions["clip_index"].repeat(frames)
        positions["frame_index"] = np.tile(np.arange(frames, dtype=np.int32), clips)
    count, dim = vectors.shape
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    columns = {
        "id": pa.array([id] * count, pa.string()),
        "path": pa.array([as_text(facts.source)] * count, pa.string()),
        **{name: pa.array(values) for name, values in positions.items()},
        "start_seconds": pa.array(spans[:, 0], pa.float64()),
        "end_seconds": pa.array(spans[:, 1], pa.float64()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
        "duration_seconds": pa.array([facts.duration_seconds] * count, pa.float64()),
        "completeness": pa.array([facts.completeness] * count, pa.string()),
        **{name: pa.array([as_text(getattr(facts, name))] * count, pa.string()) for name in FACTS},
    }
    batch = pa.record_batch(columns)
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, batch.schema) as writer:
        writer.write_batch(batch)
    return count, buffer.getbuffer()


def part_bytes(streams: Iterable[bytes | memoryview]) -> memoryview:
    """Return one Parquet file with the rows of :func:`rows_bytes` of several videos."""
    import pyarrow as pa

    tables = []
    for data in streams:
        with pa.ipc.open_stream(data) as reader:
            tables.append(reader.read_all())
    return _parquet(pa.concat_tables(tables))


def without(part: Path, ids: Collection[str]) -> memoryview | None:
    """Return a part without the rows of some videos; None if nothing is left.

    Raises:
        OutputError: It cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with part.open("rb") as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{part}: this part of the dataset cannot be read ({error}); run again, which "
            "embeds the videos of damaged parts again."
        ) from error
    kept = table.filter(pc.invert(pc.is_in(table["id"], pa.array(sorted(ids)))))
    return _parquet(kept) if len(kept) else None


def write_part(
    folder: Path, label: str, data: memoryview, temporary_folder: Path
) -> tuple[str, str]:
    """Write a part, and return its name and hash; the name holds the hash.

    Args:
        folder: The dataset.
        label: Label of the shard that writes.
        data: What :func:`part_bytes` returned.
        temporary_folder: Outside the dataset: readers take every file in there for a part.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"part-{label}-{sha256[:16]}.parquet"
    write_atomically(folder / name, data, temporary_folder)
    return name, sha256


def _parquet(table: Any) -> memoryview:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    texts = [field.name for field in table.schema if str(field.type) == "string"]
    # Floats do not compress, and texts that repeat are small by their dictionary alone.
    pq.write_table(table, buffer, ROW_GROUP_ROWS, use_dictionary=texts, compression="none")
    return buffer.getbuffer()
