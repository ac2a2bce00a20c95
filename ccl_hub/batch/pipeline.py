"""From decoding processes through lanes to results: the machinery of a batch.

    decoding processes -> shared memory -> lanes (threads with the network) -> results

A lane takes some blocks of frames, of one video or of several, runs the network on them, and
:class:`ccl_hub.network.windows.WindowAssembler` makes clips of them. On a CPU there is a lane for
each core, so that no thread ever waits for another; on GPUs two for each device, one that computes
while the other fetches.

Which frames are computed together depends on the video alone where the device takes one block at
a time, as CPUs do: results are then the same bits in every run.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..backends.engine import Engine, check_finite, memory_is_enough
from ..backends.make import TORCH_BACKENDS
from ..decoding.messages import BLOCK_FRAMES, DecodeSettings, Ended, Failed, Job, Planned
from ..decoding.pool import Block, DecodePool, Event
from ..decoding.sandbox import level_of
from ..embed.results import gather, make_provenance
from ..errors import CCLError, ModelError, code_and_reason
from ..network.frame_maps import ClipHead, FrameMaps
from ..network.windows import ClipArrays, WindowAssembler
from ..sampling import ClipPlan, Sampling
from ..video.info import SourceFacts
from ..video.open import MediaLimits
from .options import BatchItem, BatchOptions

MAX_LANES = 16
LANES_PER_GPU = 2
MOST_WAITING = 16
"""Blocks of a video, 5 MB each, that lanes may compute before those in front are assembled."""

_POLL_SECONDS = 0.1


class _Attempt:
    """The windows of a video, as far as they are made; some videos take a second attempt."""

    def __init__(self, plan: ClipPlan, head: ClipHead, with_frames: bool) -> None:
        self.plan, self.windows = plan, WindowAssembler(plan.indices, head, with_frames)
        self.queued = self.assembled = 0  # blocks
        self.waiting: dict[int, FrameMaps] = {}
        self.assembling = False
        self.arrays = ClipArrays(len(plan.indices))

    def add(self, maps: FrameMaps) -> None:
        """Keep the windows that the next block makes whole."""
        for piece in self.windows.add_in_pieces(maps):
            self.arrays.add(piece)


class _Video:
    """One video on its way through the lanes."""

    def __init__(self, index: int, path: str | Path, device: _Device) -> None:
        self.index, self.path, self.device = index, path, device
        self.changed = threading.Condition()
        self.over = False
        self.facts: SourceFacts | None = None
        self.attempt: _Attempt | None = None

    def wants(self, attempt: _Attempt) -> bool:
        """Whether blocks of an attempt are still needed."""
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
        """Forget the blocks that no lane took, and with them the memory that they are in."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.blocks.get_nowait()


