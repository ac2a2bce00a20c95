"""HD video without a colour tag: BT.709, as players show it; see "Colours" in docs/concepts.md."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import rgb_of

from ccl_hub import Preprocessing
from ccl_hub.video import VideoReader

YUV = (120, 90, 200)
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)  # weights of red and blue in luma


def flat_video(path: Path, size: tuple[int, int]) -> Path:
    """Write a film of one colour that says nothing of its matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, value in zip(frame.planes, YUV, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("size", "matrix"), [((1280, 720), BT709), ((640, 480), BT601)])
def test_the_matrix_of_a_film_without_a_tag(
    size: tuple[int, int], matrix: tuple[float, float], tmp_path: Path
) -> None:
    path = flat_video(tmp_path / "flat.avi", size)
    with VideoReader(path, resize=Preprocessing()) as reader:
        ((_, small),) = reader.frames(np.array([0]))
    assert np.abs(small - rgb_of(*YUV, *matrix, full=False)).max() <= 2


def test_plain_conversions_take_the_other_matrix(tmp_path: Path) -> None:
    """What the docs say of OpenCV and of conversions by FFmpeg: the default of libswscale."""
    with av.open(str(flat_video(tmp_path / "flat.avi", (1280, 720)))) as container:
        plain = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(plain - rgb_of(*YUV, *BT601, full=False)).max() <= 2
    difference = np.abs(plain[0, 0] - rgb_of(*YUV, *BT709, full=False))
    assert difference.max() > 10, "and that is not a trifle"
