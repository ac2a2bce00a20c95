"""Tables of Ray Data: a batch with a column of paths in, a row for each clip or video out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..embed.embeddings import FACTS
from ..errors import InputError

Table: TypeAlias = Any  # pyarrow.Table; pyarrow has no types and is imported where it is used

COLUMNS = (
    *("clip_index", "start_seconds", "end_seconds", "embedding", *FACTS),
    *("completeness", "status", "code", "reason"),
)
"""What is added to the columns of the input."""


class VideoRows(NamedTuple):
    """The rows of one video: n vectors (n,D), or one row that says why there is none.

    ``times`` holds for each row the clip's index, its start and its end in seconds.
    """

    vectors: np.ndarray | None = None
    times: Sequence[tuple[int | None, float | None, float | None]] = ((None, None, None),)
    completeness: str = ""
    status: str = "failed"
    code: str = ""
    reason: str = ""


def join(
    table: Table, videos: Sequence[VideoRows], embedding_dim: int, facts: Mapping[str, str]
) -> Table:
    """Repeat each row of the batch for the rows of its video, and add :data:`COLUMNS`.

    Args:
        table: The batch, a row for each video.
        videos: The rows of each.
        embedding_dim: D, needed where every video failed.
        facts: Columns with one value in every row.
    """
    pa = import_package("pyarrow")
    video_of_row = [video for video in videos for _ in video.times]
    times = [row for video in videos for row in video.times]
    failed = [video.vectors is None for video in video_of_row]
    nothing = np.zeros((1, embedding_dim), np.float32)
    vectors = [nothing if video.vectors is None else video.vectors for video in videos]
    flat = np.concatenate([*vectors, nothing[:0]]).reshape(-1)  # (n*D,)
    added = {
        "clip_index": pa.array([index for index, _, _ in times], pa.int32()),
        "start_seconds": pa.array([start for _, start, _ in times], pa.float64()),
        "end_seconds": pa.array([end for _, _, end in times], pa.float64()),
        "embedding": pa.FixedSizeListArray.from_arrays(
            pa.array(flat, pa.float32()), embedding_dim, mask=pa.array(failed, pa.bool_())
        ),
    }
    for name, value in facts.items():
        added[name] = pa.array([value] * len(video_of_row), pa.string())
    for name in ("completeness", "status", "code", "reason"):
        added[name] = pa.array([getattr(video, name) for video in video_of_row], pa.string())
    positions = [i for i, video in enumerate(videos) for _ in video.times]
    joined = table.take(pa.array(positions, pa.int64()))
    for name in COLUMNS:
        joined = joined.append_column(name, added[name])
    return joined


def check_columns(names: Sequence[str], path_column: str) -> None:
    """Refuse a table without paths, or with a column that would be written twice."""
    if path_column not in names:
        raise InputError(
            f"there is no column {path_column!r} with the paths; the columns are "
            f"{', '.join(names)}; name another by path_column."
        )
    taken = [name for name in names if name in COLUMNS]
    if taken:
        raise InputError(
            f"the column {taken[0]!r} is there already, and would be added; rename or drop it. "
            f"Added are {', '.join(COLUMNS)}."
        )


def as_table(batch: Any) -> Table:
    """Return a batch of Ray Data, a dictionary of arrays or a table, as a table."""
    pa = import_package("pyarrow")
    if isinstance(batch, pa.Table):
        return batch
    arrays = {name: np.asarray(values) for name, values in batch.items()}
    return pa.table({k: a if a.ndim == 1 else a.tolist() for k, a in arrays.items()})


def paths_of(table: Table, path_column: str) -> list[str | None]:
    """Return the paths, of which some may be null."""
    pa = import_package("pyarrow")
    check_columns(table.column_names, path_column)
    column = table[path_column]
    if pa.types.is_dictionary(column.type):  # as pandas writes categories
        column = column.cast(column.type.value_type)
    if not len(column):  # an empty array has any type
        return []
    if column.type not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise InputError(
            f"the column {path_column!r} is of type {column.type}; allowed: text, a local path or "
            "a URL in each row."
        )
    paths: list[str | None] = column.to_pylist()
    return paths


def import_package(name: str) -> Any:
    """Import a package of the extra, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"ccl_hub.ray cannot import {name} ({error}); pip install 'ccl-hub[ray]'."
        ) from error