class Pipeline:
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
            for threads in lane_threads(device.engine, options)
        ]
        self.most_outstanding = 2 * options.worker_count + 2 * len(lanes)
        self._torch_threads = _torch_threads(engines)
        self._lanes = [
            threading.Thread(target=self._lane, args=lane, name="ccl-lane", daemon=True)
            for lane in lanes
        ]
        settings = DecodeSettings(
            preprocessing=engines[0].model.preprocessing,
            sampling=sampling,
            limits=options.limits or MediaLimits(),
            memory_bytes=options.worker_bytes,
            sandbox=options.sandbox,
        )
        workers, deadline_seconds = options.worker_count, options.deadline_seconds
        self._pool = DecodePool(settings, self._hear, workers, deadline_seconds)
        for lane in self._lanes:
            lane.start()
        atexit.register(self.close)  # torch aborts if the interpreter ends under its threads

    def submit(self, index: int, path: str | Path) -> None:
        """Add a video."""
        device = min(self._devices, key=lambda device: device.videos)
        device.videos += 1
        self._videos[index] = _Video(index, path, device)
        # Made absolute only: "link/.." is for the system to resolve.
        self._pool.submit(Job(index, Path(path).absolute()))

    def result(self, patience_seconds: float) -> BatchItem | None:
        """Wait for the next result; return None if none is ready in time."""
        try:
            result = self._results.get(timeout=patience_seconds)
        except queue.Empty:
            return None
        if isinstance(result, BatchItem):
            return result
        try:
            raise result
        finally:
            del result  # its traceback knows this frame, and all that the batch holds

    def close(self) -> None:
        """End processes and threads."""
        if not self._closing:
            self._closing = True
            self._pool.stop()
            for device in self._devices:
                device.blocks.put(None)
        threads = [self._pool.thread, *self._lanes]
        # The garbage collector may close an abandoned iterator in any thread, even one of these.
        if threading.current_thread() not in threads:
            for thread in threads:
                thread.join()
            self._videos.clear()
            for device in self._devices:
                device.drop()
            while not self._results.empty():  # such as the error of a second lane, with its frames
                self._results.get()
        if not self._closed:
            self._closed = True
            if self._torch_threads:
                _set_torch_threads(self._torch_threads)
            atexit.unregister(self.close)

    # The decoding pool -------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        """Take what the pool tells, in its thread."""
        if isinstance(event, BaseException):
            self._results.put(event)
        elif (video := self._videos.get(event.job)) is not None:
            match event:
                case Planned(_, plan):
                    self._begin(video, plan)
                case Block():
                    self._queue(video, event)
                case Ended(_, facts):
                    with video.changed:
                        video.facts = facts
                    self._finish_if_whole(video)
                case Failed(_, code, reason):
                    self._fail(video, code, reason)
        elif isinstance(event, Block):  # the video has failed: its result needs too much memory
            event.release()

    def _begin(self, video: _Video, plan: ClipPlan) -> None:
        """Start a video, or start it again."""
        with self._costs(video):
            attempt = _Attempt(plan, video.device.engine.clip_head, self._options.frames)
            with video.changed:
                video.attempt, video.facts = attempt, None

    def _queue(self, video: _Video, block: Block) -> None:
        """Let a block wait for a lane."""
        with video.changed:
            over, attempt = video.over, video.attempt
        if over:  # a lane has failed the video, and is about to hand its result over
            block.release()
            return
        if attempt is None:  # a worker sends the plan first
            raise CCLError(f"{video.path}: its frames came before its plan.")
        video.device.blocks.put(_Entry(video, attempt, attempt.queued, block))
        attempt.queued += 1

    def _fail(self, video: _Video, code: str, reason: str) -> None:
        """Hand over the failure of a video, unless its result is already on its way."""
        with video.changed:
            if video.over:
                return
            video.over = True
            video.attempt = None  # and the memory that it takes
        self._give(video, BatchItem(video.index, video.path, None, code, reason, self._level))

    @contextlib.contextmanager
    def _costs(self, video: _Video) -> Iterator[None]:
        """Let an error in the making of a result cost its video, and not the batch.

        Errors raised on purpose are about the device or the model, and so about every video.
        """
        try:
            yield
        except CCLError:
            raise
        except Exception as error:
            self._fail(video, *code_and_reason(error))

    # The lanes ---------------------------------------------------------------------------------

    def _lane(self, device: _Device, threads: int) -> None:
        """Run the network on blocks until there are none to come."""
        if self._torch_threads:
            _set_torch_threads(threads)
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
        entries = [entry for entry in batch if entry.video.wants(entry.attempt)]
        try:
            try:
                frames = [entry.block.frames.copy() for entry in entries]
            finally:
                for entry in batch:
                    entry.block.release()
            if self._closing or not frames:
                return
            maps = engine(np.concatenate(frames) if len(frames) > 1 else frames[0])  # (n,S,S,3)
        except MemoryError as error:
            for entry in entries:
                self._fail(entry.video, *code_and_reason(error))
            return
        begin = 0
        for entry, block in zip(entries, frames, strict=True):
            end = begin + len(block)
            with self._costs(entry.video):
                self._assemble(entry, FrameMaps(*(tensor[begin:end] for tensor in maps)))
            begin = end

    def _assemble(self, entry: _Entry, maps: FrameMaps) -> None:
        """Add a block to its video when its turn comes: lanes may overtake each other."""
        video, attempt = entry.video, entry.attempt
        with video.changed:
            # The blocks before it are in lanes, never behind it: they do not wait for this one.
            while video.wants(attempt) and entry.number >= attempt.assembled + MOST_WAITING:
                if self._closing:
                    return
                video.changed.wait(_POLL_SECONDS)
            if not video.wants(attempt):
                return
            attempt.waiting[entry.number] = maps
            if attempt.assembling:
                return  # the lane that assembles takes this one, too
            attempt.assembling = True
        while True:
            with video.changed:
                ready = attempt.waiting.pop(attempt.assembled, None)
                if ready is None or not video.wants(attempt):
                    attempt.assembling = False
                    break
                attempt.assembled += 1
                video.changed.notify_all()
            with memory_is_enough():
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
        try:
            item = self._item(video, attempt, facts)
        except Exception as error:
            code, reason = code_and_reason(error)
            item = BatchItem(video.index, video.path, None, code, reason, self._level)
        self._give(video, item)

    def _item(self, video: _Video, attempt: _Attempt, facts: SourceFacts) -> BatchItem:
        """Make the result of a whole video."""
        engine, plan, path = video.device.engine, attempt.plan, video.path
        level = self._level
        provenance = make_provenance(engine, self._sampling, path, facts, level)
        if not self._options.frames:  # copies: views would keep the whole
            none = plan.frame_seconds[:, :0].copy(), plan.indices[:, :0].copy()
            plan = replace(plan, frame_seconds=none[0], indices=none[1])
        result = gather([attempt.arrays.vectors], plan, lambda: provenance)
        attempt.arrays = ClipArrays(0)
        try:
            check_finite(engine, result.clips, result.frames)
        except ModelError as error:
            return BatchItem(video.index, path, None, "not_finite", str(error), level)
        return BatchItem(video.index, path, result, sandbox=level)

    @property
    def _level(self) -> str:
        """How well decoding is confined; "" before there was any."""
        return "" if self._pool.walls is None else level_of(self._pool.walls)

    def _give(self, video: _Video, item: BatchItem) -> None:
        del self._videos[video.index]
        video.device.videos -= 1
        self._results.put(item)


def _torch_threads(engines: list[Engine]) -> int:
    """Return how many threads torch uses; 0 where other runtimes compute, and it need not load."""
    if all(engine.info.backend not in TORCH_BACKENDS for engine in engines):
        return 0
    import torch

    return torch.get_num_threads()


def _set_torch_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def lane_threads(engine: Engine, options: BatchOptions) -> list[int]:
    """Threads of each lane of an engine."""
    if engine.info.device != "cpu":
        return [1] * LANES_PER_GPU
    cores = options.thread_count
    # One call of the other backends takes one core, whatever torch is told.
    lanes = min(cores, MAX_LANES) if engine.info.backend in TORCH_BACKENDS else cores
    return [cores // lanes + (number < cores % lanes) for number in range(lanes)]
