"""Where the batch job puts the results of a library: into its database, exactly once.

    result -> spool (the job's manifest) -> database, BATCH_ROWS at a time -> out of the spool

What is in the spool counts as done, and is not lost when the run ends at any moment. Rows move
from there to the database as often as needed: those of the same videos are removed first, so that
a move that was interrupted leaves no row twice. An entry without rows takes a video away.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING

from ..embed.embeddings import FACTS, Embeddings
from ..inputs.names import as_text
from ..job.manifest import Manifest, Row
from ..job.sinks import Prepared
from .engine import Look
from .store import Store, Video, key_of, with_vectors

if TYPE_CHECKING:
    import pyarrow as pa

    from .space import Space

BATCH_ROWS = 16_384


class LibrarySink:
    """Takes results; see :class:`ccl_hub.job.sinks.Sink`.

    Args:
        manifest: What became of every video, and the spool.
        store: The database.
        space: In which vectors are compared.
        batch_rows: Frames that may wait in the spool; None for BATCH_ROWS.
    """

    def __init__(
        self, manifest: Manifest, store: Store, space: Space, batch_rows: int | None = None
    ) -> None:
        self._manifest, self._store, self._space = manifest, store, space
        self._batch_rows = batch_rows or BATCH_ROWS
        self._rows = manifest.spooled_rows()
        self._spooled = {id for id, data in manifest.spool() if data}
        self._stored = {video.id for video in store.videos.values()}

    def intact(self, row: Row) -> bool:
        """Whether the rows of a video are there."""
        return row.id in self._stored or row.id in self._spooled

    def prepare(self, id: str, embeddings: Embeddings) -> Prepared:
        """Make the rows of a video, as Arrow streams of its frames, its clips and itself."""
        import pyarrow as pa

        look, facts = Look.of(embeddings), embeddings.provenance
        key = key_of(id)
        frames = with_vectors(
            {
                "key": pa.array([key] * len(look.seconds), pa.int64()),
                "seconds": pa.array(look.seconds, pa.float32()),
            },
            self._space.frames(look.frames),
        )
        clips = with_vectors(
            {
                "key": pa.array([key] * len(look.clips), pa.int64()),
                "start": pa.array(look.clip_seconds[:, 0], pa.float32()),
                "end": pa.array(look.clip_seconds[:, 1], pa.float32()),
            },
            self._space.clips(look.clips),
        )
        shared = {name: getattr(facts, name) for name in (*FACTS, "decoder")}
        shared["frames_sha256"] = hashlib.sha256(look.frames.tobytes()).hexdigest()
        video = Video(
            key=key,
            id=id,
            path=as_text(facts.source),
            duration_seconds=facts.duration_seconds,
            completeness=facts.completeness,
            note=facts.note,
            facts=json.dumps(shared, sort_keys=True),
        )
        about = pa.Table.from_pylist([vars(video)])
        buffer = io.BytesIO()
        for table in (frames, clips, about):
            with pa.ipc.new_stream(buffer, table.schema) as writer:
                writer.write_table(table)
        return Prepared(rows=len(look.seconds), data=buffer.getbuffer())

    def keep(self, row: Row, prepared: Prepared | None) -> None:
        """Let a result, or for None a failure, count instead of what was there before."""
        with self._manifest.together():
            if prepared is not None:
                self._manifest.add_to_spool(row.id, prepared.rows, prepared.data)
                self._spooled.add(row.id)
                self._rows += prepared.rows
            elif self.intact(row):
                self.take_away(row.id)
            self._manifest.record(row)
        if self._rows >= self._batch_rows:
            self.finish()

    def take_away(self, id: str) -> None:
        """Let the rows of a video be removed with the next move."""
        self._manifest.add_to_spool(id, 0, b"")
        self._spooled.discard(id)

    def finish(self) -> None:
        """Move the spool into the database."""
        self._manifest.commit()
        spool = self._manifest.spool()
        if not spool:
            return
        tables = [_tables(data) for _, data in spool if data]
        self._store.remove(key_of(id) for id, _ in spool)
        if tables:
            import pyarrow as pa

            frames, clips, videos = map(pa.concat_tables, zip(*tables, strict=True))
            self._store.put(frames, clips, [Video(**row) for row in videos.to_pylist()])
        with self._manifest.together():
            for id, _ in spool:
                self._manifest.remove_from_spool(id)
        self._manifest.commit()
        self._stored = {video.id for video in self._store.videos.values()}
        self._spooled, self._rows = set(), 0


def _tables(data: bytes | memoryview) -> list[pa.Table]:
    """Return the frames, clips and videos of an entry of the spool."""
    import pyarrow as pa

    source = pa.BufferReader(data)
    tables = []
    for _ in range(3):
        with pa.ipc.open_stream(source) as reader:
            tables.append(reader.read_all())
    return tables
