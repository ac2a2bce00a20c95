"""Decoding for packing with OpenCV, where PyAV is not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccl_hub.config import Preprocessing
from ccl_hub.errors import NoVideoError, UnsupportedMediaError

__all__ = ["decode_with_opencv"]


def decode_with_opencv(
    path: Path, preprocessing: Preprocessing
) -> tuple[np.ndarray, float, str | None, list[np.ndarray]]:
    """Decode a whole trusted video.

    Its pixels differ slightly from those of :mod:`ccl_hub.video`: another colour conversion and
    area-averaging resize. Truncation is noticed by the frame count alone.

    Args:
        path: The video.
        preprocessing: Gives the size of the frames.

    Returns:
        Presentation times float64 (n,) from 0 upwards, the end of the last frame in seconds, a
        note if frames are missing, and the frames, uint8 RGB (h, w, 3).

    Raises:
        UnsupportedMediaError: OpenCV cannot open the file.
        NoVideoError: It holds no frame.
    """
    import cv2

    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UnsupportedMediaError("OpenCV cannot open it", path)
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1000 else 25.0
        expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        frames: list[np.ndarray] = []
        times: list[float] = []
        while True:
            good, image = capture.read()
            if not good:
                break
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            size = _size(image.shape[0], image.shape[1], preprocessing)
            if size != (image.shape[1], image.shape[0]):
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
    if not frames:
        raise NoVideoError("OpenCV finds no frame in it", path)
    seconds = np.asarray(times, np.float64) - times[0]
    if np.any(np.diff(seconds) <= 0):
        seconds = np.arange(len(frames)) / rate
    note = None
    if expected > len(frames):
        note = f"{len(frames)} of {expected} frames could be decoded"
    return seconds, float(seconds[-1] + 1 / rate), note, frames


def _size(height_px: int, width_px: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return width and height after the resize."""
    if preprocessing.resize == "stretch":
        return preprocessing.resize_width_px, preprocessing.resize_height_px
    scale = preprocessing.resize_height_px / min(height_px, width_px)
    return round(width_px * scale), round(height_px * scale)
