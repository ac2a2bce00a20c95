"""Videos computed on the spot, to try the training loop without any data set.

Each video shows one shape that moves over a soft background; its class is shape and motion. The
videos are a pure function of seed and position, take no space on the disk, and need no decoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccl_hub.config import Preprocessing
from ccl_hub.errors import TrainingError

from ..data.datasets import VideoItem, VideoList
from .packed import FrameSource

SHAPES = ("disc", "square")
MOTIONS = ("left-right", "up-down", "circle", "grow")
FRAMES = 30
FRAMES_PER_SECOND = 12.5
VERSION = 1


@dataclass(frozen=True)
class _Scene:
    """What one video shows; lengths are shares of the frame's height."""

    shape: str
    motion: str
    background: np.ndarray  # (2,2,3) colours of the corners, 0..255
    colour: np.ndarray  # (3,) 0..255
    centre: np.ndarray  # (2,) y, x
    radius: float
    reach: float
    cycles_per_second: float
    phase: float


class RenderedVideos(FrameSource):
    """Videos of every shape and motion in turn; the third of every three rounds is for testing.

    Args:
        count: Number of videos, at least 1.
        preprocessing: Gives the frame size; the width of ``resize="short_side"`` is 4/3 of the
            height.
        seed: Another seed gives other videos.

    Example:
        >>> videos = RenderedVideos(4, Preprocessing())
        >>> videos.read(0, [0, 5]).shape
        (2, 128, 171, 3)
    """

    def __init__(self, count: int, preprocessing: Preprocessing, seed: int = 0) -> None:
        self.preprocessing = preprocessing
        self.seed = seed
        kinds = [(shape, motion) for shape in SHAPES for motion in MOTIONS]
        labels = [kinds[i % len(kinds)] for i in range(count)]
        items = tuple(
            VideoItem(
                id=f"rendered-{i:05d}",
                path=Path(f"rendered-{i:05d}"),
                label=f"{shape} {motion}",
                split="test" if (i // len(kinds)) % 3 == 2 else "train",
            )
            for i, (shape, motion) in enumerate(labels)
        )
        classes = sorted({item.label for item in items if item.label is not None})
        self.videos = VideoList("rendered", items, tuple(classes))
        self._scenes = [_scene(seed, i, *label) for i, label in enumerate(labels)]
        height, width = preprocessing.resize_height_px, preprocessing.resize_width_px
        self._size = (height, width if preprocessing.resize == "stretch" else height * 4 // 3)

    def seconds(self, video: int) -> np.ndarray:
        """Return the presentation times of a video, float64 (n,)."""
        return np.arange(FRAMES) / FRAMES_PER_SECOND

    def duration(self, video: int) -> float:
        """Return the end of a video's last frame in seconds."""
        return FRAMES / FRAMES_PER_SECOND

    def frame_size(self, video: int) -> tuple[int, int]:
        """Return height and width of a video's frames in pixels."""
        return self._size

    def read(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames of a video in the order of ``indices``, uint8 RGB (k, h, w, 3).

        Raises:
            TrainingError: The video has no such frame.
        """
        numbers = np.asarray(indices, np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < FRAMES:
            raise TrainingError(
                f"{self.names[video]}: has no frames {numbers.tolist()}; give 0 to {FRAMES - 1}."
            )
        frames = np.empty((len(numbers), *self._size, 3), np.uint8)
        for frame, number in zip(frames, numbers, strict=True):
            _draw(self._scenes[video], number / FRAMES_PER_SECOND, frame)
        return frames

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the pixels."""
        text = f"rendered {VERSION} {len(self)} {self.seed} {self._size}"
        return hashlib.sha256(text.encode()).hexdigest()


def _scene(seed: int, video: int, shape: str, motion: str) -> _Scene:
    """Draw the colours, position and speed of one video at random."""
    rng = np.random.default_rng([seed, video])
    return _Scene(
        shape=shape,
        motion=motion,
        background=rng.uniform(0, 255, (2, 2, 3)),
        colour=rng.uniform(0, 255, 3),
        centre=rng.uniform((0.4, 0.5), (0.6, 0.8)),
        radius=rng.uniform(0.1, 0.2),
        reach=rng.uniform(0.15, 0.3),
        cycles_per_second=rng.uniform(0.4, 0.9),
        phase=rng.uniform(0, 2 * np.pi),
    )


def _draw(scene: _Scene, seconds: float, out: np.ndarray) -> None:
    """Draw one moment into ``out``, uint8 (h, w, 3)."""
    height, width, _ = out.shape
    y = (np.arange(height) + 0.5)[:, None] / height  # (h,1)
    x = (np.arange(width) + 0.5)[None, :] / height  # (1,w), in heights
    across = x[..., None] * height / width
    top, bottom = (
        left * (1 - across) + right * across  # (1,w,3)
        for left, right in scene.background
    )
    pixels = top * (1 - y[..., None]) + bottom * y[..., None]  # (h,w,3)
    angle = scene.phase + 2 * np.pi * scene.cycles_per_second * seconds
    centre_y, centre_x = scene.centre
    radius = scene.radius
    if scene.motion in ("left-right", "circle"):
        centre_x = centre_x + scene.reach * np.sin(angle)
    if scene.motion in ("up-down", "circle"):
        centre_y = centre_y + scene.reach * np.cos(angle)
    if scene.motion == "grow":
        radius = radius * (1 + 0.6 * np.sin(angle))
    dy, dx = np.abs(y - centre_y), np.abs(x - centre_x)
    distance = np.hypot(dy, dx) if scene.shape == "disc" else np.maximum(dy, dx)
    cover = np.clip((radius - distance) * height + 0.5, 0, 1)[..., None]  # soft edge of one pixel
    out[...] = np.rint(pixels * (1 - cover) + scene.colour * cover).astype(np.uint8)
