"""Thinned frames: which are kept, and that they are those of the source."""

from __future__ import annotations

import numpy as np

from ccl_hub.config import Preprocessing
from training.frames.rendered import RenderedVideos
from training.frames.thinned import ThinnedFrames


def test_frames_lie_about_as_far_apart_as_asked() -> None:
    source = RenderedVideos(3, Preprocessing())
    thin = ThinnedFrames(source, 0.24)
    for video in range(3):
        every, kept = source.seconds(video), thin.seconds(video)
        assert kept[0] == every[0] and set(kept) <= set(every)
        gaps = np.diff(kept)
        assert gaps.min() >= 0.9 * 0.24 and gaps.max() < 0.24 + np.diff(every).max()
        assert len(kept) < 0.7 * len(every) and thin.frames_of(video) == len(kept)
        some = np.array([len(kept) - 1, 0, 1])
        wanted = source.read(video, np.searchsorted(every, kept[some]))
        assert np.array_equal(thin.read(video, some), wanted)
    assert thin.duration(1) == source.duration(1)


def test_thinned_frames_are_other_data() -> None:
    source = RenderedVideos(3, Preprocessing())
    prints = {ThinnedFrames(source, seconds).fingerprint() for seconds in (0.1, 0.24)}
    assert len(prints | {source.fingerprint()}) == 3
