"""A batch job: every video of some inputs embedded into one destination, exactly once.

    inputs -> not yet done? -> embed_patiently -> sink -> manifest

Run again after whatever happened, it does what is missing, damaged or changed and nothing else.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .._util.files import write_atomically
from ..batch.options import BatchItem, BatchOptions, BatchSource
from ..errors import CCLError, MediaError, code_and_reason
from ..inputs.find import VideoInput
from ..inputs.names import as_text
from ..sampling import Sampling
from ..video.open import MediaLimits, check_path
from .dataset import check_pyarrow
from .manifest import DONE, FAILED, INCOMPLETE, Row
from .options import JobInputs, JobOptions
from .sinks import DatasetSink, FolderSink, Prepared, Sink
from .state import Destination, JobState, open_state, remove_file

if TYPE_CHECKING:
    from ..backends.engine import Engine

__all__ = ["JobInputs", "JobOptions", "JobSummary", "VideoEvent", "run_job"]

logger = logging.getLogger(__name__)

STORAGE_CODES = frozenset({"unreadable", "not_found"})
TRANSIENT_CODES = frozenset({"crashed", "timeout", *STORAGE_CODES})
"""Failures that may be the machine's: tried again in the next run."""

IO_THREADS = 4
AHEAD_VIDEOS = 64
WRITES_AT_ONCE = 8
MOST_WAITING_BYTES = 256 << 20
"""Vectors that may wait to be written before the next result is looked at."""


@dataclass(frozen=True)
class VideoEvent:
    """What became of one video.

    Args:
        id: Its name.
        path: The file.
        state: "done", "incomplete" (embedded as far as it could be read) or "failed".
        code: Reason code of what is not done.
        reason: The same in words.
        duration_seconds: Of the video, if it was embedded now.
        kept: True if an earlier run had done it.
    """

    id: str
    path: str
    state: str
    code: str
    reason: str
    duration_seconds: float
    kept: bool


@dataclass
class JobSummary:
    """What a run did.

    Args:
        destination: Where the embeddings are.
        counts: Videos by state.
        codes: Videos that are not done, by reason code.
        kept: Videos that an earlier run had done, in whatever state; part of the counts.
        video_seconds: Length of the videos embedded now.
        elapsed_seconds: Of the run.
        failures: File that lists which of these videos are not done, or None.
        stopped: True if it ended early, by fail_fast.
    """

    destination: Path
    counts: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    video_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    failures: Path | None = None
    stopped: bool = False

    @property
    def all_done(self) -> bool:
        """True if every video was embedded whole."""
        return not self.codes and not self.stopped

    def add(self, event: VideoEvent) -> None:
        """Count a video."""
        self.counts[event.state] += 1
        self.kept += event.kept
        self.video_seconds += event.duration_seconds
        if event.code:
            self.codes[event.code] += 1


def run_job(
    inputs: JobInputs,
    out: str | Path,
    engines: list[Engine],
    sampling: Sampling,
    options: JobOptions | None = None,
    batch: BatchOptions | None = None,
    listen: Callable[[VideoEvent], None] = lambda event: None,
) -> JobSummary:
    """Embed every video of the inputs into a destination, or go on where an earlier run ended.

    Args:
        inputs: Which videos.
        out: A folder, or the name of a dataset, which ends in .parquet; made if missing.
        engines: Of one model; see :func:`ccl_hub.batch.engines_for`.
        sampling: Which clips.
        options: How results are kept.
        batch: How the batch is run.
        listen: Called for each video as it is done, in this thread.

    Returns:
        What was done; videos that failed are in there and in ``failures.csv``, never an error.

    Raises:
        InputError: An argument is not allowed, an input gives no video, or the destination holds
            embeddings made otherwise.
        OutputError: The destination cannot be written; what was finished is intact.
    """
    from ..batch.run import embed_patiently

    own, destination = options or JobOptions(), Destination.at(out)
    if destination.is_dataset:
        check_pyarrow()  # before anything there is touched
    began = time.monotonic()
    batch = replace(batch or BatchOptions(), frames=own.has_frames(destination))
    inputs.choose_root(None)  # before anything is made
    settings = _settings(engines[0], sampling, own, destination)
    summary = JobSummary(destination.path)
    with open_state(destination, own.shard, settings, own.overwrite, inputs.choose_root) as state:

        def tell(event: VideoEvent) -> None:
            summary.add(event)
            if event.code:
                state.manifest.note_open(
                    event.id, event.path, event.state, event.code, event.reason
                )
            listen(event)

        sink: Sink
        if destination.is_dataset:
            sink = DatasetSink(state, own.level or "clip")
        else:
            sink = FolderSink(state, own.suffix, own.level)
        run = _Run(state, sink, own, batch.limits or MediaLimits(), tell)
        sources = run.todo(inputs.videos(state.root, own.shard, destination))
        with closing(embed_patiently(sources, engines, sampling, batch)) as items:
            run.keep_all(items)
        sink.finish()
        summary.failures = _write_failures(state)
    summary.stopped = run.stopped
    summary.elapsed_seconds = time.monotonic() - began
    return summary


