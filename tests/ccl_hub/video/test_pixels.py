"""Colour, alpha and resize against a float reference; the numbers that checkpoints depend on."""

from __future__ import annotations

import hashlib
import io
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import Recipe, numbered_frame, rgb_of, write_video

from ccl_hub.config import Preprocessing
from ccl_hub.errors import InputError, MediaLimitError, UnsupportedMediaError
from ccl_hub.video import VideoReader
from ccl_hub.video.pixels import (
    DECODER_VERSION,
    FrameResizer,
    _orientation,
    resize_rgb,
    target_size,
)
from ccl_hub.video.view import FrameFilter

PAPER = Preprocessing()
UNSPECIFIED, BT709, BT601, BT2020 = 2, 1, 6, 9
LIMITED, FULL = 1, 2


def flat_yuv(y: int, u: int, v: int, size: tuple[int, int], pixel_format: str) -> av.VideoFrame:
    """Return a frame of one colour."""
    frame = av.VideoFrame(*size, pixel_format)
    deep = "10le" in pixel_format
    for plane, value in zip(frame.planes, (y, u, v), strict=True):
        word = (value * 4).to_bytes(2, "little") if deep else bytes([value])
        plane.update(word * (plane.buffer_size // len(word)))
    return frame


@pytest.mark.parametrize(
    ("space", "colour_range", "size", "pixel_format", "weights", "full"),
    [
        (BT601, LIMITED, (320, 240), "yuv420p", (0.299, 0.114), False),
        (BT709, LIMITED, (320, 240), "yuv420p", (0.2126, 0.0722), False),
        (BT709, FULL, (320, 240), "yuv420p", (0.2126, 0.0722), True),
        (BT2020, LIMITED, (320, 240), "yuv420p10le", (0.2627, 0.0593), False),
        (UNSPECIFIED, 0, (720, 576), "yuv420p", (0.299, 0.114), False),
        (UNSPECIFIED, 0, (720, 577), "yuv420p", (0.2126, 0.0722), False),
        (UNSPECIFIED, 0, (1280, 320), "yuv422p", (0.2126, 0.0722), False),
        (UNSPECIFIED, 0, (320, 240), "yuvj420p", (0.299, 0.114), True),
        (UNSPECIFIED, 0, (171, 128), "yuv444p", (0.299, 0.114), False),
    ],
)
@pytest.mark.parametrize("colour", [(120, 90, 200), (16, 128, 128), (200, 140, 110)])
def test_colours_follow_the_tags(
    space: int,
    colour_range: int,
    size: tuple[int, int],
    pixel_format: str,
    weights: tuple[float, float],
    full: bool,
    colour: tuple[int, int, int],
) -> None:
    frame = flat_yuv(*colour, size, pixel_format)
    frame.colorspace, frame.color_range = space, colour_range
    small = FrameResizer(PAPER, 10**7)(frame)
    assert small.shape == (128, 171, 3)
    expected = rgb_of(*colour, *weights, full)
    assert np.abs(small - expected).max() <= 2.0


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (320, 240), (160, 120), (171, 128)])
@pytest.mark.parametrize("pixel_format", ["yuv444p", "rgb24"])
def test_resize_is_an_antialiased_triangle(size: tuple[int, int], pixel_format: str) -> None:
    """Within rounding of torch's antialiased bilinear in float64, on noise, the worst case."""
    pixels = numbered_frame(300, *size, noise=40)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    if pixel_format != "rgb24":
        frame = frame.reformat(format=pixel_format, dst_colorspace=BT709)
        frame.colorspace = BT709
        pixels = frame.reformat(format="rgb24").to_ndarray()
    image = torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
        image, size=(128, 171), mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    error = FrameResizer(PAPER, 10**7)(frame) - expected.numpy()
    assert np.sqrt(np.mean(error**2)) < 1.5
    assert abs(error.mean()) < 0.5


def test_arrays_take_the_same_path_as_frames() -> None:
    arrays = np.stack([numbered_frame(i, 320, 240) for i in range(3)])
    resizer = FrameResizer(PAPER, 10**7)
    frames = [resizer(av.VideoFrame.from_ndarray(a, format="rgb24")) for a in arrays]
    np.testing.assert_array_equal(resize_rgb(arrays, PAPER), frames)
    np.testing.assert_array_equal(resize_rgb(arrays[:, ::-1].copy()[:, ::-1], PAPER), frames)


