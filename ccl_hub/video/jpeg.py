"""JPEG files of decoded frames (uses PyAV)."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from .pixels import Frame

JPEG_QUALITY = "5"
"""FFmpeg's scale: 2 is best, 31 worst."""


def jpeg(frame: Frame, width_px: int, height_px: int) -> bytes:
    """Return (h, w, 3) uint8 RGB, resized, as a JPEG file."""
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, VideoCodecContext)  # noqa: S101 (for the type checker)
    encoder.width, encoder.height = width_px, height_px
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qmin": JPEG_QUALITY, "qmax": JPEG_QUALITY}
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
    picture = picture.reformat(width_px, height_px, "yuvj420p")
    picture.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None)))
