"""Local video and image files in, upright RGB frames with presentation times out: all of PyAV."""

from __future__ import annotations

from .info import Completeness, SourceFacts, VideoInfo
from .open import MediaLimits
from .pixels import DECODER_VERSION, resize_rgb
from .reader import DecodeReport, VideoReader, iter_frames, load_image

__all__ = [
    "DECODER_VERSION",
    "Completeness",
    "DecodeReport",
    "MediaLimits",
    "SourceFacts",
    "VideoInfo",
    "VideoReader",
    "iter_frames",
    "load_image",
    "resize_rgb",
]
