"""Frames and times beside those of the ffmpeg program, where it is installed.

Each pair of codec and container is written by the program and read twice: by it and by us. What
the program would show is known by construction, too: ``FRAMES`` frames, 0.04 s apart.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ccl_hub.config import Preprocessing
from ccl_hub.video import VideoReader

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="needs the ffmpeg program"
    ),
]

PAPER = Preprocessing()
FRAMES, RATE = 40, 25
SOURCE = ("-f", "lavfi", "-i", f"testsrc2=size=320x240:rate={RATE}", "-frames:v", str(FRAMES))
B_FRAMES = ("-bf", "2", "-g", "12")
CODECS = {
    "h264": ("-c:v", "libx264", *B_FRAMES),
    "hevc": ("-c:v", "libx265", "-x265-params", "bframes=3:keyint=12:log-level=none"),
    "mpeg2": ("-c:v", "mpeg2video", "-q:v", "3", *B_FRAMES),
    "mpeg4": ("-c:v", "mpeg4", "-q:v", "3", *B_FRAMES),
    "mjpeg": ("-c:v", "mjpeg", "-q:v", "3"),
    "vp8": ("-c:v", "libvpx", "-deadline", "realtime", "-b:v", "1M"),
    "vp9": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-b:v", "1M"),
    "theora": ("-c:v", "libtheora", "-q:v", "8"),
    "wmv2": ("-c:v", "wmv2", "-q:v", "3"),
    "flv1": ("-c:v", "flv1", "-q:v", "3"),
    "ffv1": ("-c:v", "ffv1"),
    "prores": ("-c:v", "prores_ks"),
}
CHROMA_ON_THE_LEFT = ("h264", "hevc", "mpeg2", "mpeg4")
PAIRS = [
    *(("h264", name) for name in ("avi", "asf", "flv", "mkv", "mov", "mp4", "mxf", "nut", "ts")),
    *(("hevc", name) for name in ("mkv", "mp4", "ts")),
    *(("mpeg2", name) for name in ("avi", "asf", "mkv", "mov", "mpg", "mxf", "ts", "vob")),
    *(("mpeg4", name) for name in ("avi", "asf", "mkv", "mp4")),
    *(("mjpeg", "avi"), ("mjpeg", "mov"), ("vp8", "webm"), ("vp9", "webm"), ("vp9", "mp4")),
    *(("theora", "ogv"), ("wmv2", "asf"), ("flv1", "flv"), ("ffv1", "avi"), ("prores", "mov")),
]
COPIES = [
    *(("h264.avi", name) for name in ("asf", "mov", "mp4")),
    *(("mpeg4.avi", name) for name in ("asf", "mov", "mp4")),
]
DELAYED_FRAMES = 4
"""The program itself changes from one kind of stamp to the other once it has met a fault."""


def run(*command: object) -> bytes:
    """Run a program; fail with its words."""
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=120)
    assert done.returncode == 0, f"{command[0]}: {done.stderr.decode(errors='replace')[-400:]}"
    return done.stdout


def ffmpeg(*arguments: object) -> bytes:
    return run("ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *arguments)


def write(path: Path, *options: object) -> None:
    """Write a film; skip if this build of the program lacks the encoder."""
    encoder = str(options[options.index("-c:v") + 1])
    if f" {encoder} " not in run("ffmpeg", "-hide_banner", "-encoders").decode():
        pytest.skip(f"this ffmpeg has no {encoder}")
    ffmpeg(*SOURCE, *options, path)


def their_times(path: Path) -> np.ndarray:
    show = ("-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0")
    text = run("ffprobe", "-v", "error", "-select_streams", "v:0", *show, path).decode()
    words = [line.strip(",") for line in text.split() if line.strip(",")]
    return np.array([np.nan if word == "N/A" else float(word) for word in words])


def their_pixels(path: Path, codec: str) -> np.ndarray:
    size = f"{PAPER.resize_width_px}:{PAPER.resize_height_px}"
    flags = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
    # This program takes the place of chroma as an option, newer ones from the frames.
    across = 0 if codec in CHROMA_ON_THE_LEFT else 128
    down = 0 if codec == "prores" else 128  # it has chroma on every row
    chroma = f"in_color_matrix=bt601:in_h_chr_pos={across}:in_v_chr_pos={down}"
    scale = f"scale={size}:flags={flags}:{chroma},format=rgb24"
    data = ffmpeg("-i", path, "-fps_mode", "passthrough", "-vf", scale, "-f", "rawvideo", "-")
    shape = (-1, PAPER.resize_height_px, PAPER.resize_width_px, 3)
    return np.frombuffer(data, np.uint8).reshape(shape)


def compare(path: Path, codec: str) -> None:
    with VideoReader(path, resize=PAPER) as reader:
        info = reader.info
        pixels = np.stack([frame for _, frame in reader.frames(range(len(info.seconds)))])
    np.testing.assert_allclose(info.seconds, np.arange(FRAMES) / RATE, atol=0.002)
    assert info.duration_seconds == pytest.approx(FRAMES / RATE, abs=0.002)
    theirs = their_times(path)
    assert len(theirs) == FRAMES
    middle = slice(2 * DELAYED_FRAMES, -DELAYED_FRAMES)
    steps = np.diff(info.seconds)[middle] - np.diff(theirs)[middle]
    assert np.abs(np.cumsum(steps)).max() <= 0.002
    reference = their_pixels(path, codec)
    assert reference.shape == pixels.shape
    difference = np.abs(reference.astype(int) - pixels)
    assert difference.max() <= 3, (difference.max(), difference.mean())


@pytest.mark.parametrize(("codec", "container"), PAIRS)
def test_codec_in_container(tmp_path: Path, codec: str, container: str) -> None:
    path = tmp_path / f"v.{container}"
    write(path, *CODECS[codec])
    compare(path, codec)


@pytest.mark.parametrize(("source", "container"), COPIES)
def test_copied_without_encoding(tmp_path: Path, source: str, container: str) -> None:
    first, path = tmp_path / source, tmp_path / f"copy.{container}"
    write(first, *CODECS[first.stem])
    ffmpeg("-i", first, "-c", "copy", path)
    compare(path, first.stem)
