"""Many videos in, embeddings out, in bounded memory and whatever the videos are.

    paths -> decoding processes -> shared memory -> lanes (threads with the network) -> results

Decoding and computing overlap. A lane takes some blocks of frames, of one video or of several,
runs the network on them, and :class:`ccl_hub.dense.WindowAssembler` makes clips of them. On a CPU
there is a lane for each core, so that no thread ever waits for another; on GPUs two for each
device, one that computes while the other fetches.

Which frames are computed together depends on the video alone where the device takes one block at
a time, as CPUs do: results are then the same bits in every run.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import embed, machine
from .backends import TORCH_BACKENDS, make_engine
from .decode_pool import Block, DecodeEvents, DecodePool
from .decode_worker import BLOCK_FRAMES, DecodeSettings, Job
from .dense import ClipVectors, WindowAssembler
from .embeddings import Embeddings
from .engine import Engine, FrameMaps, check_finite
from .errors import CCLError, InputError, ModelError
from .model import CCLModel
from .sampling import ClipPlan, Sampling
from .video import MediaLimits, SourceFacts

__all__ = ["BatchItem", "BatchOptions", "BatchSource", "embed_batch", "embed_many", "engines_for"]

DEFAULT_DEADLINE_SECONDS = 600.0
MAX_LANES = 16
MAX_WORKERS = 64
LANES_PER_GPU = 2
MAX_DEVICES = 64
MOST_WORKER_BYTES = 4 << 30
MOST_WAITING = 16
"""Blocks of a video, 5 MB each, that lanes may compute before those in front are assembled."""

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run; nothing here changes an embedding beyond rounding.

    Args:
        workers: Decoding processes; None for one a core.
        threads: Threads of the network on a CPU; None for one a core.
        deadline_seconds: Longest that decoding one video may take.
        memory_bytes: Memory that a decoding process may take; None for a fair share, 4 GiB at
            most. Held on Linux only.
        limits: Largest media accepted.
        frames: Also give the vectors of frames; without them long videos with dense windows take
            little memory.
        batch_clips: As many frames as so many clips have go through the network at once, but 16
            at least; None for what suits the device.
    """

    workers: int | None = None
    threads: int | None = None
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
    memory_bytes: int | None = None
    limits: MediaLimits | None = None
    frames: bool = True
    batch_clips: int | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "memory_bytes", "batch_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; allowed: a whole number >= 1, or None.")
        if not 0 < self.deadline_seconds < float("inf"):
            raise InputError(
                f"deadline_seconds is {self.deadline_seconds}; allowed: more than 0 seconds."
            )

    @property
    def worker_count(self) -> int:
        """Decoding processes on this machine."""
        return self.workers or min(machine.cpu_count(), MAX_WORKERS)

    @property
    def thread_count(self) -> int:
        """Threads of the network on this machine's CPU."""
        return self.threads or machine.cpu_count()

    @property
    def worker_bytes(self) -> int | None:
        """Memory of a decoding process on this machine."""
        total = machine.memory_bytes()
        if self.memory_bytes is not None or total is None:
            return self.memory_bytes
        return max(1 << 29, min(MOST_WORKER_BYTES, total // 2 // self.worker_count))


@dataclass(frozen=True)
class BatchSource:
    """One video of a batch.

    Args:
        path: The file.
        checksum: Hash the file, and leave it alone if its hash is ``known_sha256``.
        known_sha256: Its hash when it was embedded before, or "".
    """

    path: str | Path
    checksum: bool = False
    known_sha256: str = ""


@dataclass(frozen=True, eq=False)
class BatchItem:
    """What became of one video.

    Args:
        index: Its position among the paths, from 0; results come as they are ready.
        path: As it was given.
        embeddings: The result; None if it failed.
        code: "" if there is one; else why not, one short word that stays the same: the codes of
            :class:`ccl_hub.errors.MediaError`, "crashed", "timeout", "unreadable", "internal"
            (an error that nobody expected), "not_finite", or "same" for a file that need not be
            embedded again.
        reason: The same in words.
        source_sha256: Hash of the file, if it was asked for.
    """

    index: int
    path: str | Path
    embeddings: Embeddings | None
    code: str = ""
    reason: str = ""
    source_sha256: str = ""


def embed_many(
    paths: Iterable[str | Path],
    model: str | Path | CCLModel = "ccl_r18_mini",
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    backend: str = "torch",
    options: BatchOptions | None = None,
) -> Iterator[BatchItem]:
    """Embed any number of videos, as an iterator in bounded memory.

    A video that cannot be embedded is an item with a reason; it never ends the iteration, also
    if it crashes or hangs the decoder.

    Args:
        paths: Read as they are needed; may be a generator of millions.
        model: Name, folder or Hub id, or a loaded model in eval mode.
        clips: Clips spread evenly over each video (default 10).
        every_seconds: Instead of ``clips``: a clip starting every so many seconds.
        revision: Of a Hub id.
        device: "auto" and "cuda" take every visible GPU; a loaded model stays where it is.
        dtype: "float32", "bfloat16" or "float16".
        backend: See :func:`ccl_hub.backends.make_engine`.
        options: How the batch is run.

    Yields:
        A :class:`BatchItem` for each path, in the order in which they are ready.

    Raises:
        InputError: An argument is not allowed, or the device has too little memory.
        ModelError: The model cannot be had.

    Example:
        >>> from ccl_hub.golden import golden_clip
        >>> for item in embed_many([golden_clip(), "no.mp4"], clips=2):
        ...     print(item.index, item.code, item.embeddings and item.embeddings.clips.shape)
        1 not_found None
        0  (2, 512)
    """
    if isinstance(paths, str | Path):
        raise InputError(f"paths is {str(paths)!r}; allowed: several paths; put one into a list.")
    wanted, own = Sampling(clips, every_seconds), options or BatchOptions()
    engines = engines_for(model, revision, device, dtype, backend, own)
    return embed_batch((BatchSource(path) for path in paths), engines, wanted, own)


def engines_for(
    model: str | Path | CCLModel,
    revision: str | None,
    device: str,
    dtype: str | torch.dtype | None,
    backend: str,
    options: BatchOptions,
    most: int | None = None,
    calibration: Sequence[str | Path] | None = None,
) -> list[Engine]:
    """Load a model once, and put it on every device that is to be used; see :func:`embed_many`.

    Args:
        model: See :func:`embed_many`.
        revision: Likewise.
        device: Likewise.
        dtype: Likewise.
        backend: Likewise.
        options: Gives the threads.
        most: Devices to use at most.
        calibration: Videos for openvino-int8; see :func:`ccl_hub.backends.make_engine`.
    """
    of_torch = backend in TORCH_BACKENDS
    threads = 0 if of_torch else options.thread_count  # torch's are set lane by lane
    if isinstance(model, CCLModel):
        return [make_engine(model, backend, threads, calibration)]
    if not of_torch and device == "auto":
        device = "cpu"
    net = CCLModel.from_pretrained(model, revision, device=device, dtype=dtype)
    engines = [make_engine(net, backend, threads, calibration)]
    if device in ("auto", "cuda") and net.device.type == "cuda":
        for number in range(1, min(torch.cuda.device_count(), most or MAX_DEVICES)):
            engines.append(make_engine(copy.deepcopy(net).to(f"cuda:{number}"), backend))
    return engines


def embed_batch(
    sources: Iterable[BatchSource],
    engines: list[Engine],
    sampling: Sampling,
    options: BatchOptions,
) -> Generator[BatchItem, None, None]:
    """Embed videos with engines already made; see :func:`embed_many`."""
    with closing(_Pipeline(engines, sampling, options)) as pipeline:
        waiting = iter(sources)
        outstanding, index, more = 0, 0, True
        while True:
            while more and outstanding < pipeline.most_outstanding:
                source = next(waiting, None)
                if source is None:
                    more = False
                    break
                pipeline.submit(index, source)
                index, outstanding = index + 1, outstanding + 1
            if not outstanding:
                return
            yield pipeline.result()
            outstanding -= 1


class _Attempt:
    """The windows of a video, as far as they are made; some videos take a second attempt."""

    def __init__(self, plan: ClipPlan, shift: Tensor, with_frames: bool) -> None:
        self.plan, self.windows = plan, WindowAssembler(plan.indices, shift)
        self.given = self.next = 0  # blocks handed to lanes, blocks assembled
        self.waiting: dict[int, FrameMaps] = {}
        self.assembling = False
        self.vectors: ClipVectors | None = None
        self._with_frames, self._kept = with_frames, 0

    def add(self, maps: FrameMaps) -> None:
        """Keep the windows that the next block makes whole.

        In arrays for all of them: many small ones, made between those that come and go, would
        leave the memory in pieces.
        """
        part = self.windows.add(maps)
        if not len(part.clips):
            return
        if self.vectors is None:
            count, (frames, dim) = len(self.plan.indices), part.frames.shape[1:]
            shapes = (count, dim), (count, frames if self._with_frames else 0, dim)
            arrays = (np.empty(shape, np.float32) for shape in shapes)
            self.vectors = ClipVectors(*arrays)
        own = slice(self._kept, self._kept + len(part.clips))
        self.vectors.clips[own] = part.clips
        if self._with_frames:
            self.vectors.frames[own] = part.frames
        self._kept = own.stop


class _Video:
    """One video on its way through the lanes."""

    def __init__(self, index: int, source: BatchSource, device: _Device) -> None:
        self.index, self.source, self.device = index, source, device
        self.changed = threading.Condition()
        self.over = False
        self.facts: SourceFacts | None = None
        self.attempt: _Attempt | None = None

    def wants(self, attempt: _Attempt) -> bool:
        """Whether blocks of an attempt are still of use."""
        return not self.over and attempt is self.attempt


class _Entry(NamedTuple):
    """A block of frames that waits for a lane, the number-th of its video."""

    video: _Video
    attempt: _Attempt
    number: int
    block: Block


class _Device:
    """An engine and the blocks that wait for it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.blocks: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self.videos = 0

    def drop(self) -> None:
        """Forget the blocks that nobody took, and with them the memory that they are in."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.blocks.get_nowait()


class _Pipeline:
    """The decoding pool, the lanes, and the videos between them."""

    def __init__(self, engines: list[Engine], sampling: Sampling, options: BatchOptions) -> None:
        self._sampling, self._options = sampling, options
        self._devices = [_Device(engine) for engine in engines]
        self._results: queue.SimpleQueue[BatchItem | BaseException] = queue.SimpleQueue()
        self._videos: dict[int, _Video] = {}
        self._closing = self._closed = False
        lanes = [
            (device, threads)
            for device in self._devices
            for threads in _lane_threads(device.engine, options)
        ]
        self.most_outstanding = 2 * options.worker_count + 2 * len(lanes)
        self._threads_before = torch.get_num_threads()
        self._lanes = [
            threading.Thread(target=self._lane, args=lane, name="ccl-lane", daemon=True)
            for lane in lanes
        ]
        settings = DecodeSettings(
            preprocessing=engines[0].model.preprocessing,
            sampling=sampling,
            limits=options.limits or MediaLimits(),
            memory_bytes=options.worker_bytes,
        )
        events = DecodeEvents(
            plan=self._begin,
            frames=self._frames,
            end=self._end,
            failed=self._fail,
            same=lambda number: self._fail(number, "same", "the file has the hash it had"),
            broken=self._results.put,
        )
        self._pool = DecodePool(settings, events, options.worker_count, options.deadline_seconds)
        for lane in self._lanes:
            lane.start()
        atexit.register(self.close)  # torch aborts if the interpreter ends under its threads

    def submit(self, index: int, source: BatchSource) -> None:
        """Add a video."""
        device = min(self._devices, key=lambda device: device.videos)
        device.videos += 1
        self._videos[index] = _Video(index, source, device)
        path = Path(os.path.abspath(source.path))  # noqa: PTH100 - keeps symbolic links
        self._pool.submit(Job(index, path, source.checksum, source.known_sha256))

    def result(self) -> BatchItem:
        """Wait for the next result."""
        found = self._results.get()
        if isinstance(found, BatchItem):
            return found
        try:
            raise found
        finally:
            del found  # its traceback knows this frame, and all that the batch holds

    def close(self) -> None:
        """End processes and threads."""
        if not self._closing:
            self._closing = True
            self._pool.stop()
            for device in self._devices:
                device.blocks.put(None)
        threads = [self._pool.thread, *self._lanes]
        # The garbage collector may close an iterator that nobody holds in a thread of its own.
        if threading.current_thread() not in threads:
            for thread in threads:
                thread.join()
            self._videos.clear()
            for device in self._devices:
                device.drop()
        if not self._closed:
            self._closed = True
            torch.set_num_threads(self._threads_before)
            atexit.unregister(self.close)

    # Called by the decoding pool ---------------------------------------------------------------

    def _begin(self, number: int, plan: ClipPlan) -> None:
        """Start a video, or start it anew."""
        video = self._videos[number]
        attempt = _Attempt(plan, video.device.engine.shift, self._options.frames)
        with video.changed:
            video.attempt, video.facts = attempt, None

    def _frames(self, number: int, block: Block) -> None:
        video = self._videos[number]
        attempt = video.attempt
        if attempt is None:  # a worker gives the plan first
            raise CCLError(f"{video.source.path}: its frames came before its plan.")
        video.device.blocks.put(_Entry(video, attempt, attempt.given, block))
        attempt.given += 1

    def _end(self, number: int, facts: SourceFacts) -> None:
        video = self._videos[number]
        with video.changed:
            video.facts = facts
        self._finish_if_whole(video)

    def _fail(self, number: int, code: str, reason: str) -> None:
        video = self._videos[number]
        with video.changed:
            if video.over:
                return
            video.over = True
        self._give(video, BatchItem(video.index, video.source.path, None, code, reason))

    # The lanes ---------------------------------------------------------------------------------

    def _lane(self, device: _Device, threads: int) -> None:
        """Run the network on blocks until there are none to come."""
        torch.set_num_threads(threads)
        most = device.engine.batch_frames
        if self._options.batch_clips is not None:
            most = self._options.batch_clips * device.engine.model.preprocessing.clip_frames
        try:
            while (first := device.blocks.get()) is not None:
                batch, count = [first], len(first.block.frames)
                while count + BLOCK_FRAMES <= most:
                    try:
                        more = device.blocks.get_nowait()
                    except queue.Empty:
                        break
                    if more is None:
                        device.blocks.put(None)
                        break
                    batch.append(more)
                    count += len(more.block.frames)
                self._compute(device.engine, batch)
            device.blocks.put(None)  # for the next lane
        except BaseException as error:
            self._results.put(error)

    def _compute(self, engine: Engine, batch: list[_Entry]) -> None:
        """Compute blocks together, and hand each to its video."""
        wanted = [entry for entry in batch if entry.video.wants(entry.attempt)]
        frames = [entry.block.frames.copy() for entry in wanted]
        for entry in batch:
            entry.block.release()
        if self._closing or not frames:
            return
        maps = engine(np.concatenate(frames) if len(frames) > 1 else frames[0])  # (n,S,S,3)
        begin = 0
        for entry, own in zip(wanted, frames, strict=True):
            end = begin + len(own)
            self._assemble(entry, FrameMaps(*(tensor[begin:end] for tensor in maps)))
            begin = end

    def _assemble(self, entry: _Entry, maps: FrameMaps) -> None:
        """Add a block to its video when its turn comes: lanes may overtake each other."""
        video, attempt = entry.video, entry.attempt
        with video.changed:
            # The blocks before it are in lanes, never behind it: they do not wait for this one.
            while video.wants(attempt) and entry.number >= attempt.next + MOST_WAITING:
                if self._closing:
                    return
                video.changed.wait(_POLL_SECONDS)
            if not video.wants(attempt):
                return
            attempt.waiting[entry.number] = maps
            if attempt.assembling:
                return  # the lane that is at it takes this one too
            attempt.assembling = True
        while True:
            with video.changed:
                ready = attempt.waiting.pop(attempt.next, None)
                if ready is None or not video.wants(attempt):
                    attempt.assembling = False
                    break
                attempt.next += 1
                video.changed.notify_all()
            attempt.add(ready)
        self._finish_if_whole(video)

    def _finish_if_whole(self, video: _Video) -> None:
        """Give the result once everything is there."""
        with video.changed:
            attempt, facts = video.attempt, video.facts
            if video.over or facts is None or attempt is None or attempt.assembling:
                return
            if not attempt.windows.finished:
                return
            video.over = True
        self._give(video, self._item(video, attempt, facts))

    def _item(self, video: _Video, attempt: _Attempt, facts: SourceFacts) -> BatchItem:
        """Make the result of a whole video."""
        engine, plan, path = video.device.engine, attempt.plan, video.source.path
        provenance = embed.make_provenance(engine, self._sampling, path, facts)
        if not self._options.frames:  # copies: views would keep the whole
            none = plan.frame_seconds[:, :0].copy(), plan.indices[:, :0].copy()
            plan = replace(plan, frame_seconds=none[0], indices=none[1])
        parts = [] if attempt.vectors is None else [attempt.vectors]
        result = embed.gather(parts, plan, lambda: provenance)
        attempt.vectors = None
        try:
            check_finite(engine, result.clips, result.frames)
        except ModelError as error:
            return BatchItem(video.index, path, None, "not_finite", str(error))
        return BatchItem(video.index, path, result, source_sha256=facts.sha256)

    def _give(self, video: _Video, item: BatchItem) -> None:
        del self._videos[video.index]
        video.device.videos -= 1
        self._results.put(item)


def _lane_threads(engine: Engine, options: BatchOptions) -> list[int]:
    """Threads of each lane of an engine."""
    if engine.info.device != "cpu":
        return [1] * LANES_PER_GPU
    cores = options.thread_count
    # One call of the other backends takes one core, whatever torch is told.
    lanes = min(cores, MAX_LANES) if engine.info.backend in TORCH_BACKENDS else cores
    return [cores // lanes + (number < cores % lanes) for number in range(lanes)]
