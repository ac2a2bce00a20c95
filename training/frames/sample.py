"""Some frames of every video, to fit a map to: means, principal components."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .packed import FrameSource


def drawn_frames(
    source: FrameSource, count: int, seed: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Draw about ``count`` frames, evenly from all videos and at least one of each.

    Yields:
        Each video and the (n,) int64 indices of its frames, ascending.
    """
    draw = np.random.default_rng(seed)
    each = max(1, round(count / len(source)))
    for video in range(len(source)):
        number = source.frames_of(video)
        yield video, np.sort(draw.integers(0, number, min(each, number)))
