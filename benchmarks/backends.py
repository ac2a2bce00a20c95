"""Backends against torch in float32: speed, cosine and retrieval, side by side in one run.

    python -m benchmarks.backends --calibrate VIDEOS --data SET [--data SET ...] [--threads 2]

``VIDEOS`` is a folder whose videos calibrate the int8 model, found to any depth; ``SET`` is a
labelled set as ``training.retrieval`` takes it, best none that was calibrated on. Prints:

speed
    As many threads as cores, each giving 16 frames at a time to the backend: real frames, the
    first of the first set. ``frames/s`` is the network alone, ``clips/s`` with the vectors made of
    clips that share no frames. Each round measures every backend, one right after the other, so
    that a busy machine slows all of them; ratios are medians over rounds of a backend by torch.
cosine
    To torch in float32, of every frame and every clip of the sets: mean and lowest.
retrieval
    Top-1 of ``F=>V`` (the very clip that holds the frame) and ``V=>V`` (class, by clip and by
    video), in points, and the difference to torch; 10 clips of each video.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.train_step import machine
from ccl_hub import CCLModel
from ccl_hub.backends import BACKENDS, TORCH_BACKENDS, Engine, cores_to_use, make_engine
from ccl_hub.backends.quantize import build_int8
from ccl_hub.crop import center_crop
from ccl_hub.network.windows import WindowAssembler
from ccl_hub.sampling import ClipPlan, sample_eval
from training.evaluation.features import SetFeatures
from training.evaluation.labelled_sets import EvaluationSet, open_evaluation_set
from training.evaluation.retrieval import Retrieval

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
QUESTIONS = (
    ("F=>V", "clip", "exact clip"),
    ("V=>V", "clip", "class"),
    ("V=>V", "video", "class"),
)


def read(labelled: EvaluationSet, video: int, model: CCLModel, clips: int) -> tuple[Any, ...]:
    """Return the plan of a video, and (U,S,S,3) uint8 frames, those the plan needs."""
    pre = model.preprocessing
    plan = sample_eval(labelled.seconds(video), labelled.duration(video), pre, clips=clips)
    frames = labelled.read(video, np.unique(plan.indices))
    return plan, np.ascontiguousarray(center_crop(frames, pre.crop_px))


def embed(engine: Engine, plan: ClipPlan, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return clip vectors (W,D) and frame vectors (W,T,D)."""
    windows, size = WindowAssembler(plan.indices, engine.clip_head), engine.batch_frames
    parts = [windows.add(engine(frames[i : i + size])) for i in range(0, len(frames), size)]
    return np.concatenate([p.clips for p in parts]), np.concatenate([p.frames for p in parts])


def features(
    engines: dict[str, Engine], labelled: EvaluationSet, clips: int
) -> dict[str, SetFeatures]:
    """Embed a set with every backend, on the same pixels."""
    model = engines["torch"].model
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in engines}
    plans = []
    for video in range(len(labelled)):
        plan, frames = read(labelled, video, model, clips)
        plans.append(plan)
        for name, engine in engines.items():
            found[name].append(embed(engine, plan, frames))
    results = {}
    for name, parts in found.items():
        video_vectors = torch.from_numpy(np.concatenate([one[0] for one in parts]))
        frame_vectors = torch.from_numpy(np.concatenate([one[1] for one in parts]))
        with torch.inference_mode():
            projections = model.project(frame_vectors, video_vectors)
        results[name] = SetFeatures(
            frame_vectors,
            video_vectors,
            *projections,
            np.repeat(np.arange(len(plans)), [len(plan.indices) for plan in plans]),
            np.concatenate([plan.clip_seconds for plan in plans]),
            np.concatenate([plan.frame_seconds for plan in plans]),
        )
    return results


def answers(one: SetFeatures, labelled: EvaluationSet) -> dict[str, float]:
    """Return top-1 of every question, in points."""
    measured = Retrieval(ks=(1,)).measure(one, labelled).measurements
    values = {(m.task, m.level, m.match): 100 * m.value for m in measured if m.space == "512"}
    return {f"{task} {level}": values[task, level, match] for task, level, match in QUESTIONS}


def cosines(one: Tensor, other: Tensor) -> list[float]:
    """Return the mean and the lowest cosine between rows of the same number."""
    found = torch.cosine_similarity(one.flatten(0, -2).double(), other.flatten(0, -2).double())
    return [float(found.mean()), float(found.min())]


