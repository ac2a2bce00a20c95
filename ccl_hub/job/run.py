"""A batch job: every video of some inputs embedded into one destination, exactly once.

    inputs -> not yet done? -> embed_patiently -> sink -> manifest

Run again after any interruption, it does what is missing, damaged or changed, and nothing else.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .._util.files import write_atomically
from .._util.prefetch import in_order
from ..backends.make import FLOAT32_RUNTIMES
from ..batch.options import BatchItem, BatchOptions
from ..errors import CCLError, code_and_reason
from ..inputs.ahead import searched_ahead
from ..inputs.find import VideoInput
from ..inputs.names import as_text
from ..sampling import Sampling
from ..video.open import MediaLimits
from .destination import Destination, remove_file
from .events import JobSummary, VideoEvent
from .lookup import STORAGE_CODES, TRANSIENT_CODES, Look
from .manifest import DONE, FAILED, INCOMPLETE, Row
from .options import JobInputs, JobOptions
from .parquet import check_pyarrow
from .parts import DatasetSink
from .sinks import FolderSink, Prepared, Sink, SinkMaker
from .state import JobState, open_state

if TYPE_CHECKING:
    from ..backends.engine import Engine

logger = logging.getLogger(__name__)

IO_THREADS = 4
AHEAD_VIDEOS = 64
WRITES_AT_ONCE = 8
MOST_WAITING_BYTES = 256 << 20
"""Vectors that may wait to be written before the next result is looked at."""


def run_job(
    inputs: JobInputs,
    out: str | Path,
    engines: list[Engine],
    sampling: Sampling,
    options: JobOptions | None = None,
    batch: BatchOptions | None = None,
    listen: Callable[[VideoEvent], None] = lambda event: None,
    tell_total: Callable[[int], None] | None = None,
    into: SinkMaker | None = None,
) -> JobSummary:
    """Embed every video of the inputs into a destination, or go on where an earlier run ended.

    Args:
        inputs: Which videos.
        out: A folder, or the name of a dataset, which ends in .parquet; made if missing.
        engines: Engines of one model; see :func:`ccl_hub.batch.engines_for`.
        sampling: Which clips.
        options: How results are kept.
        batch: How the batch is run.
        listen: Called for each video as it is done, in this thread.
        tell_total: Called with the number of videos as soon as it is known, in another thread,
            which then searches ahead.
        into: What takes the results, in a folder of its own kind; None for files and datasets.

    Returns:
        What was done; videos that failed are counted there and listed in ``failures.csv``.

    Raises:
        InputError: An argument is not allowed, an input gives no video, or the destination holds
            embeddings made otherwise.
        OutputError: The destination cannot be written; what was finished is intact.
    """
    from ..batch.run import embed_patiently

    options, destination = options or JobOptions(), Destination.at(out)
    if destination.is_dataset:
        check_pyarrow()  # before anything there is touched
    began = time.monotonic()
    frames = True if into is not None else options.has_frames(destination)
    batch = replace(batch or BatchOptions(), frames=frames)
    inputs.choose_root(None)  # before anything is made
    settings = _settings(engines[0], sampling, options, destination)
    if into is not None:
        settings["format"] = into.format
        if not into.one_backend and settings["backend"] in ("torch", *FLOAT32_RUNTIMES):
            settings["backend"] = "any that gives torch's numbers"
    summary = JobSummary(destination.path)
    with open_state(
        *(destination, options.shard, settings, options.overwrite),
        *(inputs.choose_root, inputs.search.forget),  # hours may pass: then what is there is old
    ) as state:

        def tell(event: VideoEvent) -> None:
            summary.add(event)
            if event.code:
                state.manifest.note_open(
                    event.id, event.path, event.state, event.code, event.reason
                )
            listen(event)

        sink: Sink
        if into is not None:
            sink = into.make(state)
        elif destination.is_dataset:
            sink = DatasetSink(state, options.level or "clip")
        else:
            sink = FolderSink(state, options.suffix, options.level)
        run = _Run(state, sink, options, batch.limits or MediaLimits(), tell)
        videos = inputs.videos(state.root, options.shard, destination)
        if tell_total is not None:
            videos = searched_ahead(videos, tell_total)
        paths = run.paths(videos)
        with closing(embed_patiently(paths, engines, sampling, batch)) as items:
            run.keep_all(items)
        sink.finish()
        summary.failures = _write_failures(state)
    summary.stopped, summary.sandbox = run.stopped, run.sandbox
    summary.elapsed_seconds = time.monotonic() - began
    return summary


_Write: TypeAlias = tuple[Look, BatchItem, Future[Prepared] | None]
"""A result on its way to the destination."""


class _Run:
    """The loop of one run."""

    def __init__(
        self,
        state: JobState,
        sink: Sink,
        options: JobOptions,
        limits: MediaLimits,
        tell: Callable[[VideoEvent], None],
    ) -> None:
        self._state, self._sink, self._options, self._tell = state, sink, options, tell
        self._limits = limits
        self._under_way: dict[int, Look] = {}
        self.stopped = self._warned = False
        self.sandbox = ""

    def paths(self, videos: Iterator[VideoInput]) -> Iterator[Path | None]:
        """Yield the files to embed; tell of videos that need not be, and yield None for them."""
        number, options = 0, self._options
        for look in self._looks(videos):
            self._warn_if_outside(look.video)
            before = look.before
            if before is not None and look.is_kept(before, options):
                row = replace(before, path=as_text(look.video.path))
                self._tell(VideoEvent.of(row, kept=True))
            elif (failure := look.failure(self._limits)) is not None:
                self._keep(look, failure, None)
                if self.stopped:
                    return
            elif before is not None and look.has_known_content(before, options):
                self._note_hash(look, before)
            else:
                self._under_way[number] = look
                number += 1
                yield look.video.path
                continue
            yield None

    def _looks(self, videos: Iterator[VideoInput]) -> Iterator[Look]:
        """Yield a look at each video, in order, with some under way at once.

        Raises:
            Exception: What finding the videos raised, after those in front of it.
        """
        looks = (Look.at(video, self._state.find(video.id)) for video in videos)
        return in_order(
            lambda look: look.closely(self._sink, self._options.checksum),
            looks,
            threads=IO_THREADS,
            ahead=AHEAD_VIDEOS,
            when_ready=True,
        )

    def _warn_if_outside(self, video: VideoInput) -> None:
        root = self._state.root
        if not self._warned and not video.path.is_relative_to(root):
            self._warned = True
            logger.warning(
                "%s is outside %s, the folder that videos are named from, so it is called %s, and "
                "others like it; a root (--root) that holds all makes shorter names.",
                *(video.path, root, video.id),
            )

    def _note_hash(self, look: Look, before: Row) -> None:
        """Keep a video whose hash says that its output is good, under its size and time of now."""
        # As it is now: its part may have been written again since the video was looked up.
        row = replace(
            self._state.manifest.find(look.video.id) or before,
            path=as_text(look.video.path),
            size_bytes=look.size_bytes,
            mtime_ns=look.mtime_ns,
            source_sha256=look.sha256,
        )
        self._state.manifest.record(row)
        self._tell(VideoEvent.of(row, kept=True))

    def keep_all(self, items: Iterator[BatchItem | None]) -> None:
        """Keep every result; a few are written at once while the next are computed."""
        writes: deque[_Write] = deque()
        with ThreadPoolExecutor(IO_THREADS) as pool:
            try:
                for item in items:
                    if item is None:  # there is time
                        while writes:
                            self._keep(*writes.popleft())
                        self._state.manifest.commit()
                    else:
                        look = self._under_way.pop(item.index)
                        self.sandbox = item.sandbox or self.sandbox
                        future = None
                        if (result := item.embeddings) is not None:
                            future = pool.submit(self._sink.prepare, look.video.id, result)
                        writes.append((look, item, future))
                    while writes and (_are_many(writes) or _is_ready(writes[0][2])):
                        self._keep(*writes.popleft())
                    if self.stopped:
                        break
            except BaseException:
                with suppress(CCLError):  # what is finished counts, whatever ends the run
                    while writes:
                        self._keep(*writes.popleft())
                raise
            while writes:
                self._keep(*writes.popleft())

    def _keep(self, look: Look, item: BatchItem, future: Future[Prepared] | None) -> None:
        """Let one result count."""
        row, prepared = _row(look, item), None
        try:
            prepared = None if future is None else future.result()
        except CCLError:  # the destination cannot be written: no other result can
            raise
        except Exception as error:
            row = _spoiled(row, error)
        # A failure that may pass takes nothing away from a file that has not changed. Where hashes
        # decide that, only the failure to read a file, which then has none, counts as such.
        passing = STORAGE_CODES if self._options.checksum else TRANSIENT_CODES
        if not (look.output_holds and row.code in passing):
            try:
                self._sink.keep(row, prepared)
            except MemoryError as error:
                row = _spoiled(row, error)
                self._sink.keep(row, None)
        self._tell(VideoEvent.of(row, kept=False))
        if row.state == FAILED and self._options.fail_fast:
            self.stopped = True


def _are_many(writes: Collection[_Write]) -> bool:
    """Whether the results that wait to be written are too many, or too large, for one more."""
    results = [item.embeddings for _, item, _ in writes if item.embeddings is not None]
    waiting_bytes = sum(result.clips.nbytes + result.frames.nbytes for result in results)
    return len(writes) > WRITES_AT_ONCE or waiting_bytes > MOST_WAITING_BYTES


def _is_ready(future: Future[Any] | None) -> bool:
    return future is None or future.done()


def _row(look: Look, item: BatchItem) -> Row:
    """Return what the manifest keeps of a result, without its output."""
    state, code, reason, seconds = FAILED, item.code, item.reason, 0.0
    if item.embeddings is not None:
        provenance = item.embeddings.provenance
        state, seconds = DONE, provenance.duration_seconds
        if item.embeddings.incomplete:
            state = code = INCOMPLETE
            reason = provenance.note
    return Row(
        id=look.video.id,
        path=as_text(look.video.path),
        size_bytes=look.size_bytes,
        mtime_ns=look.mtime_ns,
        # A file that has changed meanwhile may have been decoded with a content without a hash.
        source_sha256="" if look.sha256 and look.changed_since() else look.sha256,
        state=state,
        code=code,
        # It may quote a name that is not UTF-8.
        reason=reason.encode("utf-8", "backslashreplace").decode(),
        output="",
        output_bytes=0,
        output_sha256="",
        duration_seconds=seconds,
        finished=time.time(),
    )


def _spoiled(row: Row, error: Exception) -> Row:
    """Return the row of a video whose result could not be kept."""
    code, reason = code_and_reason(error)
    return replace(row, state=FAILED, code=code, reason=reason, duration_seconds=0.0)


def _settings(
    engine: Engine, sampling: Sampling, options: JobOptions, destination: Destination
) -> dict[str, Any]:
    """Return what must be the same in every run into a destination."""
    from ..network.stored import tensors_sha256

    model, run = engine.model, engine.info
    return {
        "format": "parquet" if destination.is_dataset else options.suffix.lstrip("."),
        "level": options.level or "clip",
        "tensors_sha256": tensors_sha256(model),  # also of weights changed in memory
        "config_fingerprint": model.config.fingerprint(),
        "sampling": str(sampling),
        "backend": f"{run.backend} {run.detail}".strip(),
        "dtype": run.dtype,
    }


def _write_failures(state: JobState) -> Path | None:
    """List every video of this run that is not done."""
    path = state.destination.failures(state.shard)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "path", "state", "code", "reason"])
    count = 0
    for video in state.manifest.open_videos():
        writer.writerow(video)
        count += 1
    if not count:
        remove_file(path)
        return None
    write_atomically(path, text.getvalue(), state.temporary)
    return path
