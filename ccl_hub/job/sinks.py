"""Where a batch job puts its results: a file for each video, or the parts of a dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from .._util.files import file_sha256, make_folder, write_atomically
from ..embed.embeddings import Embeddings
from ..embed.writers import write
from ..errors import OutputError
from ..inputs.names import output_name
from . import dataset
from .manifest import Part, Row
from .state import JobState, is_part, remove_file

__all__ = ["DatasetSink", "FolderSink", "Prepared", "Sink"]

PART_ROWS = 16_384
"""Rows of a part; 34 MB of 512-d vectors."""

REWRITTEN_AT_ONCE = 4
"""Parts written anew each time that a part is full: the rest can wait for the end."""

MOST_SPOOLED_BYTES = 64 << 20
"""A video with more makes a part of its own: through SQLite it would be in memory more often."""


@dataclass(frozen=True)
class Prepared:
    """A result that is written, or ready to be: its place, size and hash, or its rows."""

    output: str = ""
    size_bytes: int = 0
    sha256: str = ""
    rows: int = 0
    data: bytes | memoryview = b""


class Sink(Protocol):
    """Takes results and knows whether earlier ones are still there."""

    def intact(self, row: Row) -> bool:
        """Whether the output of a row is there, byte by byte; from any thread."""
        ...

    def prepare(self, id: str, embeddings: Embeddings) -> Prepared:
        """Do the slow part of keeping a result; from any thread."""
        ...

    def keep(self, row: Row, prepared: Prepared | None) -> None:
        """Let a result, or for None a failure, count in place of what was there before."""
        ...

    def finish(self) -> None:
        """Write what is left."""
        ...


class FolderSink:
    """A file for each video, in folders as the videos are.

    Args:
        state: Of the job.
        suffix: Of the files: ".npy", ".npz" or ".safetensors".
        level: Of .npy files.
    """

    def __init__(self, state: JobState, suffix: str, level: str | None) -> None:
        self._state, self._suffix, self._level = state, suffix, level
        self._folder = state.destination.path

    def intact(self, row: Row) -> bool:
        """See :class:`Sink`."""
        return _has_hash(self._folder / row.output, row.output_bytes, row.output_sha256)

    def prepare(self, id: str, embeddings: Embeddings) -> Prepared:
        """Write the file; it counts once it is in the manifest."""
        name = output_name(id, self._suffix)
        path = self._folder / name
        make_folder(path.parent)
        write_atomically(
            path,
            lambda file: write(embeddings, file, self._suffix, self._level),
            self._state.temporary,
        )
        try:
            return Prepared(name, path.stat().st_size, file_sha256(path))
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be read after it was written ({error.strerror or error}); check "
                "the disk, and run again."
            ) from error

    def keep(self, row: Row, prepared: Prepared | None) -> None:
        """See :class:`Sink`."""
        if prepared is None:
            # Also one that a run wrote which was killed before it could note it.
            remove_file(self._folder / output_name(row.id, self._suffix))
            self._state.manifest.record(row)
            return
        done = replace(
            row,
            output=prepared.output,
            output_bytes=prepared.size_bytes,
            output_sha256=prepared.sha256,
        )
        self._state.manifest.record(done)

    def finish(self) -> None:
        """Nothing is left."""


class DatasetSink:
    """Parts of many rows each; the rows of a part not yet full wait in the manifest.

    A part counts only if the manifest names it, so that a run killed anywhere leaves no row twice:
    parts that it does not name are removed when the next run begins.

    Args:
        state: Of the job.
        level: "clip", "frame" or "video".
        part_rows: Rows from which on a part is written.
    """

    def __init__(self, state: JobState, level: str, part_rows: int = PART_ROWS) -> None:
        dataset.check_pyarrow()
        self._state, self._level, self._part_rows = state, level, part_rows
        self._folder, self._manifest = state.destination.path, state.manifest
        self._rows = self._manifest.spooled_rows()
        self._repair()

    def _repair(self) -> None:
        """Remove parts that do not count, and forget what was in damaged ones."""
        for part in self._manifest.parts():
            if not is_part(part.name) or not _has_hash(
                self._folder / part.name, part.size_bytes, part.sha256
            ):
                self._manifest.drop_part(part.name)
        self._manifest.drop_unknown()
        self._manifest.commit()
        named = {part.name for part in self._manifest.parts()}
        for path in self._folder.glob(f"part-{self._state.shard.label}-*.parquet"):
            if path.name not in named:
                remove_file(path)

    def intact(self, row: Row) -> bool:
        """See :class:`Sink`; parts were looked at in the beginning."""
        return True

    def prepare(self, id: str, embeddings: Embeddings) -> Prepared:
        """Make the rows."""
        rows, data = dataset.rows_bytes(id, embeddings, self._level)
        return Prepared(rows=rows, data=data)

    def keep(self, row: Row, prepared: Prepared | None) -> None:
        """See :class:`Sink`."""
        part = None
        if prepared is not None and len(prepared.data) > MOST_SPOOLED_BYTES:
            part = self._written(dataset.part_bytes([prepared.data]))
        with self._manifest.together():
            # As it is now: its part may have been written anew since the video was looked up.
            before = self._manifest.find(row.id)
            if before is not None and before.output and (not part or before.output != part.name):
                self._manifest.mark_stale(before.output, row.id)
            if prepared is None or part is not None:
                self._manifest.remove_from_spool(row.id)
            else:
                self._manifest.add_to_spool(row.id, prepared.rows, prepared.data)
                self._rows += prepared.rows
            if part is not None:
                self._manifest.add_part(part)
                row = replace(row, output=part.name)
            self._manifest.record(row)
        if self._rows >= self._part_rows:
            self._write(REWRITTEN_AT_ONCE)

    def finish(self) -> None:
        """See :class:`Sink`."""
        self._write(None)

    def _write(self, most: int | None) -> None:
        """Write what waits as a part, and parts with rows that no longer count anew.

        Args:
            most: Write so many anew, those with the most such videos; None for all.
        """
        stale = sorted(self._manifest.stale().items(), key=lambda one: -len(one[1]))
        rewritten: dict[str, Part | None] = {}
        for name, ids in stale[:most]:
            rewritten[name] = self._written(dataset.without(self._folder / name, ids))
        spooled = self._manifest.spool()
        new = self._written(dataset.part_bytes(data for _, data in spooled) if spooled else None)
        self._manifest.replace_parts(new, [id for id, _ in spooled], rewritten)
        # A part that was made anew with the same rows has the name that it had.
        for name in rewritten.keys() - {part.name for part in self._manifest.parts()}:
            remove_file(self._folder / name)
        self._rows = 0

    def _written(self, data: memoryview | None) -> Part | None:
        if data is None:
            return None
        label = self._state.shard.label
        name, sha256 = dataset.write_part(self._folder, label, data, self._state.temporary)
        return Part(name, len(data), sha256)


def _has_hash(path: Path, size_bytes: int, sha256: str) -> bool:
    try:
        whole = path.is_file() and path.stat().st_size == size_bytes
        return whole and file_sha256(path) == sha256
    except OSError:
        return False
