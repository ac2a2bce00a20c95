"""Embedding real videos: ours against what people run today; overlap; how the cost grows.

    python -m benchmarks.embed compare VIDEOS [--videos 200] [--clips 2] [--rounds 4]
    python -m benchmarks.embed overlap VIDEOS [--videos 60]
    python -m benchmarks.embed growth VIDEO --backend openvino-int8 [--files 100,1000,10000]

``compare`` takes the same videos, a share of them each round, through every system in turn, each
a process of its own, so that a busy machine slows all alike; ``ratio`` is in videos per second to
``ours torch``, the median over rounds. ``r3d_18`` is torchvision's 3-D ResNet-18 and ``videomae``
transformers' VideoMAE-base, both with random weights (their speed is that of trained ones) in the
loop that their examples show: PyAV, every frame converted, the wanted ones kept. Peak memory is
that of the process and its children. Start-up, measured apart, does not count.

``overlap`` runs decoding alone (a network that answers at once), the network alone (frames that
are there already) and both, in turns: the share of the slower one that both together reach.
``growth`` embeds 1, 10 and 60 minutes of video, and ever more files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.memory import PeakMemory
from benchmarks.video_loops import looped
from ccl_hub.backends import BACKENDS, Engine
from ccl_hub.batch import BatchOptions, embed_batch, engines_for
from ccl_hub.inputs import find_videos
from ccl_hub.job import JobInputs, run_job
from ccl_hub.network.frame_maps import FrameMaps
from ccl_hub.sampling import Sampling

OURS = tuple(f"ours {name}" for name in BACKENDS if name not in ("torch-compile", "openvino-bf16"))
OTHERS = ("r3d_18", "videomae")
MINUTES = (1, 10, 60)


def main(arguments: list[str] | None = None) -> int:
    """Run one of the three; prints a table and, with --out, writes JSON."""
    chosen = _parser().parse_args(arguments)
    rows = {"compare": compare, "overlap": overlap, "growth": growth, "one": one}[chosen.what](
        chosen
    )
    if chosen.what == "one":
        print(json.dumps(rows))
        return 0
    columns = list(rows[0])
    print("  ".join(f"{name:>16}" for name in columns))
    for row in rows:
        cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
        print("  ".join(f"{cell:>16}" for cell in cells))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("compare", "overlap", "growth", "one"))
    parser.add_argument("source", type=Path, help="folder of videos; one video for growth")
    parser.add_argument("--model", default="ccl_lite0")
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--systems", default=",".join((*OURS, *OTHERS)))
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="of growth")
    parser.add_argument("--files", default="100,1000,10000", help="of growth")
    parser.add_argument("--threads", type=int, help="of the network; all cores if left out")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    parser.add_argument("--system", default="ours torch", help=argparse.SUPPRESS)
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    return parser


def _paths(folder: Path, count: int) -> list[Path]:
    """Videos spread over the whole folder, always the same."""
    found = [video.path for video in find_videos([folder])]
    return [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]


# compare ----------------------------------------------------------------------------------------


def compare(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Every system on the same videos, in turns."""
    systems = chosen.systems.split(",")
    shares = np.array_split(np.array(_paths(chosen.source, chosen.videos)), chosen.rounds)
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for share in shares:
        for system in systems:
            runs[system].append(_apart(chosen, system, share.tolist()))
            print(f"{system}: {runs[system][-1]}", file=sys.stderr)
    base = runs[systems[0]]
    return [
        {
            "system": system,
            "videos/s": sum(r["videos"] for r in found) / sum(r["seconds"] for r in found),
            "frames/s": sum(r["frames"] for r in found) / sum(r["seconds"] for r in found),
            "ratio": statistics.median(
                b["seconds"] / r["seconds"] for b, r in zip(base, found, strict=True)
            ),
            "peak MB": max(r["peak_bytes"] for r in found) / 1e6,
            "start-up s": statistics.median(r["start_seconds"] for r in found),
        }
        for system, found in runs.items()
    ]


