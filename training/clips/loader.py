"""Batches of clips: which videos and frames in which order, read ahead in threads.

Every random draw is a pure function of (seed, epoch, video), and the order one of (seed, epoch).
The clips are therefore the same for any number of threads or processes, and a run that resumes at
step s sees exactly the clips it would have seen.

Threads read ahead, rather than processes: JPEG and video decoding release the interpreter lock,
and threads share the frames without a copy (measured by ``benchmarks/loader.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ccl_hub._util.prefetch import in_order
from ccl_hub.config import Preprocessing
from ccl_hub.errors import CCLError, TrainingError
from ccl_hub.sampling import sample_train

from ..frames.packed import FrameSource
from ..frames.resident import ResidentFrames

# The first number of every random key, so that no two uses share random numbers.
ORDER_KEY, CLIP_KEY, AUGMENT_KEY = 1, 2, 3


@dataclass(frozen=True)
class Batch:
    """The clips of one process at one step.

    Args:
        frames: uint8 (views, b, T, h, w, 3).
        indices: int64 (views, b, T), which frames of each video.
        video_ids: int64 (b,), indices of the videos in the store.
        names: Ids of the videos.
        seeds: int64 (views, b), one seed for each clip's augmentation.
        epoch: The epoch.
        step: The step in the epoch.
    """

    frames: Tensor
    indices: np.ndarray
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
        TrainingError: The batch is larger than the data set, or ``world`` does not divide it.

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
                f"batch is {self.global_batch} with {self.videos} videos; "
                f"allowed: 1 to {self.videos}."
            )
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise TrainingError(
                f"rank is {self.rank} of {self.world} processes; allowed: 0 to world - 1."
            )
        if self.global_batch % self.world:
            raise TrainingError(
                f"batch {self.global_batch} cannot be divided among {self.world} processes; "
                f"give a multiple of {self.world}, or another number of processes."
            )

    @property
    def steps(self) -> int:
        """Steps in the epoch; videos that fill no whole batch are left to later epochs."""
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
            raise TrainingError(f"step is {step}; allowed: 0 to {self.steps - 1}.")
        whole = self.order[step * self.global_batch : (step + 1) * self.global_batch]
        share = self.global_batch // self.world
        return whole if everywhere else whole[self.rank * share : (self.rank + 1) * share]


def draw_clips(
    store: FrameSource,
    video: int,
    preprocessing: Preprocessing,
    *,
    seed: int,
    epoch: int,
    views: int,
) -> np.ndarray:
    """Return the frame indices of a video's random clips in an epoch, int64 (views, T)."""
    key = np.random.SeedSequence((CLIP_KEY, seed, epoch, video))
    return sample_train(
        store.seconds(video),
        store.duration(video),
        preprocessing.clip_frames,
        preprocessing.frame_interval_seconds,
        np.random.Generator(np.random.Philox(key)),
        views=views,
        frame_choice=preprocessing.frame_choice,
    )


def clip_seeds(seed: int, epoch: int, video: int, views: int) -> np.ndarray:
    """Return one seed per view for the augmentation of a video's clips, int64 (views,)."""
    key = np.random.SeedSequence((AUGMENT_KEY, seed, epoch, video))
    return (key.generate_state(views, np.uint64) >> np.uint64(1)).astype(np.int64)


