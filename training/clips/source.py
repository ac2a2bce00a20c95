"""From a recipe's ``[data]`` section to augmented clips: what a training sees of the data."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import ConfigError

from ..distributed.world import World
from ..frames.files import VideoFolderStore
from ..frames.packed import FrameSource, open_store
from ..frames.rendered import RenderedVideos
from ..frames.thinned import ThinnedFrames
from ..frames.view import FrameView
from ..recipes.pretraining import Recipe
from ..recipes.sections import PlainRecipe, Reading
from .augment import augment
from .edits import edited_views
from .loader import Batch, ClipLoader, EpochSampler, ResidentFrames

logger = logging.getLogger(__name__)

Chunk = Tensor | tuple[Tensor, Tensor]
PROGRESS_SECONDS = 10.0  # between lines that tell how many frames are resident


class SplitSource(FrameView):
    """The videos of one split of a source.

    Args:
        source: All videos.
        split: Such as ``"train"``.

    Raises:
        TrainingError: There is no such split, or one of its classes is empty.
    """

    def __init__(self, source: FrameSource, split: str) -> None:
        super().__init__(source, source.videos.select(split))

    def fingerprint(self) -> str:
        """Return the source's hash and that of the videos of the split."""
        return f"{self.source.fingerprint()}-{self.videos.fingerprint()[:16]}"


class ClipSource:
    """The training clips of any step of a run.

    Args:
        recipe: Its ``[data]``, ``[augment]`` and ``[preprocessing]`` say how clips are made.
        frames: The videos.
        device: Where augmented clips go.
    """

    def __init__(self, recipe: PlainRecipe, frames: FrameSource, device: torch.device) -> None:
        self._recipe, self._frames, self._device = recipe, frames, device

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def frames(self) -> FrameSource:
        """The videos."""
        return self._frames

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes these videos from others, as JSON values."""
        return {
            "name": self._frames.videos.name,
            "videos": len(self),
            "fingerprint": self._frames.fingerprint(),
        }

    def _sampler(self, epoch: int, rank: int = 0, size: int = 1) -> EpochSampler:
        batch, seed = self._recipe.optim.batch, self._recipe.seed
        return EpochSampler(len(self), seed, epoch, batch, rank, size)

    def global_names(self, step: int) -> list[str]:
        """Return the names of the videos of all processes in a step of the run (from 0)."""
        epoch, done = divmod(step, len(self) // self._recipe.optim.batch)
        ids = self._sampler(epoch).step_ids(done, everywhere=True)
        return [self._frames.names[video] for video in ids]

    @contextmanager
    def batches(self, epoch: int, start_step: int, world: World) -> Iterator[Iterator[Batch]]:
        """Open this process's share of an epoch, from ``start_step`` to its end."""
        recipe, pre = self._recipe, self._recipe.preprocessing
        if count := recipe.data.clip_frames:  # the same time span by fewer or more frames
            interval = pre.clip_seconds / count
            pre = dataclasses.replace(pre, clip_frames=count, frame_interval_seconds=interval)
        loader = ClipLoader(
            self._frames,
            self._sampler(epoch, world.rank, world.size),
            pre,
            views=recipe.data.views,
            workers=recipe.data.workers,
            start_step=start_step,
            pin_memory=self._device.type == "cuda" and recipe.data.cache != "gpu",
        )
        with loader:
            yield iter(loader)

    def augmented_chunks(self, batch: Batch, crop_px: int) -> list[Chunk]:
        """Return the batch as the network takes it, in the recipe's number of chunks.

        Args:
            batch: From :meth:`batches`.
            crop_px: Side of the clips.

        Returns:
            Chunks of (b, 3, T, crop, crop) float32, or pairs of these for two views.
        """
        recipe = self._recipe
        views = [
            self._augmented(frames.to(self._device, non_blocking=True), seeds, crop_px).chunk(
                recipe.optim.chunks
            )
            for frames, seeds in zip(batch.frames, batch.seeds, strict=True)
        ]
        if len(views) == 1:
            return list(views[0])
        first, second = views
        return list(zip(first, second, strict=True))

    def _augmented(self, frames: Tensor, seeds: np.ndarray, crop_px: int) -> Tensor:
        """(b,T,h,w,3) uint8 -> (b,3,T,crop,crop) float32, normalised."""
        recipe = self._recipe
        if recipe.augment.kind == "edits":
            return edited_views(frames, recipe.edits, seeds, recipe.preprocessing, crop_px)
        config = dataclasses.replace(recipe.augment, crop_px=crop_px)
        return augment(frames, config, seeds, recipe.preprocessing)


def open_source(recipe: Recipe, device: torch.device) -> ClipSource:
    """Open what the recipe's ``[data]`` names.

    Args:
        recipe: The recipe.
        device: Where augmented clips go.

    Raises:
        ConfigError: The recipe names no data, or they do not fit it.
        TrainingError: The data are missing, empty or damaged.
    """
    data = recipe.data
    frames = _open_frames(recipe)
    if data.split:
        frames = SplitSource(frames, data.split)
    if data.every_seconds:
        frames = ThinnedFrames(frames, data.every_seconds)
    return ClipSource(recipe, cached_frames(frames, data, device), device)


def cached_frames(frames: FrameSource, data: Reading, device: torch.device) -> FrameSource:
    """Make frames resident if the recipe's ``data.cache`` says so, or return them as they are.

    Args:
        frames: The videos to train on.
        data: Section of a recipe: ``cache``, ``resident_size_px`` and ``workers``.
        device: Where training runs.

    Raises:
        ConfigError: The cache is that of a GPU, but training runs elsewhere.
        TrainingError: Frames are damaged.
    """
    if data.cache == "none":
        return frames
    if data.cache == "gpu" and device.type != "cuda":
        raise ConfigError(
            f"data.cache is 'gpu' but training runs on {device.type}; use 'ram' or 'none'."
        )
    return ResidentFrames(
        frames,
        device if data.cache == "gpu" else "cpu",
        data.resident_size_px or None,
        threads=max(2, data.workers),
        progress=_loading(frames),
    )


def _loading(frames: FrameSource) -> Callable[[int], None]:
    """Return a function that logs how many frames are resident: large sets take minutes."""
    total = sum(frames.frames_of(video) for video in range(len(frames)))
    done, logged = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, logged
        done += count
        if time.monotonic() - logged >= PROGRESS_SECONDS:
            logged = time.monotonic()
            logger.info("%d of %d frames resident", done, total)

    return advance


def _open_frames(recipe: Recipe) -> FrameSource:
    data = recipe.data
    if data.rendered:
        return RenderedVideos(data.rendered, recipe.preprocessing)
    if data.pack:
        # Edits sample whole frames anew, whatever their size.
        return open_store(data.pack, recipe.preprocessing, recipe.augment.kind == "edits")
    if data.folder:
        return VideoFolderStore(
            data.folder,
            recipe.preprocessing,
            workers=max(2, data.workers),
            allow_problems=data.allow_problems,
        )
    raise ConfigError(
        "the recipe names no data to train on; give --set data.pack=FOLDER with a folder that "
        "'python -m training.pack' made, or --set data.folder=FOLDER with one of videos."
    )