def _apart(chosen: argparse.Namespace, system: str, paths: list[Path]) -> dict[str, Any]:
    """Run one system in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list.txt"
        listed.write_text("\n".join(map(str, paths)))
        command = [sys.executable, "-m", "benchmarks.embed", "one", str(chosen.source)]
        options = {"--system": system, "--list": listed, "--clips": chosen.clips}
        options |= {"--model": chosen.model}
        if chosen.threads:
            options["--threads"] = chosen.threads
        words = [str(word) for pair in options.items() for word in pair]
        done = subprocess.run([*command, *words], stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def one(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run one system over the listed videos."""
    paths = [Path(line) for line in chosen.list.read_text().splitlines()]
    began = time.perf_counter()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    make = (
        _ours if chosen.system in OURS else {"r3d_18": _r3d, "videomae": _videomae}[chosen.system]
    )
    run = make(chosen)
    list(run(paths[:1]))  # warm
    ready = time.perf_counter()
    with PeakMemory() as memory:
        frames = list(run(paths))
    return {
        "videos": len(frames),
        "frames": sum(frames),
        "seconds": time.perf_counter() - ready,
        "start_seconds": ready - began,
        "peak_bytes": memory.bytes,
    }


Runner = Callable[[list[Path]], Iterable[int]]


def _ours(chosen: argparse.Namespace) -> Runner:
    """Yield the frames that went through the network, video by video."""
    backend, options = chosen.system.removeprefix("ours "), BatchOptions(threads=chosen.threads)
    device = "auto" if backend == "torch" else "cpu"
    engines = engines_for(chosen.model, None, device, None, backend, options)

    def run(paths: list[Path]) -> Iterable[int]:
        for item in embed_batch(paths, engines, Sampling(clips=chosen.clips), options):
            if item.embeddings is None:
                raise SystemExit(f"{item.path}: {item.reason}")
            yield item.embeddings.frames.shape[0] * item.embeddings.frames.shape[1]

    return run


def _r3d(chosen: argparse.Namespace) -> Runner:
    from torchvision.models.video import r3d_18

    net = r3d_18(weights=None).eval()
    net.fc = torch.nn.Identity()
    mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1, 1)

    def clip(frames: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).float()  # (16,3,H,W)
        small = torch.nn.functional.interpolate(images, (128, 171), mode="bilinear")
        return (small[:, :, 8:120, 29:141].permute(1, 0, 2, 3) / 255 - mean) / std

    def embed(clips: list[np.ndarray]) -> object:
        with torch.inference_mode():
            return net(torch.stack([clip(frames) for frames in clips]))

    return _plain_loop(chosen.clips, embed)


def _videomae(chosen: argparse.Namespace) -> Runner:
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    net, processor = VideoMAEModel(VideoMAEConfig()).eval(), VideoMAEImageProcessor()

    def embed(clips: list[np.ndarray]) -> object:
        with torch.inference_mode():
            pixels = processor([list(frames) for frames in clips], return_tensors="pt")
            return net(**pixels).last_hidden_state.mean(1)

    return _plain_loop(chosen.clips, embed)


def _plain_loop(clips: int, embed: Callable[[list[np.ndarray]], object]) -> Runner:
    """What the examples of these models do: PyAV, 16 frames of every clip."""
    import av

    def run(paths: list[Path]) -> Iterable[int]:
        for path in paths:
            with av.open(str(path)) as container:
                frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
            starts = np.linspace(0, max(0, len(frames) - 32), clips).astype(int)
            rows = np.minimum(starts[:, None] + np.arange(0, 32, 2), len(frames) - 1)
            embed([np.stack([frames[i] for i in row]) for row in rows])
            yield rows.size

    return run


# overlap ----------------------------------------------------------------------------------------


class _Instant:
    """A network that answers at once: what is left is decoding."""

    def __init__(self, engine: Engine) -> None:
        self.model, self.info, self.clip_head = engine.model, engine.info, engine.clip_head
        self.batch_frames, self.calls_at_once = engine.batch_frames, engine.calls_at_once

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        dim, library = len(self.clip_head.shift), torch
        if isinstance(self.clip_head.shift, np.ndarray):
            library = np
        shapes = (len(frames), dim), (len(frames), 1, 3, dim)
        return FrameMaps(*(library.zeros(shape, dtype=library.float32) for shape in shapes))