class ClipLoader(AbstractContextManager["ClipLoader"]):
    """Iterates over the batches of one epoch, reading ahead.

    Its threads end with the ``with`` statement that it is used in, or with the last batch.

    Args:
        store: Packed, resident, or video files.
        sampler: The order, and this process's share.
        preprocessing: Gives the frames T of a clip, the time between them, and the rule by which
            a frame stands for an instant.
        views: Clips per video, drawn independently.
        workers: Threads that read; 0 reads when asked.
        prefetch_batches: Batches that are ready or being read.
        start_step: First step, to resume within an epoch.
        pin_memory: Page-locked frames, for faster copies to a GPU.

    Raises:
        TrainingError: While iterating, if a video cannot be read, which it names, or if the frames
            of two videos differ in size.

    Example:
        >>> sampler = EpochSampler(len(store), 0, epoch=0, global_batch=48)  # doctest: +SKIP
        >>> with ClipLoader(store, sampler, Preprocessing()) as batches:  # doctest: +SKIP
        ...     for batch in batches: ...
    """

    def __init__(
        self,
        store: FrameSource,
        sampler: EpochSampler,
        preprocessing: Preprocessing,
        *,
        views: int = 1,
        workers: int = 2,
        prefetch_batches: int = 3,
        start_step: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if len(store) != sampler.videos:
            raise TrainingError(
                f"the sampler is of {sampler.videos} videos, but the store has {len(store)}; "
                "give a sampler of as many."
            )
        if views < 1 or workers < 0 or prefetch_batches < 1:
            raise TrainingError(
                f"views is {views}, workers {workers}, prefetch_batches {prefetch_batches}; "
                "allowed: at least 1, 0 and 1."
            )
        if not 0 <= start_step <= sampler.steps:
            raise TrainingError(f"start_step is {start_step}; allowed: 0 to {sampler.steps}.")
        self.store, self.sampler, self.preprocessing = store, sampler, preprocessing
        self.views, self.workers, self.prefetch_batches = views, workers, prefetch_batches
        self.start_step, self.pin_memory = start_step, pin_memory
        self._read: Iterator[Batch] | None = None

    def __len__(self) -> int:
        return self.sampler.steps - self.start_step

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; batches read ahead are dropped."""
        if self._read is not None:
            self._read.close()

    def __iter__(self) -> Iterator[Batch]:
        steps = range(self.start_step, self.sampler.steps)
        if isinstance(self.store, ResidentFrames):
            yield from map(self._gathered, steps)
            return
        self.close()
        share = self.sampler.global_batch // self.sampler.world
        # Whole batches after the one that is taken; at the least, all clips of that one.
        ahead = max((self.prefetch_batches - 1) * share, share - 1)
        clips = self._clips(steps)
        self._read = in_order(
            self._read_clip, clips, threads=self.workers, ahead=ahead, name="clips"
        )
        try:
            for done, batch in enumerate(self._read, start=1):
                if done % share == 0:
                    yield batch
        finally:
            self.close()

    def _plan(self, step: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return video ids (b,), and each video's frame indices (views, T)."""
        ids = self.sampler.step_ids(step)
        key = {"seed": self.sampler.seed, "epoch": self.sampler.epoch, "views": self.views}
        return ids, [draw_clips(self.store, int(v), self.preprocessing, **key) for v in ids]

    def _batch(
        self, step: int, ids: np.ndarray, indices: list[np.ndarray], frames: Tensor
    ) -> Batch:
        seed, epoch = self.sampler.seed, self.sampler.epoch
        seeds = [clip_seeds(seed, epoch, int(video), self.views) for video in ids]
        names = [self.store.names[video] for video in ids]
        drawn, seeds = np.stack(indices, axis=1), np.stack(seeds, axis=1)
        return Batch(frames, drawn, ids, names, seeds, epoch, step)

    def _gathered(self, step: int) -> Batch:
        """Return a batch of resident frames."""
        ids, indices = self._plan(step)
        flat = [self.store.flat_indices(int(v), i) for v, i in zip(ids, indices, strict=True)]
        frames = self.store.gather(np.stack(flat, axis=1))  # (views, b, T, h, w, 3)
        return self._batch(step, ids, indices, frames)

    def _clips(self, steps: Iterable[int]) -> Iterator[tuple[Batch, int, np.ndarray]]:
        """Yield batches to be filled, video by video: batch, position in it, frame indices."""
        for step in steps:
            ids, indices = self._plan(step)
            batch = self._batch(step, ids, indices, self._empty(ids))
            for position, clips in enumerate(indices):
                yield batch, position, clips

    def _empty(self, ids: np.ndarray) -> Tensor:
        """Return memory for a batch, uint8 (views, b, T, h, w, 3)."""
        size = self.store.frame_size(int(ids[0]))
        shape = (self.views, len(ids), self.preprocessing.clip_frames, *size, 3)
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin_memory)

    def _read_clip(self, clip: tuple[Batch, int, np.ndarray]) -> Batch:
        """Read a video's clips, (views, T) frame indices, into their position in the batch."""
        batch, position, indices = clip
        video, name = int(batch.video_ids[position]), batch.names[position]
        pixels = batch.frames[:, position]  # (views, T, h, w, 3)
        if self.store.frame_size(video) != tuple(pixels.shape[2:4]):
            raise TrainingError(
                f"{name}: frames of {self.store.frame_size(video)} px among frames of "
                f"{tuple(pixels.shape[2:4])}; pack with resize 'stretch'."
            )
        try:
            frames = self.store.read(video, indices.reshape(-1))
        except (CCLError, OSError, RuntimeError, ValueError) as error:
            raise TrainingError(f"{name}: its frames cannot be read: {error}") from error
        pixels.copy_(torch.from_numpy(frames).view(pixels.shape))
        return batch
