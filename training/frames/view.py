"""Some videos of a source of frames, with their own classes and splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.datasets import VideoList
from .packed import FrameSource


class FrameView(FrameSource):
    """A source of frames that reads another one; each kind of view makes its own fingerprint.

    Args:
        source: The frames.
        videos: Some of its videos, known by their ids, in the order of the view.
    """

    def __init__(self, source: FrameSource, videos: VideoList) -> None:
        self.source = source
        self.videos = videos
        positions = {name: position for position, name in enumerate(source.names)}
        self._positions = [positions[name] for name in videos.ids]

    def seconds(self, video: int) -> np.ndarray:
        """Return the presentation times of a video, float64 (n,), from 0 upwards."""
        return self.source.seconds(self._positions[video])

    def duration(self, video: int) -> float:
        """Return the end of a video's last frame in seconds."""
        return self.source.duration(self._positions[video])

    def frame_size(self, video: int) -> tuple[int, int]:
        """Return height and width of a video's frames in pixels."""
        return self.source.frame_size(self._positions[video])

    def read(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames of a video in the order of ``indices``, uint8 RGB (k, h, w, 3)."""
        return self.source.read(self._positions[video], indices)
