"""Bombs, endless videos and damaged bytes: memory stays bounded, and errors are our own."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from media import Recipe, write_video
from project import ROOT

BOMB = """
import resource, sys
import ccl_hub.video
from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaLimitError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with ccl_hub.video.VideoReader(sys.argv[1], resize=Preprocessing()) as reader:
        list(reader.frames(range(len(reader.info.seconds))))
except MediaLimitError as error:
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{grown:.0f} {error}")
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def plain(number: int, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), number % 256, np.uint8)


@pytest.mark.parametrize("kind", ["8192x8192", "switch h264", "switch mpeg2", "png header"])
def test_bombs_are_refused_in_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb"
    quick = {"preset": "ultrafast"}
    if kind == "8192x8192":
        recipe = Recipe("b.mp4", "libx264", 1, (8192, 8192), options=quick, make=plain)
        path = write_video(tmp_path, recipe)
    elif kind == "png header":
        header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + bytes(4) + b"\0\0\0\0IEND")
    else:
        codec, size = ("libx264", 4096) if "h264" in kind else ("mpeg2video", 2048)
        small = Recipe("s.ts", codec, 20, (64, 48), options=quick if size == 4096 else {})
        large = Recipe("l.ts", codec, 2, (size, size), options=small.options, make=plain)
        path.write_bytes(b"".join(write_video(tmp_path, r).read_bytes() for r in (small, large)))
    code = BOMB
    if kind == "switch mpeg2":  # the encoder makes no larger frame: lower the limit instead
        code = BOMB.replace(
            "Preprocessing())", "Preprocessing(), limits=ccl_hub.video.MediaLimits(1000000))"
        )
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    grown, _, message = done.stdout.partition(" ")
    assert "allowed: at most" in message and str(path) in message
    assert int(grown) < 300


LONG = """
import resource, sys
import numpy as np
from ccl_hub.config import Preprocessing
from ccl_hub.sampling import sample_eval
from ccl_hub.video import VideoReader
with VideoReader(sys.argv[1], resize=Preprocessing()) as reader:
    info = reader.info
    plan = sample_eval(info.seconds, info.duration_seconds, Preprocessing())
    count = sum(1 for _ in reader.frames(np.unique(plan.indices)))
print(len(info.seconds), count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def repeat(source: Path, target: Path, times: int) -> Path:
    """Write the packets of a video again and again."""
    with av.open(str(source)) as video:
        packets = [(bytes(p), p.is_keyframe) for p in video.demux(video=0) if p.size]
        with av.open(str(target), "w") as container:
            stream = container.add_stream_from_template(video.streams.video[0])
            for i in range(len(packets) * times):
                data, is_key = packets[i % len(packets)]
                packet = av.Packet(data)
                packet.pts = packet.dts = i * 512
                packet.duration = 512
                packet.time_base, packet.is_keyframe = stream.time_base, is_key
                packet.stream = stream
                container.mux(packet)
    return target


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    recipe = Recipe("v.mp4", "libx264", 100, options={"bf": "0", "g": "25"})
    source = write_video(tmp_path, recipe)
    peaks = []
    for times in (15, 900):  # one minute, one hour
        done = run_python(LONG, repeat(source, tmp_path / f"{times}.mp4", times))
        frames, count, peak = map(int, done.stdout.split())
        assert (frames, count) == (times * 100, 80), done.stderr
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 100


FUZZ = """
import sys
from pathlib import Path
import numpy as np
from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaError
from ccl_hub.video import VideoReader
outcomes = {}
for source in sys.argv[2:]:
    data = Path(source).read_bytes()
    for seed in range(int(sys.argv[1])):
        generator = np.random.default_rng(seed)
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), generator.integers(1, 30)):
            damaged[position] = generator.integers(256)
        if seed % 5 == 0:
            del damaged[generator.integers(len(data)):]
        path = Path(source).with_name("fuzz" + Path(source).suffix)
        path.write_bytes(damaged)
        print(source, seed, file=sys.stderr)
        try:
            with VideoReader(path, resize=Preprocessing()) as reader:
                n = len(reader.info.seconds)
                list(reader.frames(sorted({0, n // 2, n - 1}), skip_missing=True))
                outcome = reader.info.completeness
        except MediaError as error:
            outcome = error.code
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(outcomes)
"""


def test_damaged_bytes_give_frames_or_our_own_error(tmp_path: Path) -> None:
    kinds = [("v.mp4", "libx264"), ("v.mkv", "libx265"), ("v.webm", "libvpx-vp9")]
    kinds += [("v.avi", "mpeg4"), ("v.ts", "mpeg2video"), ("v.mov", "prores_ks")]
    files = []
    for name, codec in kinds:
        pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        files.append(
            write_video(tmp_path, Recipe(name, codec, 8, (64, 48), pixels, options=options))
        )
    files.append(write_video(tmp_path, Recipe("v.gif", "gif", 8, (64, 48), "rgb8")))
    done = run_python(FUZZ, 40, *files)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "incomplete" in done.stdout and "damaged" in done.stdout