@dataclass
class _Work:
    """A video on its way.

    Args:
        video: Its name and place.
        size_bytes: Of the file; -1 if there is none.
        mtime_ns: Likewise.
        before: What was known of it.
        holds: Its output is intact, and the file as it was or gone.
        only_hash: It is only hashed, for the first time.
    """

    video: VideoInput
    size_bytes: int
    mtime_ns: int
    before: Row | None
    holds: bool = False
    only_hash: bool = False


_Write: TypeAlias = tuple[_Work, BatchItem, Future[Prepared] | None]
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
        self._under_way: dict[int, _Work] = {}
        self.stopped = self._warned = False

    def todo(self, videos: Iterator[VideoInput]) -> Iterator[BatchSource | None]:
        """Yield what must be embedded; tell of what need not be, and yield None."""
        number, checksum = 0, self._options.checksum
        with ThreadPoolExecutor(IO_THREADS) as pool:
            for work, intact in _looked_ahead(self._look(video, pool) for video in videos):
                self._warn_if_outside(work.video)
                before = work.before
                changed = before is None or _is_changed(work, before)
                work.holds = intact and (not changed or work.size_bytes < 0)
                if before is not None and self._is_kept(work, before, intact):
                    here = replace(before, path=as_text(work.video.path))
                    self._tell(_event(here, kept=True))
                    yield None
                    continue
                refused = self._refused(work, number)
                if refused is not None:
                    self._keep(work, refused, None)
                    if self.stopped:
                        return
                    yield None
                    continue
                known = ""
                again = self._options.retry_failed and before is not None and before.code
                if checksum and before is not None and intact and not again:
                    known = before.source_sha256
                    work.only_hash = not known and not changed
                self._under_way[number] = work
                number += 1
                yield BatchSource(work.video.path, checksum, known, work.only_hash)

    def _warn_if_outside(self, video: VideoInput) -> None:
        root = self._state.root
        if not self._warned and not video.path.is_relative_to(root):
            self._warned = True
            logger.warning(
                "%s is outside %s, the folder that videos are named from, so it is called %s, and "
                "others like it; a root (--root) that holds all makes shorter names.",
                *(video.path, root, video.id),
            )

    def _look(
        self, video: VideoInput, pool: ThreadPoolExecutor
    ) -> tuple[_Work, Future[bool] | None]:
        """Find out what is known of a video; its output is looked at in a thread."""
        before = self._state.find(video.id)
        work = _Work(video, *_size_and_time(video.path), before)
        if before is None or before.state == FAILED:
            return work, None
        return work, pool.submit(self._sink.intact, before)

    def _is_kept(self, work: _Work, before: Row, intact: bool) -> bool:
        """Whether what is known of a video still holds."""
        options = self._options
        changed = _is_changed(work, before)
        if before.state == FAILED:
            retry = options.retry_failed or before.code in TRANSIENT_CODES
            return not changed and not retry and not options.checksum
        if work.size_bytes < 0 and intact:
            return True  # the file is gone or out of reach; what was made of it stays
        if before.state == INCOMPLETE and options.retry_failed:
            return False
        return intact and not changed and not options.checksum

    def _refused(self, work: _Work, number: int) -> BatchItem | None:
        """Return the failure of a file that is missing or holds nothing.

        A decoding process would say the same, a thousand times as slowly: lists go stale.
        """
        if work.size_bytes > 0:
            return None
        try:
            check_path(work.video.path, self._limits)
        except MediaError as error:
            return BatchItem(number, work.video.path, None, error.code, error.reason)
        return None

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
                        work = self._under_way.pop(item.index)
                        future = None
                        if (made := item.embeddings) is not None:
                            future = pool.submit(self._sink.prepare, work.video.id, made)
                        writes.append((work, item, future))
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

    def _keep(self, work: _Work, item: BatchItem, future: Future[Prepared] | None) -> None:
        """Let one result count."""
        if item.code == "same" and work.before is not None:
            # As it is now: its part may have been written anew since the video was looked up.
            now = self._state.manifest.find(work.video.id) or work.before
            row = replace(
                now,
                path=as_text(work.video.path),
                size_bytes=work.size_bytes,
                mtime_ns=work.mtime_ns,
                source_sha256=item.source_sha256,
            )
            own = work.size_bytes, work.mtime_ns
            # It may have changed since it was looked at: then its hash says nothing of the output.
            if not work.only_hash or _size_and_time(work.video.path) == own:
                self._state.manifest.record(row)
            self._tell(_event(row, kept=True))
            return
        row, prepared = _row(work, item), None
        try:
            prepared = None if future is None else future.result()
        except CCLError:  # the destination cannot be written: no other result can
            raise
        except Exception as error:
            row = _spoiled(row, error)
        # A failure that may pass takes nothing away from a file that has not changed; if hashes
        # tell, only one of which none could be taken counts as such.
        passing = STORAGE_CODES if self._options.checksum else TRANSIENT_CODES
        if not (work.holds and row.code in passing):
            try:
                self._sink.keep(row, prepared)
            except MemoryError as error:
                row = _spoiled(row, error)
                self._sink.keep(row, None)
        self._tell(_event(row, kept=False))
        if row.state == FAILED and self._options.fail_fast:
            self.stopped = True


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return size and time of change, in bytes and as SQLite takes it in ns; -1 of no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return -1, 0
    return found.st_size, min(max(found.st_mtime_ns, -(1 << 63)), (1 << 63) - 1)