def overlap(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Decoding alone, the network alone, both: one process decodes, one thread computes."""
    paths = _paths(chosen.source, chosen.videos)
    options = BatchOptions(workers=1, threads=1)
    (engine,) = engines_for(chosen.model, None, "cpu", None, chosen.backend, options, most=1)
    sampling, rows = Sampling(clips=chosen.clips), []
    for share in np.array_split(np.arange(len(paths)), chosen.rounds):
        mine = [paths[i] for i in share]
        recorder = _Recorder(engine)
        seconds = {
            "decoding": _timed(mine, _Instant(engine), sampling, options),
            "both": _timed(mine, recorder, sampling, options),
            "network": _computed(engine, recorder.blocks),
        }
        slower = max(seconds["decoding"], seconds["network"])
        rows.append({"videos": len(mine), **seconds, "of the slower": slower / seconds["both"]})
    share = statistics.median(row["of the slower"] for row in rows)
    return [*rows, {**{name: "" for name in rows[0]}, "videos": "median", "of the slower": share}]


class _Recorder:
    """An engine that keeps what it was given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model, self.info, self.clip_head = engine.model, engine.info, engine.clip_head
        self.batch_frames, self.calls_at_once = engine.batch_frames, engine.calls_at_once
        self.blocks: list[np.ndarray] = []

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        self.blocks.append(frames)
        return self._engine(frames)


def _timed(paths: list[Path], engine: Any, sampling: Sampling, options: BatchOptions) -> float:
    """Seconds from the first result on: processes have started then."""
    results = embed_batch([paths[0], *paths], [engine], sampling, options)
    next(results)
    began = time.perf_counter()
    list(results)
    return time.perf_counter() - began


def _computed(engine: Engine, blocks: list[np.ndarray]) -> float:
    with ThreadPoolExecutor(1) as pool:  # a thread as in the pipeline
        pool.submit(torch.set_num_threads, 1).result()
        began = time.perf_counter()
        for block in blocks:
            pool.submit(engine, block).result()
        return time.perf_counter() - began


# growth -----------------------------------------------------------------------------------------


def growth(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Longer videos, then more files; each in a process of its own for its peak memory."""
    rows = []

    def job(inputs: list[Path], sampling: Sampling, what: str) -> None:
        own = (chosen.model, chosen.backend, chosen.threads, inputs, sampling, what)
        with get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(_job, own))

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for minutes in MINUTES:
            video = looped(chosen.source, place / f"{minutes}.mp4", minutes * 60)
            for sampling in (Sampling(clips=10), Sampling(every_seconds=1.0)):
                job([video], sampling, f"{minutes} min {sampling}")
        for count in map(int, chosen.files.split(",")):
            many = place / f"many{count}"
            many.mkdir()
            for i in range(count):
                os.link(place / "1.mp4", many / f"{i:06}.mp4")
            job([many], Sampling(clips=1), f"{count} files clips=1")
    return rows


def _job(
    model: str,
    backend: str,
    threads: int | None,
    inputs: list[Path],
    sampling: Sampling,
    what: str,
) -> dict[str, Any]:
    """Run a job in this process, which has run nothing else, and report its peak memory."""
    options = BatchOptions(threads=threads)
    engines = engines_for(model, None, "cpu", None, backend, options)
    with tempfile.TemporaryDirectory() as out, PeakMemory() as memory:
        summary = run_job(JobInputs(inputs), Path(out) / "feats", engines, sampling, batch=options)
    row = {
        "what": what,
        "seconds": summary.elapsed_seconds,
        "done": summary.counts["done"],
        "peak MB": memory.bytes / 1e6,
        "more than before MB": (memory.bytes - memory.before_bytes) / 1e6,
    }
    print(row, file=sys.stderr)
    return row


if __name__ == "__main__":
    raise SystemExit(main())
