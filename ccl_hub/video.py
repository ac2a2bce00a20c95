"""Local video and image files in, small upright RGB frames with presentation times out.

PyAV is imported by this module and its helpers ``video_open`` (guarded open) and
``video_pixels`` (resize) only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt

from .config import Preprocessing
from .errors import NoVideoError
from .video_open import MediaLimits, open_video
from .video_pixels import DECODER_VERSION, FrameResizer, resize_rgb

__all__ = ["DECODER_VERSION", "MediaLimits", "iter_frames", "load_image", "resize_rgb"]

PathLike = str | Path
Frame = npt.NDArray[np.uint8]

DEFAULT_THREADS = 2


def iter_frames(
    path: PathLike,
    preprocessing: Preprocessing,
    limits: MediaLimits | None = None,
    threads: int = DEFAULT_THREADS,
) -> Iterator[tuple[float, Frame]]:
    """Decode a whole video in presentation order, with bounded memory.

    Args:
        path: A local file.
        preprocessing: Says how to resize.
        limits: Largest size; None for the defaults.
        threads: Decoder threads; 0 for one per core.

    Yields:
        Seconds from the first frame, and (h, w, 3) uint8 RGB.

    Raises:
        MediaError: One of its kinds, naming the file.

    Example:
        >>> frames = list(iter_frames("video.mp4", Preprocessing()))  # doctest: +SKIP
    """
    limits = limits or MediaLimits()
    resize = FrameResizer(preprocessing, limits.max_pixels)
    first, last = None, 0.0
    with open_video(path, limits, threads) as (container, stream):
        rate = stream.guessed_rate or stream.average_rate
        nominal = 1 / float(rate) if rate else 0.04
        step = 0.0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                if first is None:
                    first, seconds = frame.time or 0.0, 0.0
                else:
                    seconds = last + step if frame.time is None else frame.time - first
                    seconds = seconds if seconds > last else last + step
                unit = frame.time_base
                step = float(frame.duration * unit) if frame.duration and unit else nominal
                last = seconds
                yield seconds, resize(frame)
    if first is None:
        raise NoVideoError("the file holds no frame that can be decoded.", path)


def load_image(
    path: PathLike, preprocessing: Preprocessing, limits: MediaLimits | None = None
) -> Frame:
    """Return the first frame."""
    for _, frame in iter_frames(path, preprocessing, limits, threads=1):
        return frame[None]
    raise NoVideoError("the file holds no image that can be decoded.", path)
