"""How fast a library is indexed, beside decoding alone and beside viddup, on the same files.

    python -m benchmarks.find_speed film.mp4 more.mp4 --cores 2 --out find_speed.json

Each is run on the same cores, one after the other: ``ffmpeg -i FILE -f null -``; indexing at a
frame every 0.5 s; indexing by key frames alone; ``viddup scan``, if it is installed. The time of
indexing has the start of the processes and the loading of the model in it, which short files show.
Without files, ``--make-minutes`` of 1080p H.264 are made from FFmpeg's test pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccl_hub._util.files import write_atomically

RATE, KEY_FRAME_EVERY = 25, 250


def made(folder: Path, minutes: float) -> Path:
    """Make 1080p H.264 with the key frames that encoders make by default."""
    path = folder / "made.mp4"
    source = f"testsrc2=size=1920x1080:rate={RATE}:duration={60 * minutes}"
    noisy = "noise=alls=6:allf=t"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-vf", noisy, "-g"]
    command += [str(KEY_FRAME_EVERY), "-preset", "veryfast", "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ran(*command: str) -> None:
    """Run a program quietly."""
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def measure(files: list[Path], folder: Path, cores: int) -> dict[str, Any]:
    """Measure each way of reading the files, in seconds."""
    videos = folder / "videos"
    videos.mkdir()
    for number, file in enumerate(files):
        (videos / f"{number:03}-{file.name}").symlink_to(file.resolve())

    def decode() -> None:
        for file in files:
            ran(
                "ffmpeg", "-v", "error", "-threads", str(cores), "-i", str(file), "-f", "null", "-"
            )

    def index(*options: str) -> None:
        code = "from ccl_hub.cli.find_command import find_main; find_main()"
        out = folder / f"library{'-'.join(options)}"
        command = [sys.executable, "-c", code, "index", str(videos), "--out", str(out), "--quiet"]
        ran(*command, "--workers", str(cores), "--threads", str(cores), *options)

    def viddup() -> None:
        options = ["--no-html", "--no-open", "--output", str(folder), "--workers", str(cores)]
        ran("viddup", "scan", str(videos), "--db", str(folder / "viddup.db"), *options)

    facts: dict[str, Any] = {"files": [file.name for file in files], "cores": cores}
    facts["decode_seconds"] = seconds_of(decode)
    facts["index_seconds"] = seconds_of(index)
    facts["index_keyframes_seconds"] = seconds_of(lambda: index("--keyframes"))
    if shutil.which("viddup"):
        facts["viddup_seconds"] = seconds_of(viddup)
    facts["index_of_decode"] = facts["decode_seconds"] / facts["index_seconds"]
    facts["keyframes_of_decode"] = facts["decode_seconds"] / facts["index_keyframes_seconds"]
    return facts


def main(arguments: list[str] | None = None) -> int:
    """Measure, print JSON, and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.find_speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", type=Path, nargs="*", help="1080p H.264")
    parser.add_argument("--make-minutes", type=float, default=5.0)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = options.files or [made(folder, options.make_minutes)]
        facts = measure(files, folder, options.cores)
    print(json.dumps(facts, indent=2))
    if options.out:
        write_atomically(options.out, json.dumps(facts, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
