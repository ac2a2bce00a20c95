"""Which videos and which frames, in which order; read ahead in threads.

Every random draw is a pure function of (seed, epoch, video), and the order of (seed, epoch). So
the clips do not depend on the number of threads or processes, and a run that resumes at step s
sees exactly the clips it would have seen.

Threads, not processes, read ahead: JPEG and video decoding release the interpreter lock, and
frames need no copy between processes (measured by ``benchmarks/loader.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import CCLError, TrainingError
from ccl_hub.sampling import sample_train

from ..frames.packed import FrameSource
from ..frames.resident import ResidentFrames

__all__ = ["Batch", "ClipLoader", "EpochSampler", "ResidentFrames", "clip_seeds", "draw_clips"]

# The first number of every random key, so that no two uses share random numbers.
ORDER_KEY, CLIP_KEY, AUGMENT_KEY = 1, 2, 3


@dataclass(frozen=True)
class Batch:
    """The clips of one process at one step.

    Args:
        frames: uint8 (views, b, T, h, w, 3).
        video_ids: int64 (b,), indices of the videos in the store.
        names: Ids of the videos.
        seeds: int64 (views, b), one seed for each clip's augmentation.
        epoch: The epoch.
        step: The step in the epoch.
    """

    frames: Tensor
    video_ids: np.ndarray
    names: list[str]
    seeds: np.ndarray
    epoch: int
    step: int


@dataclass(frozen=True)
class EpochSampler:
    """The order of one epoch: every video at most once, the same for any number of processes.

    Args:
        videos: Number of videos.
        seed: Seed of the run.
        epoch: Number of the epoch.
        global_batch: Videos per step over all processes.
        rank: Number of this process.
        world: Number of processes; must divide ``global_batch``.

    Raises:
        TrainingError: The batch is larger than the data set, or not divisible by ``world``.

    Example:
        >>> sampler = EpochSampler(videos=10, seed=0, epoch=0, global_batch=4)
        >>> sampler.steps, sampler.step_ids(0).shape
        (2, (4,))
    """

    videos: int
    seed: int
    epoch: int
    global_batch: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.global_batch > self.videos:
            raise TrainingError(
                f"batch {self.global_batch} with {self.videos} videos; "
                "a batch needs 1 to as many videos as there are."
            )
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise TrainingError(f"rank {self.rank} of {self.world}; allowed: 0 to world - 1.")
        if self.global_batch % self.world:
            raise TrainingError(
                f"batch {self.global_batch} cannot be divided among {self.world} processes; "
                f"choose a multiple of {self.world}, or another number of processes."
            )

    @property
    def steps(self) -> int:
        """Steps in the epoch; videos that do not fill a last batch are left to later epochs."""
        return self.videos // self.global_batch

    @cached_property
    def order(self) -> np.ndarray:
        """The videos of the whole epoch in order, int64 (N,)."""
        key = np.random.SeedSequence((ORDER_KEY, self.seed, self.epoch))
        return np.random.Generator(np.random.Philox(key)).permutation(self.videos)

    def step_ids(self, step: int, everywhere: bool = False) -> np.ndarray:
        """Return the videos of one step.

        Args:
            step: 0 to ``steps - 1``.
            everywhere: The whole global batch instead of this process's share.

        Returns:
            int64 (b,); the shares of the processes in rank order make the global batch.

        Raises:
            TrainingError: There is no such step.
        """
        if not 0 <= step < self.steps:
            raise TrainingError(f"step {step}; the epoch has {self.steps} steps, from 0.")
        whole = self.order[step * self.global_batch : (step + 1) * self.global_batch]
        share = self.global_batch // self.world
        return whole if everywhere else whole[self.rank * share : (self.rank + 1) * share]


def draw_clips(
    store: FrameSource,
    video: int,
    *,
    seed: int,
    epoch: int,
    views: int,
    clip_frames: int,
    frame_interval_seconds: float,
    frame_choice: str,
) -> np.ndarray:
    """Return the frame indices of a video's random clips in an epoch, int64 (views, T)."""
    key = np.random.SeedSequence((CLIP_KEY, seed, epoch, video))
    return sample_train(
        store.seconds(video),
        store.duration(video),
        clip_frames,
        frame_interval_seconds,
        np.random.Generator(np.random.Philox(key)),
        views=views,
        frame_choice=frame_choice,
    )


def clip_seeds(seed: int, epoch: int, video: int, views: int) -> np.ndarray:
    """Return one seed per view for the augmentation of a video's clips, int64 (views,)."""
    key = np.random.SeedSequence((AUGMENT_KEY, seed, epoch, video))
    return (key.generate_state(views, np.uint64) >> np.uint64(1)).astype(np.int64)


