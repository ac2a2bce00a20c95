"""A batch job: every video of some inputs embedded into one destination, exactly once.

    inputs -> not yet done? -> embed_batch -> sink -> manifest

Run again after whatever happened, it does what is missing, damaged or changed and nothing else.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batch_options import BatchItem, BatchOptions, BatchSource
from .dataset import check_pyarrow
from .errors import InputError
from .files import write_atomically
from .inputs import VideoInput, common_root, find_videos
from .job_state import Destination, JobState, Shard, open_state, read_settings, remove_file
from .manifest import DONE, FAILED, INCOMPLETE, Row
from .names import as_text
from .sampling import Sampling
from .sinks import DatasetSink, FolderSink, Prepared, Sink
from .writers import LEVELS, SUFFIXES

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["JobInputs", "JobOptions", "JobSummary", "VideoEvent", "job_root", "run_job"]

logger = logging.getLogger(__name__)

TRANSIENT_CODES = frozenset({"crashed", "timeout", "unreadable", "not_found"})
"""Failures that may be the machine's: tried again in the next run."""

IO_THREADS = 4
AHEAD_VIDEOS = 64
WRITES_AT_ONCE = 8


@dataclass(frozen=True)
class JobInputs:
    """Which videos; see :func:`ccl_hub.inputs.find_videos`.

    Args:
        inputs: Files, folders and patterns.
        lists: Files that list paths.
        root: Folder from which videos are named; None for what earlier runs took, or the deepest
            common folder.
        extensions: Of the files taken from folders; None for those of video.
    """

    inputs: Sequence[str | Path] = ()
    lists: Sequence[Path] = ()
    root: Path | None = None
    extensions: Collection[str] | None = None

    def videos(self, root: Path, shard: Shard) -> Iterator[VideoInput]:
        """Yield the videos of a shard."""
        for video in find_videos(
            self.inputs, lists=self.lists, root=root, extensions=self.extensions
        ):
            if shard.takes(video.id):
                yield video


@dataclass(frozen=True)
class JobOptions:
    """How results are kept and what is done anew.

    Args:
        suffix: Of the files in a folder: ".npy", ".npz" or ".safetensors".
        level: "clip", "frame" or "video", of a .npy or a dataset; None for "clip". Other files
            hold every level.
        shard: Which share of the videos.
        checksum: Know a source by its sha256 instead of its size and time of change; what failed
            is tried again.
        retry_failed: Try every failed or incomplete video again; without it only those whose
            failure may have been the machine's, or that have changed.
        fail_fast: Stop at the first video that fails.
        overwrite: Remove what was made with other settings instead of refusing.
    """

    suffix: str = ".npz"
    level: str | None = None
    shard: Shard = field(default_factory=Shard)
    checksum: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.suffix not in SUFFIXES:
            raise InputError(
                f"format is {self.suffix.lstrip('.')!r}; allowed: "
                f"{', '.join(suffix[1:] for suffix in SUFFIXES)}."
            )
        if self.level is not None and self.level not in LEVELS:
            raise InputError(f"level is {self.level!r}; allowed: {', '.join(LEVELS)}.")

    def has_frames(self, destination: Destination) -> bool:
        """Whether the vectors of frames are kept.

        Raises:
            InputError: A level is asked for, but the files hold every one.
        """
        if destination.is_dataset:
            return self.level == "frame"
        if self.suffix == ".npy":
            return self.level == "frame"
        if self.level is not None:
            raise InputError(
                f"level is {self.level!r} but {self.suffix} files hold every level; leave level "
                "out, or choose the format npy or a .parquet dataset."
            )
        return True


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
        failures: File that lists what is not done, or None.
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
    from .batch import embed_batch

    own, destination = options or JobOptions(), Destination.at(out)
    if destination.is_dataset:
        check_pyarrow()  # before anything there is touched
    began = time.monotonic()
    batch = replace(batch or BatchOptions(), frames=own.has_frames(destination))
    root = job_root(inputs, destination)
    settings = {**_settings(engines[0], sampling, own, destination), "root": str(root)}
    summary = JobSummary(destination.path)

    def tell(event: VideoEvent) -> None:
        summary.add(event)
        listen(event)

    with open_state(destination, own.shard, settings, own.overwrite) as state:
        sink: Sink
        if destination.is_dataset:
            sink = DatasetSink(state, own.level or "clip")
        else:
            sink = FolderSink(state, own.suffix, own.level)
        run = _Run(state, sink, own, tell)
        sources = run.todo(inputs.videos(root, own.shard))
        with closing(embed_batch(sources, engines, sampling, batch)) as items:
            run.keep_all(items)
        sink.finish()
        summary.failures = _write_failures(state)
    summary.stopped = run.stopped
    summary.elapsed_seconds = time.monotonic() - began
    return summary


@dataclass
class _Work:
    """A video on its way."""

    video: VideoInput
    size_bytes: int
    mtime_ns: int
    before: Row | None