def speeds(
    engines: dict[str, Engine], frames: np.ndarray, lanes: int, rounds: int, batches: int
) -> dict[str, list[tuple[float, float]]]:
    """Return frames/s and clips/s of each round by backend, after one that does not count."""
    length = engines["torch"].model.preprocessing.clip_frames
    size = engines["torch"].batch_frames // length * length
    some = [frames[i : i + size] for i in range(0, len(frames) - size + 1, size)]
    rows = np.arange(size).reshape(-1, length)

    def per_second(work: Callable[[np.ndarray], object]) -> float:
        def lane(first: int) -> None:
            for number in range(first, first + batches):
                work(some[number % len(some)])

        start = time.perf_counter()
        with ThreadPoolExecutor(lanes) as pool:
            list(pool.map(lane, range(lanes)))
        return lanes * batches * size / (time.perf_counter() - start)

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, engine in engines.items():
            network = per_second(engine)
            clips = per_second(lambda x, e=engine: WindowAssembler(rows, e.clip_head).add(e(x)))
            if turn:
                found[name].append((network, clips / length))
    return found


def rows_of(speed: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Return medians, and ratios to torch with their range over rounds."""
    rows = []
    for name, turns in speed.items():
        row: dict[str, Any] = {"backend": name}
        for place, unit in enumerate(("frames_per_s", "clips_per_s")):
            values = [turn[place] for turn in turns]
            base = [turn[place] for turn in speed["torch"]]
            ratios = [one / other for one, other in zip(values, base, strict=True)]
            row[unit] = statistics.median(values)
            row[f"{unit}_ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
        rows.append(row)
    return rows


def compared(
    engines: dict[str, Engine], labelled: EvaluationSet, clips: int
) -> list[dict[str, Any]]:
    """Return cosine and retrieval of every backend on one set."""
    found = features(engines, labelled, clips)
    wanted, base = found["torch"], answers(found["torch"], labelled)
    rows = []
    for name, one in found.items():
        top = answers(one, labelled)
        rows.append(
            {
                "backend": name,
                "frame_cosine": cosines(one.frames, wanted.frames),
                "clip_cosine": cosines(one.video, wanted.video),
                "top1": {key: [value, value - base[key]] for key, value in top.items()},
            }
        )
    return rows


def print_tables(report: dict[str, Any]) -> None:
    """Print what was measured to stdout."""
    for row in report.get("speed", []):
        cells = [f"{row['backend']:14}"]
        for unit in ("frames_per_s", "clips_per_s"):
            ratio, low, high = row[f"{unit}_ratio"]
            value = f"{row[unit]:7.1f} {unit.replace('_per_', '/')}"
            cells.append(f"{value} {ratio:5.2f}x ({low:.2f} to {high:.2f})")
        print("  ".join(cells))
    for name, rows in report["sets"].items():
        print(f"\n{name}: cosine to torch, mean (lowest); top-1 (difference)")
        for row in rows:
            cells = [f"{row['backend']:14}"]
            for kind in ("frame", "clip"):
                mean, lowest = row[f"{kind}_cosine"]
                cells.append(f"{kind} {mean:.5f} ({lowest:.4f})")
            cells += [f"{key} {v:.2f} ({d:+.2f})" for key, (v, d) in row["top1"].items()]
            print("  ".join(cells))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print tables or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backends",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="ccl_lite0")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--calibrate", type=Path, required=True, help="folder of videos")
    parser.add_argument("--data", action="append", required=True, metavar="SET")
    parser.add_argument("--cache", type=Path, help="of the int8 model")
    parser.add_argument("--clips", type=int, default=10, help="of each video")
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0 for all")
    parser.add_argument("--rounds", type=int, default=7, help="of timing; 0 for none")
    parser.add_argument("--batches", type=int, default=8, help="of each thread in a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    lanes = cores_to_use(options.threads)
    torch.set_num_threads(1)
    model = CCLModel.from_pretrained(options.model)
    engines: dict[str, Engine] = {}
    for name in dict.fromkeys(["torch", *options.backends]):
        int8 = None
        if name == "openvino-int8":
            videos = sorted(p for p in options.calibrate.rglob("*") if p.suffix in SUFFIXES)
            int8 = build_int8(model, videos, cache=options.cache)
        engines[name] = make_engine(model, name, 0 if name in TORCH_BACKENDS else lanes, int8)
    sets = [open_evaluation_set(place, model.preprocessing) for place in options.data]
    report: dict[str, Any] = {"machine": machine(torch.device("cpu")), "threads": lanes}
    if options.rounds:
        some = [read(sets[0], video, model, 4)[1] for video in range(min(8, len(sets[0])))]
        found = speeds(engines, np.concatenate(some), lanes, options.rounds, options.batches)
        report["speed"] = rows_of(found)
    report["sets"] = {
        one.videos.name: compared(engines, one, options.clips)
        for one in (sets if options.clips else [])
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_tables(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
