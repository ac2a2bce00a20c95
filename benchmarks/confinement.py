"""What confining decoders costs: videos a second of a batch, and one video from a cold start.

    python -m benchmarks.confinement VIDEOS [--videos 60] [--rounds 5] [--out costs.json]

Both ways take turns, so that a busy machine slows them alike, and the order changes each round.
``batch`` decodes every video by the pool and throws its frames away, which is where confinement
costs most: no network runs. The share is 1 - (rate with --sandbox require) / (rate with off), the
median over rounds; allowed are 5 %. Without a sandbox workers open files themselves, so the share
holds the handing over of descriptors, too. ``cold`` runs ``ccl-embed one.mp4`` from nothing, and
``embed`` a program that loads the model and then times its first ``model.embed(path)``; the
difference is the median over rounds; allowed are 0.15 s. The machine must be idle: the process for
one video starts on another core while the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ccl_hub._util.machine import worker_bytes, worker_count
from ccl_hub.config import Preprocessing
from ccl_hub.decoding.messages import DecodeSettings, Ended, Failed, Job
from ccl_hub.decoding.pool import Block, DecodePool, Event
from ccl_hub.decoding.sandbox import Sandbox
from ccl_hub.inputs import find_videos
from ccl_hub.sampling import Sampling
from ccl_hub.video import MediaLimits

MOST_SHARE, MOST_SECONDS = 0.05, 0.15
WAYS: tuple[Sandbox, ...] = ("require", "off")
FIRST_EMBED = """
import sys, time
from ccl_hub import CCLModel
model = CCLModel.from_pretrained("ccl_r18_mini")
began = time.perf_counter()
model.embed(sys.argv[1], clips=1, decode={"require": "confined", "off": "in-process"}[sys.argv[2]])
print(time.perf_counter() - began)
"""
EMBED_ONE = "from ccl_hub.cli.embed_command import embed_main; embed_main()"


def main(arguments: list[str] | None = None) -> int:
    """Print a row for each measure; exit code 1 if one costs more than is allowed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confinement", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, help="a folder of videos")
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    paths = [video.path for video in find_videos([chosen.source])][: chosen.videos]
    rows = [_batch(paths, chosen.rounds), *_one_video(paths[0], chosen.rounds)]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(rows, indent=2) + "\n")
    return int(not all(row["fits"] for row in rows))


def _in_turns(measure: Callable[[Sandbox], float], rounds: int) -> dict[Sandbox, list[float]]:
    """Return what each way takes in each round, after a round that does not count."""
    seconds: dict[Sandbox, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS if number % 2 else reversed(WAYS):
            taken = measure(way)
            if number:
                seconds[way].append(taken)
    return seconds


def _batch(paths: list[Path], rounds: int) -> dict[str, object]:
    seconds = _in_turns(lambda way: _decoded(paths, way), rounds)
    pairs = zip(seconds["require"], seconds["off"], strict=True)
    shares = [1 - off / confined for confined, off in pairs]
    share = statistics.median(shares)
    rates = {way: round(len(paths) / statistics.median(seconds[way]), 2) for way in WAYS}
    return {
        "what": "batch",
        "videos": len(paths),
        **{f"videos/s {way}": rate for way, rate in rates.items()},
        "share": round(share, 4),
        "shares": [round(one, 4) for one in shares],
        "allowed": MOST_SHARE,
        "fits": share <= MOST_SHARE,
    }


def _decoded(paths: list[Path], way: Sandbox) -> float:
    """Decode videos in processes that are there already; return the seconds that it took."""
    ends: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def hear(event: Event) -> None:
        match event:
            case Block():
                event.release()
            case Ended() | Failed() | BaseException():
                ends.put(event)

    workers = worker_count()
    settings = DecodeSettings(
        Preprocessing(),
        Sampling(),
        MediaLimits(),
        memory_bytes=worker_bytes(workers),
        sandbox=way,
    )
    with closing(DecodePool(settings, hear, workers, 600.0)) as pool:

        def decode(some: list[Path]) -> None:
            for number, path in enumerate(some):
                pool.submit(Job(number, path.absolute()))
            for _ in some:
                event = ends.get()
                if isinstance(event, BaseException):
                    raise event

        decode(paths[: 2 * workers])
        began = time.perf_counter()
        decode(paths)
        return time.perf_counter() - began


def _one_video(path: Path, rounds: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:

        def cold(way: Sandbox) -> float:
            began = time.perf_counter()
            out = str(Path(folder, "out.npz"))
            options = [str(path), "--clips", "1", "--out", out, "--sandbox", way, "--quiet"]
            subprocess.run([sys.executable, "-c", EMBED_ONE, *options], check=True)
            return time.perf_counter() - began

        def first(way: Sandbox) -> float:
            command = [sys.executable, "-c", FIRST_EMBED, str(path), way]
            return float(subprocess.run(command, check=True, capture_output=True).stdout)

        rows = []
        for what, measure in (("cold", cold), ("embed", first)):
            seconds = _in_turns(measure, rounds)
            more = statistics.median(
                confined - off
                for confined, off in zip(seconds["require"], seconds["off"], strict=True)
            )
            rows.append(
                {
                    "what": what,
                    **{
                        f"seconds {way}": round(statistics.median(seconds[way]), 3) for way in WAYS
                    },
                    "more": round(more, 3),
                    "allowed": MOST_SECONDS,
                    "fits": more <= MOST_SECONDS,
                }
            )
        return rows


if __name__ == "__main__":
    raise SystemExit(main())
