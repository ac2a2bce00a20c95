"""Decoding of this tree beside that of another one, on one's own videos.

    python -m benchmarks.decode VIDEOS... --against TREE [--clips 10] [--rounds 9] [--json]

Each round reads every video in both trees, each in a process of its own and in turns, so that a
busy machine slows both alike: the list of its frames, then those of evenly spread clips, resized.
Start-up does not count. ``ratio`` is in frames per second, this tree's to the other's, the median
over rounds. Frames and times that differ are counted, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent

READ = """
import hashlib, json, sys, time
import numpy as np
from ccl_hub.config import Preprocessing
from ccl_hub.errors import MediaError
from ccl_hub.sampling import sample_eval
from ccl_hub.video import VideoReader

clips, *paths = sys.argv[1:]
frames, facts, began = 0, {}, time.perf_counter()
for path in paths:
    print_of = hashlib.sha256()
    try:
        with VideoReader(path, resize=Preprocessing()) as reader:
            info = reader.info
            plan = sample_eval(info.seconds, info.duration_seconds, Preprocessing(), int(clips))
            print_of.update(np.round(info.seconds, 6).tobytes())
            for _, frame in reader.frames(np.unique(plan.indices), skip_missing=True):
                print_of.update(frame.tobytes())
                frames += 1
    except MediaError as error:
        print_of.update(error.code.encode())
    facts[path] = print_of.hexdigest()
print(json.dumps({"frames": frames, "seconds": time.perf_counter() - began, "facts": facts}))
"""


def files_of(places: list[Path]) -> list[str]:
    """Return the files of folders and the files named."""
    found = [
        path for place in places for path in (place.rglob("*") if place.is_dir() else [place])
    ]
    return sorted(str(path) for path in found if path.is_file())


def read(tree: Path, clips: int, paths: list[str]) -> dict[str, Any]:
    """Read videos with the code of a tree."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", READ, str(clips), *paths],
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def compare(tree: Path, clips: int, rounds: int, paths: list[str]) -> dict[str, Any]:
    """Read the videos in both trees, in turns."""
    ratios, rates, differ = [], [], set()
    for number in range(rounds):
        order = (HERE, tree) if number % 2 else (tree, HERE)
        got = {place: read(place, clips, paths) for place in order}
        ours, theirs = got[HERE], got[tree]
        rates.append(ours["frames"] / ours["seconds"])
        ratios.append(rates[-1] / (theirs["frames"] / theirs["seconds"]))
        differ |= {path for path in paths if ours["facts"][path] != theirs["facts"][path]}
    return {
        "videos": len(paths),
        "frames_per_second": round(statistics.median(rates), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "differ": sorted(differ),
    }


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--against", type=Path, required=True, help="root of the other tree")
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    paths = files_of(options.videos)
    found = compare(options.against.resolve(), options.clips, options.rounds, paths)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['videos']} videos, {found['frames_per_second']} frames/s")
    print(f"ratio {found['ratio']} ({found['ratios'][0]} to {found['ratios'][-1]})")
    print(f"{len(found['differ'])} differ {', '.join(found['differ'][:10])}")


if __name__ == "__main__":
    main()
