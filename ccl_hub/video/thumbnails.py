"""Small pictures of a video, as JPEG (uses PyAV)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from ..config import Preprocessing
from ..errors import MediaError
from ..frame_choice import on_screen_frames
from .bars import BarsFoundError
from .open import MediaLimits
from .pixels import Frame
from .reader import VideoReader

JPEG_QUALITY = "5"
"""FFmpeg's scale: 2 is best, 31 worst."""


def thumbnails(
    path: str | Path,
    seconds: Sequence[float],
    height_px: int = 96,
    limits: MediaLimits | None = None,
) -> list[bytes]:
    """Return what a video shows at some instants, as JPEG files.

    Args:
        path: A local video or image file.
        seconds: Instants from the first frame; one past the end takes the last frame.
        height_px: Short side of the pictures, 32 or more.
        limits: Largest media accepted.

    Returns:
        A JPEG for each instant, b"" where nothing can be shown: pictures are no reason to fail.
    """
    small = Preprocessing(resize="short_side", resize_height_px=height_px, crop_px=32)
    pictures: dict[int, bytes] = {}
    try:
        with VideoReader(path, resize=small, limits=limits) as reader:
            info = reader.info
            last = max(0.0, float(info.seconds[-1]))
            instants = np.clip(np.asarray(seconds, np.float64), 0.0, last)
            numbers = on_screen_frames(info.seconds, instants, info.duration_seconds)
            for number, frame in reader.frames(np.unique(numbers), skip_missing=True):
                pictures[number] = jpeg(frame)
    except (MediaError, BarsFoundError):
        return [b""] * len(seconds)
    return [pictures.get(int(number), b"") for number in numbers]


def jpeg(frame: Frame) -> bytes:
    """Return (h, w, 3) uint8 RGB as a JPEG file."""
    height, width = frame.shape[:2]
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, VideoCodecContext)  # noqa: S101 (for the type checker)
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qmin": JPEG_QUALITY, "qmax": JPEG_QUALITY}
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
    picture = picture.reformat(format="yuvj420p")
    picture.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None)))
