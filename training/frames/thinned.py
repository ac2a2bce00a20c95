"""A source whose videos keep only a frame every so often: less to hold in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .packed import FrameSource
from .view import FrameView


class ThinnedFrames(FrameView):
    """The same videos with some of their frames, each at least a time behind the one before.

    Args:
        source: All frames.
        every_seconds: That time; frames a little closer, by a tenth, are kept, too.
    """

    def __init__(self, source: FrameSource, every_seconds: float) -> None:
        super().__init__(source, source.videos)
        self.every_seconds = every_seconds
        self._kept = [self._chosen(video) for video in range(len(self))]

    def _chosen(self, video: int) -> np.ndarray:
        kept: list[int] = []
        seconds, next_second = self.source.seconds(video), -np.inf
        for index, second in enumerate(seconds):
            if second >= next_second:
                kept.append(index)
                next_second = second + 0.9 * self.every_seconds
        return np.array(kept)

    def seconds(self, video: int) -> np.ndarray:
        """Return the presentation times of the frames that are kept, float64 (n,)."""
        return self.source.seconds(video)[self._kept[video]]

    def read(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames of a video in the order of ``indices``, uint8 RGB (k, h, w, 3)."""
        return self.source.read(video, self._kept[video][indices])

    def fingerprint(self) -> str:
        """Return the source's hash and the time between frames."""
        return f"{self.source.fingerprint()}-every-{self.every_seconds:g}s"