class _Run:
    """The loop of one run."""

    def __init__(
        self,
        state: JobState,
        sink: Sink,
        options: JobOptions,
        tell: Callable[[VideoEvent], None],
    ) -> None:
        self._state, self._sink, self._options, self._tell = state, sink, options, tell
        self._under_way: dict[int, _Work] = {}
        self.stopped = False

    def todo(self, videos: Iterator[VideoInput]) -> Iterator[BatchSource]:
        """Yield what must be embedded; tell of what need not be."""
        number = 0
        with ThreadPoolExecutor(IO_THREADS) as pool:
            for work, intact in _looked_ahead(self._look(video, pool) for video in videos):
                before = work.before
                if self._is_kept(work, intact):
                    self._tell(_event(before, kept=True))  # type: ignore[arg-type]
                    continue
                known = ""
                again = self._options.retry_failed and before is not None and before.code
                if self._options.checksum and before is not None and intact and not again:
                    known = before.source_sha256
                self._under_way[number] = work
                number += 1
                yield BatchSource(work.video.path, self._options.checksum, known)

    def _look(
        self, video: VideoInput, pool: ThreadPoolExecutor
    ) -> tuple[_Work, Future[bool] | None]:
        """Find out what is known of a video; its output is looked at in a thread."""
        before = self._state.find(video.id)
        try:
            found = video.path.stat()
            work = _Work(video, found.st_size, found.st_mtime_ns, before)
        except (OSError, ValueError):
            work = _Work(video, -1, 0, before)
        if before is None or before.state == FAILED:
            return work, None
        return work, pool.submit(self._sink.intact, before)

    def _is_kept(self, work: _Work, intact: bool) -> bool:
        """Whether what is known of a video still holds."""
        before, options = work.before, self._options
        if before is None:
            return False
        changed = (before.size_bytes, before.mtime_ns) != (work.size_bytes, work.mtime_ns)
        if before.state == FAILED:
            retry = options.retry_failed or before.code in TRANSIENT_CODES
            return not changed and not retry and not options.checksum
        if work.size_bytes < 0 and intact:
            return True  # the file is gone or out of reach; what was made of it stays
        if before.state == INCOMPLETE and options.retry_failed:
            return False
        return intact and not changed and not options.checksum

    def keep_all(self, items: Iterator[BatchItem]) -> None:
        """Keep every result; a few are written at once while the next are computed."""
        writes: deque[tuple[_Work, BatchItem, Future[Prepared] | None]] = deque()
        with ThreadPoolExecutor(IO_THREADS) as pool:
            try:
                for item in items:
                    work = self._under_way.pop(item.index)
                    future = None
                    if item.embeddings is not None:
                        future = pool.submit(self._sink.prepare, work.video.id, item.embeddings)
                    writes.append((work, item, future))
                    while writes and (len(writes) > WRITES_AT_ONCE or _is_ready(writes[0][2])):
                        self._keep(*writes.popleft())
                    if self.stopped:
                        break
            except KeyboardInterrupt:
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
            row = replace(now, size_bytes=work.size_bytes, mtime_ns=work.mtime_ns)
            self._state.manifest.record(row)
            self._tell(_event(row, kept=True))
            return
        row = _row(work, item)
        prepared = None if future is None else future.result()
        self._sink.keep(row, prepared)
        self._tell(_event(row, kept=False))
        if row.state == FAILED and self._options.fail_fast:
            self.stopped = True


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


def _event(row: Row, kept: bool) -> VideoEvent:
    seconds = 0.0 if kept else row.duration_seconds
    return VideoEvent(row.id, row.path, row.state, row.code, row.reason, seconds, kept)


def job_root(inputs: JobInputs, destination: Destination) -> Path:
    """Return the folder from which videos are named; the same in every run.

    It is absolute: a relative one would change its meaning with the current folder.
    """
    if inputs.root is not None:
        return Path(os.path.abspath(inputs.root))  # noqa: PTH100 - keeps symbolic links
    found = read_settings(destination)
    if found is not None and isinstance(found.get("root"), str):
        return Path(found["root"])
    return common_root(inputs.inputs, inputs.lists)


def _settings(
    engine: Engine, sampling: Sampling, options: JobOptions, destination: Destination
) -> dict[str, Any]:
    """Return what must be the same in every run into a destination."""
    from .int8_model import tensors_sha256

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
    """List every video of the shard that is not done."""
    path = state.destination.failures(state.shard)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "path", "state", "code", "reason"])
    count = 0
    for row in state.manifest.rows(FAILED, INCOMPLETE):
        writer.writerow([row.id, row.path, row.state, row.code, row.reason])
        count += 1
    if not count:
        remove_file(path)
        return None
    data = text.getvalue().encode()
    write_atomically(path, lambda file: file.write(data), state.temporary)
    return path
