"""Small pictures of a video, as JPEG; it is decoded where one video at a time is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import Preprocessing
from ...decoding.messages import DecodeSettings
from ...decoding.one_video import StartsOverError, open_one
from ...errors import CCLError, DecodeError
from ...sampling import Sampling
from ...video.jpeg import jpeg
from ...video.open import MediaLimits

SIDE_PX = 160
"""Frames come as squares of this side, and get their shape back at the end."""

LONGEST = 4.0
"""Thumbnails are at most so many times as long as high: some pictures are one line of pixels."""

PREPROCESSING = Preprocessing(
    clip_frames=1,
    frame_interval_seconds=0.001,
    resize_height_px=SIDE_PX,
    resize_width_px=SIDE_PX,
    crop_px=SIDE_PX,
    frame_choice="on_screen",
)


def thumbnails(
    path: str | Path,
    seconds: Sequence[float],
    height_px: int = 96,
    limits: MediaLimits | None = None,
) -> list[bytes]:
    """Return what a video shows at some instants, as JPEG files.

    Args:
        path: A local video or image file.
        seconds: Instants from the first frame, one or more; one past the end takes the last frame.
        height_px: Height of the pictures.
        limits: Largest media accepted.

    Returns:
        A JPEG for each instant, b"" where nothing can be shown: pictures are no reason to fail.
    """
    sampling = Sampling(at_seconds=tuple(max(0.0, float(at)) for at in seconds))
    settings = DecodeSettings(PREPROCESSING, sampling, limits or MediaLimits())
    for decode_index in (False, True):
        try:
            return _pictures(path, settings, decode_index, height_px)
        except DecodeError:
            continue  # a frame is damaged: once more without such
        except (CCLError, StartsOverError):
            break
    return [b""] * len(seconds)


def _pictures(
    path: str | Path, settings: DecodeSettings, decode_index: bool, height_px: int
) -> list[bytes]:
    video = open_one(path, settings, "auto", decode_index)
    try:
        numbers = np.unique(video.plan.indices).tolist()
        frames = dict(zip(numbers, video.frames(), strict=True))
        facts = video.facts
    finally:
        video.close()
    shape = min(LONGEST, max(1 / LONGEST, facts.width_px / facts.height_px))
    width_px = max(2, round(shape * height_px / 2) * 2)
    shown = {number: jpeg(frame, width_px, height_px) for number, frame in frames.items()}
    return [shown[int(number)] for number in video.plan.indices[:, 0]]