def test_the_pixels_have_not_changed() -> None:
    """A checkpoint was trained on these bytes; they may change with FFmpeg, not with this code."""
    if not re.search(r"libswscale (9\.5|10\.1)\.", DECODER_VERSION):
        pytest.skip(f"recorded with libswscale 9.5 and 10.1, this is {DECODER_VERSION}")
    arrays = np.stack([numbered_frame(i, 320, 240) for i in range(3)])
    frame = av.VideoFrame.from_ndarray(arrays[0], format="rgb24").reformat(format="yuv420p")
    digests = [
        hashlib.sha256(resize_rgb(arrays, PAPER).tobytes()).hexdigest()[:16],
        hashlib.sha256(FrameResizer(PAPER, 10**7)(frame).tobytes()).hexdigest()[:16],
    ]
    assert digests == ["2eb50e647fd12807", "f0f56990134b2be0"]


@pytest.mark.parametrize("pixel_format", ["rgba", "yuva420p", "gbrap", "ya8"])
def test_transparency_shows_black(pixel_format: str) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., :3] = 200
    rgba[:, :32, 3] = 255
    rgba[:, 48:, 3] = 128
    frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixel_format)
    small = FrameResizer(PAPER, 10**6)(frame)
    assert np.abs(small[:, :80].astype(int) - 200).max() <= 2  # opaque
    assert small[:, 92:120].max() <= 2  # transparent, whatever colour it hides
    assert np.abs(small[:, 135:].astype(int) - 100).max() <= 3  # half


def test_an_interlaced_frame_is_not_split_into_fields() -> None:
    """libswscale scales each field by itself, which turns fine lines into coarse stripes."""
    options = {"flags": "+ildct+ilme", "qp": "4"}
    file = io.BytesIO()
    lines = np.full((480, 640, 3), 200, np.uint8)
    lines[1::2] = 40
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(lines, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        frame = next(container.decode(video=0))
    assert frame.interlaced_frame
    small = FrameResizer(PAPER, 10**7)(frame)
    assert small[4:-4].std() < 6 and abs(small.mean() - 120) < 6


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (240, 320, (128, 171)),
        (320, 240, (171, 128)),
        (1080, 1920, (128, 228)),
        (100, 100, (128, 128)),
        (1, 64, (128, 8192)),
    ],
)
def test_short_side_keeps_the_aspect(height: int, width: int, expected: tuple[int, int]) -> None:
    assert target_size(height, width, Preprocessing(resize="short_side")) == expected
    assert target_size(height, width, PAPER) == (128, 171)


def test_what_cannot_be_resized_says_why() -> None:
    with pytest.raises(MediaLimitError, match="at most 64 times the other"):
        target_size(1, 65, Preprocessing(resize="short_side"))
    with pytest.raises(MediaLimitError, match="a frame is 64x48; allowed: at most 100 pixels"):
        FrameResizer(PAPER, 100)(av.VideoFrame(64, 48, "yuv420p"))
    with pytest.raises(UnsupportedMediaError, match="bayer"):
        FrameResizer(PAPER, 10**6)(av.VideoFrame(64, 48, "bayer_rggb8"))
    for bad in (
        np.zeros((2, 3, 3)),
        np.zeros((1, 4, 4, 4), np.uint8),
        np.zeros((1, 0, 4, 3), np.uint8),
    ):
        with pytest.raises(InputError, match="allowed"):
            resize_rgb(bad, PAPER)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv411p", "gbrp", "gray", "pal8", "nv12"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (1, 4000), (4000, 1)])
def test_tiny_and_thin_frames_work(pixel_format: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame(*size, pixel_format)
    for plane in frame.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    assert FrameResizer(PAPER, 10**6)(frame).shape == (128, 171, 3)


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        (-180, (False, True, True)),
        (-90, (True, False, True)),
        (0, (False, False, False)),
        (90, (True, True, False)),
        (180, (False, True, True)),
    ],
)
def test_a_display_matrix_turns(angle: int, expected: tuple[bool, bool, bool]) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(angle)
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        frame = next(container.decode(video=0))
    assert _orientation(frame) == expected


GRAYS = ["gray", "gray10le", "gray12le", "gray16le", "ya8", "ya16le"]


