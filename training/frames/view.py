"""Some videos of a source of frames, under classes and splits of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.datasets import VideoList
from .packed import FrameSource


class FrameView:
    """A source of frames that reads another one; what it is for says how its hash is made.

    Args:
        source: The frames.
        videos: Some of its videos, by their ids; their order is that of the view.
    """

    def __init__(self, source: FrameSource, videos: VideoList) -> None:
        self.source = source
        self.videos = videos
        self.names = [item.id for item in videos]
        positions = {item.id: position for position, item in enumerate(source.videos)}
        self._positions = [positions[name] for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def frames_of(self, video: int) -> int:
        """Return the number of frames of a video."""
        return self.source.frames_of(self._positions[video])

    def seconds(self, video: int) -> np.ndarray:
        """Return the presentation times of a video, float64 (n,), from 0 upwards."""
        return self.source.seconds(self._positions[video])

    def duration(self, video: int) -> float:
        """Return the end of a video's last frame in seconds."""
        return self.source.duration(self._positions[video])

    def frame_size(self, video: int) -> tuple[int, int]:
        """Return height and width of a video's frames in pixels."""
        return self.source.frame_size(self._positions[video])

    def read(
        self, video: int, indices: Sequence[int] | np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return frames of a video, uint8 RGB (k, h, w, 3)."""
        return self.source.read(self._positions[video], indices, out)
