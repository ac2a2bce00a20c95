"""Recall of edited frames: the share whose nearest frame is of the right video.

The library holds frames of every video, at the middles of segments of about half a second; a query
is one frame of one video, at a random instant, edited. So the frame asked for is seldom in the
library, as it is with a user's screenshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ccl_hub.config import Preprocessing
from ccl_hub.video.reader import VideoReader

from ..search import nearest
from .edits import EDITS

WHOLE = Preprocessing(resize="short_side", resize_height_px=128, crop_px=112)
"""Frames are kept with a short side of 128 and their aspect."""

Embed = Callable[[Sequence[np.ndarray]], torch.Tensor]
"""Takes uint8 (h, w, 3) RGB pictures of any size; returns (n, D) vectors."""


@dataclass(frozen=True)
class FrameSet:
    """Frames of videos, whole.

    Args:
        pictures: uint8 (h, w, 3) RGB.
        videos: int64 (n,), the number of each one's video.
    """

    pictures: list[np.ndarray]
    videos: np.ndarray


@dataclass(frozen=True)
class Recall:
    """What was found.

    Args:
        edits: Share of queries whose nearest frame is of their video, by name of the edit.
        queries: Number of queries for each edit.
        frames: Frames in the library.
        videos: Videos in the library.
    """

    edits: dict[str, float]
    queries: int
    frames: int
    videos: int

    @property
    def mean(self) -> float:
        """The mean over the edits."""
        return float(np.mean(list(self.edits.values())))


def frame_set(
    paths: Sequence[Path], every_seconds: float = 0.5, seed: int | None = None
) -> FrameSet:
    """Read frames of videos.

    Args:
        paths: The videos, in the order of their numbers.
        every_seconds: About how far apart frames are: they lie at the middles of equal segments.
        seed: Instead, one frame of each video at an instant drawn from this.

    Raises:
        MediaError: A video cannot be read.
    """
    pictures: list[np.ndarray] = []
    videos: list[int] = []
    for number, path in enumerate(paths):
        with VideoReader(path, resize=WHOLE) as reader:
            seconds = reader.info.seconds
            if seed is None:
                parts = max(1, round(reader.info.duration_seconds / every_seconds))
                shares = (np.arange(parts) + 0.5) / parts
            else:
                shares = np.random.default_rng((seed, number)).random(1)
            instants = shares * reader.info.duration_seconds
            indices = np.maximum(np.searchsorted(seconds, instants, side="right") - 1, 0)
            read = [frame for _, frame in reader.frames(np.unique(indices))]
        pictures += read
        videos += [number] * len(read)
    return FrameSet(pictures, np.array(videos))


def edited_queries(queries: FrameSet, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Edit every query in every way: pictures by name of the edit."""
    pictures = [Image.fromarray(picture) for picture in queries.pictures]
    others = pictures[len(pictures) // 2 :] + pictures[: len(pictures) // 2]
    edited = {}
    for number, (name, edit) in enumerate(EDITS.items()):
        draw = np.random.default_rng((seed, number))
        pairs = zip(pictures, others, strict=True)
        edited[name] = [np.asarray(edit(picture, other, draw)) for picture, other in pairs]
    return edited


def recall_of(embed: Embed, library: FrameSet, queries: FrameSet, seed: int = 0) -> Recall:
    """Measure how often an edited frame finds its video.

    Args:
        embed: Makes vectors of pictures; they are compared by cosine.
        library: Frames of all videos.
        queries: Frames of some of them, by the same numbers.
        seed: Of the edits.
    """
    gallery = embed(library.pictures)
    shares = {}
    for name, pictures in edited_queries(queries, seed).items():
        best = nearest(embed(pictures), gallery, 1)[0][:, 0]
        shares[name] = float((library.videos[best] == queries.videos).mean())
    videos = len(np.unique(library.videos))
    return Recall(shares, len(queries.pictures), len(library.pictures), videos)
