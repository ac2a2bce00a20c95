"""Every real and every odd file at hand: frames, ``incomplete`` or our own error, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

pytestmark = [pytest.mark.shared, pytest.mark.slow]

ONE_FILE_SECONDS = 30

PROBE = """
import json, sys
from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaError
from ccl_hub.video import VideoReader
for path in sys.stdin.read().split("\\0"):
    print(json.dumps({"path": path, "outcome": "started"}), flush=True)
    try:
        with VideoReader(path, resize=Preprocessing()) as reader:
            n = len(reader.info.seconds)
            numbers = sorted({0, n // 3, n // 2, n - 1})
            shapes = {f.shape for _, f in reader.frames(numbers, skip_missing=True)}
            assert shapes <= {(128, 171, 3)}, shapes
            outcome, info = reader.info.completeness, reader.info
            assert outcome == "complete" or info.note, path
            assert outcome != "complete" or reader.report.decoded == len(numbers)
            assert info.duration_seconds >= info.seconds[-1] >= 0
    except MediaError as error:
        assert str(path) in str(error), error
        outcome, n = error.code, 0
    print(json.dumps({"path": path, "outcome": outcome, "frames": n}), flush=True)
"""


def outcomes(files: list[Path]) -> dict[str, tuple[str, int]]:
    """Read every file in one child process; fail naming the file that kills or stalls it."""
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        input="\0".join(map(str, files)),
        capture_output=True,
        text=True,
        timeout=ONE_FILE_SECONDS * 10,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    rows = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"{rows[-1:]}: {child.stderr[-2000:]}"
    return {r["path"]: (r["outcome"], r["frames"]) for r in rows if r["outcome"] != "started"}


def test_real_videos_are_whole(shared_data: Path) -> None:
    files = sorted((shared_data / "real").iterdir())
    got = outcomes(files)
    assert len(got) == len(files) >= 10
    assert {outcome for outcome, _ in got.values()} == {"complete"}
    assert all(frames >= 20 for _, frames in got.values())


def test_odd_files_do_no_harm(shared_data: Path) -> None:
    folder = shared_data / "odd"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    got = outcomes(files)
    assert len(got) == len(files) >= 200
    count: dict[str, int] = {}
    for outcome, _ in got.values():
        count[outcome] = count.get(outcome, 0) + 1
    allowed = {"complete", "incomplete", "unknown", "damaged", "no_video", "unsupported"}
    assert set(count) <= allowed, count
    assert count["complete"] > 120 and count["damaged"] < 40, count


@pytest.mark.parametrize(
    ("part", "outcome", "frames"),
    [
        ("h264/white_zombie_scrunch-part.mp4", "incomplete", 65),
        ("h264/1242-small.mkv", "incomplete", 12),
        ("file-type/fixture/fixture2.mkv", "incomplete", 37),
        ("resources/nasa_13013_rotated.mp4", "complete", 17),
        ("muxer/tracks/ac3-sample.mp4", "no_video", 0),
        ("movies/broken.mp4", "damaged", 0),
        ("video/dfa/0001.mp4", "unsupported", 0),
    ],
)
def test_known_files(shared_data: Path, part: str, outcome: str, frames: int) -> None:
    name = Path(part).name
    (path,) = [p for p in (shared_data / "odd").rglob(name) if p.parent.name in part]
    assert outcomes([path]) == {str(path): (outcome, frames)}