def _is_changed(work: _Work, before: Row) -> bool:
    return (before.size_bytes, before.mtime_ns) != (work.size_bytes, work.mtime_ns)


def _looked_ahead(
    looks: Iterator[tuple[_Work, Future[bool] | None]],
) -> Iterator[tuple[_Work, bool]]:
    """Yield in order, with some looks under way at once."""
    waiting: deque[tuple[_Work, Future[bool] | None]] = deque()
    for look in looks:
        waiting.append(look)
        while waiting and (len(waiting) > AHEAD_VIDEOS or _is_ready(waiting[0][1])):
            work, future = waiting.popleft()
            yield work, future is not None and future.result()
    for work, future in waiting:
        yield work, future is not None and future.result()


def _are_many(writes: Collection[_Write]) -> bool:
    """Whether results that wait to be written take too much to take one more."""
    made = [item.embeddings for _, item, _ in writes if item.embeddings is not None]
    held = sum(one.clips.nbytes + one.frames.nbytes for one in made)
    return len(writes) > WRITES_AT_ONCE or held > MOST_WAITING_BYTES


def _is_ready(future: Future[Any] | None) -> bool:
    return future is None or future.done()


def _row(work: _Work, item: BatchItem) -> Row:
    """What the manifest keeps of a result, without its output."""
    state, code, reason, seconds = FAILED, item.code, item.reason, 0.0
    if item.embeddings is not None:
        made = item.embeddings.provenance
        state, seconds = DONE, made.duration_seconds
        if item.embeddings.incomplete:
            state = code = INCOMPLETE
            reason = made.note
    return Row(
        id=work.video.id,
        path=as_text(work.video.path),
        size_bytes=work.size_bytes,
        mtime_ns=work.mtime_ns,
        source_sha256=item.source_sha256,
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


def _event(row: Row, kept: bool) -> VideoEvent:
    seconds = 0.0 if kept else row.duration_seconds
    return VideoEvent(row.id, row.path, row.state, row.code, row.reason, seconds, kept)


def _settings(
    engine: Engine, sampling: Sampling, options: JobOptions, destination: Destination
) -> dict[str, Any]:
    """Return what must be the same in every run into a destination."""
    from ..backends.int8_cache import tensors_sha256

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
    for one in state.manifest.open_videos():
        writer.writerow(one)
        count += 1
    if not count:
        remove_file(path)
        return None
    data = text.getvalue().encode()
    write_atomically(path, lambda file: file.write(data), state.temporary)
    return path