class ClipLoader:
    """Iterates over the batches of one epoch, reading ahead.

    Use it in a ``with`` statement or exhaust it; either way its threads end.

    Args:
        store: Packed, resident, or video files.
        sampler: The order, and this process's share.
        clip_frames: Frames T in a clip.
        frame_interval_seconds: Length of the segments of a clip.
        frame_choice: Which frame an instant takes; all three are of the preprocessing.
        views: Clips per video, drawn independently.
        workers: Threads that read; 0 reads when asked.
        prefetch_batches: Batches ready or in the making.
        start_step: First step, to resume within an epoch.
        pin_memory: Page-locked frames, for faster copies to a GPU.

    Raises:
        TrainingError: While iterating, if a video cannot be read (naming it), or if the frames of
            two videos differ in size.

    Example:
        >>> sampler = EpochSampler(len(store), 0, epoch=0, global_batch=48)  # doctest: +SKIP
        >>> with ClipLoader(store, sampler, clip_frames=8,  # doctest: +SKIP
        ...                 frame_interval_seconds=0.16, frame_choice="on_screen") as batches:
        ...     for batch in batches: ...
    """

    def __init__(
        self,
        store: FrameSource,
        sampler: EpochSampler,
        *,
        clip_frames: int,
        frame_interval_seconds: float,
        frame_choice: str,
        views: int = 1,
        workers: int = 2,
        prefetch_batches: int = 3,
        start_step: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if len(store) != sampler.videos:
            raise TrainingError(f"a sampler of {sampler.videos} videos for {len(store)} videos.")
        if views < 1 or workers < 0 or prefetch_batches < 1:
            raise TrainingError(
                f"views {views}, workers {workers}, prefetch_batches {prefetch_batches}; "
                "allowed: at least 1, 0 and 1."
            )
        if not 0 <= start_step <= sampler.steps:
            raise TrainingError(f"start_step {start_step}; allowed: 0 to {sampler.steps}.")
        self.store = store
        self.sampler = sampler
        self.clip_frames = clip_frames
        self.frame_interval_seconds = frame_interval_seconds
        self.frame_choice = frame_choice
        self.views = views
        self.workers = workers
        self.prefetch_batches = prefetch_batches
        self.start_step = start_step
        self.pin_memory = pin_memory
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return self.sampler.steps - self.start_step

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; batches read ahead are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __iter__(self) -> Iterator[Batch]:
        steps = range(self.start_step, self.sampler.steps)
        if isinstance(self.store, ResidentFrames) or self.workers == 0:
            for step in steps:
                yield self._read_now(step)
            return
        self.close()
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="clips")
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for step in steps:
                waiting.append(self._begin(step, self._pool))
                if len(waiting) >= self.prefetch_batches:
                    yield _finish(*waiting.popleft())
            while waiting:
                yield _finish(*waiting.popleft())
        finally:
            self.close()

    def _plan(self, step: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Return video ids (b,), each video's frame indices (views, T), and seeds (views, b)."""
        sampler = self.sampler
        ids = sampler.step_ids(step)
        indices = [
            draw_clips(
                self.store,
                int(video),
                seed=sampler.seed,
                epoch=sampler.epoch,
                views=self.views,
                clip_frames=self.clip_frames,
                frame_interval_seconds=self.frame_interval_seconds,
                frame_choice=self.frame_choice,
            )
            for video in ids
        ]
        seeds = [clip_seeds(sampler.seed, sampler.epoch, int(v), self.views) for v in ids]
        return ids, indices, np.stack(seeds, axis=1)

    def _make_batch(self, step: int, ids: np.ndarray, frames: Tensor, seeds: np.ndarray) -> Batch:
        names = [self.store.names[video] for video in ids]
        return Batch(frames, ids, names, seeds, self.sampler.epoch, step)

    def _read_now(self, step: int) -> Batch:
        """Return a batch read in this thread: from resident frames, or without workers."""
        ids, indices, seeds = self._plan(step)
        if isinstance(self.store, ResidentFrames):
            places = [
                self.store.flat_indices(int(v), i) for v, i in zip(ids, indices, strict=True)
            ]
            frames = self.store.gather(np.stack(places, axis=1))  # (views, b, T, h, w, 3)
            return self._make_batch(step, ids, frames, seeds)
        frames = self._empty(ids)
        for place, (video, wanted) in enumerate(zip(ids, indices, strict=True)):
            self._read_clip(int(video), wanted, frames[:, place])
        return self._make_batch(step, ids, frames, seeds)

    def _begin(self, step: int, pool: ThreadPoolExecutor) -> tuple[Batch, list[Future[None]]]:
        """Set threads to read a batch; return it with the futures that fill it."""
        ids, indices, seeds = self._plan(step)
        frames = self._empty(ids)
        futures = [
            pool.submit(self._read_clip, int(video), wanted, frames[:, place])
            for place, (video, wanted) in enumerate(zip(ids, indices, strict=True))
        ]
        return self._make_batch(step, ids, frames, seeds), futures

    def _empty(self, ids: np.ndarray) -> Tensor:
        """Return memory for a batch, uint8 (views, b, T, h, w, 3)."""
        size = self.store.frame_size(int(ids[0]))
        shape = (self.views, len(ids), self.clip_frames, *size, 3)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin_memory)

    def _read_clip(self, video: int, indices: np.ndarray, out: Tensor) -> None:
        """Read a video's clips, (views, T) frame indices, into ``out`` (views, T, h, w, 3)."""
        name = self.store.names[video]
        if self.store.frame_size(video) != tuple(out.shape[2:4]):
            raise TrainingError(
                f"{name}: frames of {self.store.frame_size(video)} px among frames of "
                f"{tuple(out.shape[2:4])}; pack with resize 'stretch'."
            )
        try:
            frames = self.store.read(video, indices.reshape(-1))
        except (CCLError, OSError, RuntimeError, ValueError) as error:
            raise TrainingError(f"{name}: its frames cannot be read: {error}") from error
        out.copy_(torch.from_numpy(frames).view(out.shape))


def _finish(batch: Batch, futures: list[Future[None]]) -> Batch:
    """Wait until a batch is whole; raise what its reading raised."""
    for future in futures:
        future.result()
    return batch
