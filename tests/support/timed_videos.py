"""Videos with times of every kind, whose frames show their own number, and how they are read."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, numbered_frame, read_number

from ccl_hub.config import Preprocessing
from ccl_hub.video import VideoInfo, VideoReader

PAPER = Preprocessing()
B_FRAMES = {"x264-params": "bframes=3:b-adapt=0:keyint=25:scenecut=0"}
H264 = Recipe("source.mp4", "libx264", 75, options=B_FRAMES)


def read_numbers(path: Path, **options) -> tuple[VideoInfo, list[int | None]]:
    """Return the info of a video and the number that each of its frames shows."""
    with VideoReader(path, resize=PAPER, **options) as reader:
        indices = range(len(reader.info.seconds))
        return reader.info, [read_number(frame) for _, frame in reader.frames(indices)]


def assert_right(path: Path, seconds: Iterable[float], *, of_last: float = 0.04) -> VideoInfo:
    """Compare every frame and its time, whichever way the file is read."""
    expected = np.asarray(list(seconds))
    for decode_index in (False, True):
        info, numbers = read_numbers(path, decode_index=decode_index)
        assert numbers == list(range(len(expected)))
        np.testing.assert_allclose(info.seconds, expected, atol=0.0011)
        assert info.duration_seconds == pytest.approx(expected[-1] + of_last, abs=0.0021)
        assert info.completeness != "incomplete"
    return info


def regular(count: int) -> np.ndarray:
    return np.arange(count) / 25


def with_sound(path: Path, frames: list[float], sound: Iterable[tuple[float, float]]) -> Path:
    """Write frames at given times, and sound over given (start, end), in order of time."""
    tick = Fraction(1, 90_000)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"tune": "zerolatency"})
        video.width, video.height, video.pix_fmt = 160, 128, "yuv420p"
        video.codec_context.time_base = tick
        audio = container.add_stream("mp2", rate=48_000)
        events: list[tuple[float, int | None]] = [(t, i) for i, t in enumerate(frames)]
        for start, end in sound:
            events += [(t, None) for t in np.arange(start, end, 1152 / 48_000).tolist()]
        for second, number in sorted(events, key=lambda event: event[0]):
            if number is None:
                silence = np.zeros((1, 1152), np.int16)
                frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
                frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
                frame.pts = round(second * 48_000)
                container.mux(audio.encode(frame))
                continue
            picture = av.VideoFrame.from_ndarray(numbered_frame(number, 160, 128), "rgb24")
            picture.pts, picture.time_base = round(second / tick), tick
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path