@pytest.mark.parametrize("pixel_format", GRAYS)
@pytest.mark.parametrize(("colour_range", "full"), [(0, False), (LIMITED, False), (FULL, True)])
def test_gray_follows_its_range(pixel_format: str, colour_range: int, full: bool) -> None:
    """libswscale takes gray of any tag for full range."""
    full |= pixel_format.startswith("ya") and not colour_range  # images have it
    bits = int(re.sub(r"\D", "", pixel_format.removeprefix("ya")) or 8)
    for level in (0, 16, 100, 126, 235, 255):
        frame = av.VideoFrame(64, 48, pixel_format)
        value = level << bits - 8
        sample = value.to_bytes((bits + 7) // 8, "little")
        if pixel_format.startswith("ya"):
            sample += b"\xff" * len(sample)
        plane = frame.planes[0]
        plane.update(sample * (plane.buffer_size // len(sample)))
        frame.color_range = colour_range
        expected = level if full else np.clip((level - 16) * 255 / 219, 0, 255)
        assert np.abs(FrameResizer(PAPER, 10**6)(frame) - expected).max() <= 1.2, level


@pytest.mark.parametrize("codec", ["ffv1", "libx265"])
@pytest.mark.parametrize("pixel_format", ["gray", "gray10le"])
@pytest.mark.parametrize("colour_range", [0, LIMITED, FULL])
def test_monochrome_video_follows_its_range(
    tmp_path: Path, codec: str, pixel_format: str, colour_range: int
) -> None:
    levels = (16, 126, 235)
    options = {"x265-params": "log-level=none:lossless=1"} if codec == "libx265" else {}
    path = tmp_path / "gray.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.codec_context.color_range = colour_range
        for level in levels:
            frame = av.VideoFrame(64, 48, pixel_format)
            deep = pixel_format == "gray10le"
            sample = (level * 4).to_bytes(2, "little") if deep else bytes([level])
            frame.planes[0].update(sample * (frame.planes[0].buffer_size // len(sample)))
            frame.color_range = colour_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(path, resize=PAPER) as reader:
        shown = [frame for _, frame in reader.frames(range(3))]
    expected = levels if colour_range == FULL else (0, 128, 255)
    for frame, level in zip(shown, expected, strict=True):
        assert np.abs(frame.astype(int) - level).max() <= 1


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_interlaced_frames_keep_the_place_of_chroma(tmp_path: Path, pixel_format: str) -> None:
    """The same planes, coded progressive and interlaced, are the same picture."""
    shown, interlaced = [], []
    for name, parameters in (("p.mp4", "qp=0"), ("i.mp4", "qp=0:tff=1")):
        recipe = Recipe(
            name, "libx264", 2, (352, 288), pixel_format, options={"x264-params": parameters}
        )
        path = write_video(tmp_path, recipe)
        with VideoReader(path, resize=PAPER) as reader:
            shown.append(np.stack([frame for _, frame in reader.frames([0, 1])]))
        with av.open(str(path)) as container:
            interlaced.append(next(container.decode(video=0)).interlaced_frame)
    assert interlaced == [False, True]
    np.testing.assert_array_equal(*shown)


def test_a_filter_keeps_time_and_tags() -> None:
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.pts, frame.time_base = 7, Fraction(1, 90000)
    frame.colorspace, frame.color_range = BT709, FULL
    for _ in range(2):
        out = FrameFilter(("crop", "w=in_w-3:x=1:exact=1"))(frame)
        assert (out.width, out.height, out.pts, out.time_base) == (61, 48, 7, Fraction(1, 90000))
        assert (out.colorspace, out.color_range) == (BT709, FULL)


# HD without a colour tag is BT.709, as players show it; see "Colours" in docs/concepts.md.

YUV = (120, 90, 200)
LUMA_601, LUMA_709 = (0.299, 0.114), (0.2126, 0.0722)  # weights of red and blue in luma


def flat_video(path: Path, size: tuple[int, int]) -> Path:
    """Write a film of one colour that says nothing of its matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(3):
            frame = flat_yuv(*YUV, size, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("size", "matrix"), [((1280, 720), LUMA_709), ((640, 480), LUMA_601)])
def test_the_matrix_of_a_film_without_a_tag(
    size: tuple[int, int], matrix: tuple[float, float], tmp_path: Path
) -> None:
    path = flat_video(tmp_path / "flat.avi", size)
    with VideoReader(path, resize=PAPER) as reader:
        ((_, small),) = reader.frames(np.array([0]))
    assert np.abs(small - rgb_of(*YUV, *matrix, full=False)).max() <= 2


def test_plain_conversions_take_the_other_matrix(tmp_path: Path) -> None:
    """What the docs say of OpenCV and of conversions by FFmpeg: the default of libswscale."""
    with av.open(str(flat_video(tmp_path / "flat.avi", (1280, 720)))) as container:
        plain = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(plain - rgb_of(*YUV, *LUMA_601, full=False)).max() <= 2
    difference = np.abs(plain[0, 0] - rgb_of(*YUV, *LUMA_709, full=False))
    assert difference.max() > 10, "and that is not a trifle"
