"""The parts of a dataset: which of them count, and which hold rows that no longer do.

    result -> spool                    where it waits until there are PART_ROWS rows
    spool  -> part                     of that many rows, or of what is left at the end
    part   -> part with stale videos   one of its videos was embedded again, or fails now
           -> rewritten part           without the stale videos: a few parts whenever another one
                                       is full, all of them at the end

The manifest holds the spool, the names of the parts and what is stale. A part counts only if the
manifest names it, so that a run killed anywhere leaves no row twice: when the next run begins, a
part that is not named is removed, and one that is missing or damaged is forgotten with the videos
in it, which are then embedded again.
"""

from __future__ import annotations

from dataclasses import replace

from ..embed.embeddings import Embeddings
from . import parquet
from .destination import is_part, remove_file
from .manifest import Part, Row
from .sinks import Prepared, has_hash
from .state import JobState

PART_ROWS = 16_384
"""Rows of a part; 34 MB of 512-d vectors."""

REWRITTEN_AT_ONCE = 4
"""Parts rewritten each time that a part is full: the rest can wait for the end."""

MOST_SPOOLED_BYTES = 64 << 20
"""A video with more makes a part of its own: through SQLite it would be in memory more often."""


class DatasetSink:
    """Parts of many rows each; the rows of a part not yet full wait in the spool.

    Args:
        state: State of the job.
        level: "clip", "frame" or "video".
        part_rows: As soon as there are so many rows, a part is written.
    """

    def __init__(self, state: JobState, level: str, part_rows: int = PART_ROWS) -> None:
        parquet.check_pyarrow()
        self._state, self._level, self._part_rows = state, level, part_rows
        self._folder, self._manifest = state.destination.path, state.manifest
        self._rows = self._manifest.spooled_rows()
        self._repair()

    def _repair(self) -> None:
        """Remove parts that do not count, and forget what was in damaged ones."""
        for part in self._manifest.parts():
            if not is_part(part.name) or not has_hash(
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
        rows, data = parquet.rows_bytes(id, embeddings, self._level)
        return Prepared(rows=rows, data=data)

    def keep(self, row: Row, prepared: Prepared | None) -> None:
        """See :class:`Sink`."""
        part = None
        if prepared is not None and len(prepared.data) > MOST_SPOOLED_BYTES:
            part = self._written(parquet.part_bytes([prepared.data]))
        with self._manifest.together():
            # As it is now: its part may have been rewritten since the video was looked up.
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
        """Write the spool as a part, and rewrite parts with stale videos.

        Args:
            most: How many to rewrite, those with the most stale videos first; None for all.
        """
        stale = sorted(self._manifest.stale().items(), key=lambda item: -len(item[1]))
        rewritten: dict[str, Part | None] = {}
        for name, ids in stale[:most]:
            rewritten[name] = self._written(parquet.without(self._folder / name, ids))
        spooled = self._manifest.spool()
        new = self._written(parquet.part_bytes(data for _, data in spooled) if spooled else None)
        self._manifest.replace_parts(new, [id for id, _ in spooled], rewritten)
        # A part with the same rows has the name that it had.
        for name in rewritten.keys() - {part.name for part in self._manifest.parts()}:
            remove_file(self._folder / name)
        self._rows = 0

    def _written(self, data: memoryview | None) -> Part | None:
        if data is None:
            return None
        label = self._state.shard.label
        name, sha256 = parquet.write_part(self._folder, label, data, self._state.temporary)
        return Part(name, len(data), sha256)
