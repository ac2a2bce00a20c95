"""Exported files against the model itself: clips a second, side by side in one run.

    python -m benchmarks.export [MODEL] [--threads 1] [--batch 1] [--rounds 9] [--json]

Each round times every way once on the same clips, one right after the other, so that a busy
machine slows all of them; the ratios are medians over rounds of the time of the model by the time
of the way. The files are written to a temporary folder by
``ccl_hub.backends.export.export_model``, which compares their numbers first. CPU, float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch

from ccl_hub import CCLModel
from ccl_hub.backends.export import SUFFIXES, export_model

Way = Callable[[torch.Tensor], object]


def open_file(kind: str, path: Path, threads: int) -> Way:
    """Return a function that runs an exported file."""
    if kind == "torch-export":
        return torch.export.load(path).module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(["frames", "video"], {"clips": clips.numpy()})


def measure(ways: dict[str, Way], clips: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Return seconds of each round by way, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(clips)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="ccl_lite0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1, help="clips computed at once")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = CCLModel.from_pretrained(arguments.model)
    pre = model.preprocessing
    clips = torch.randn(arguments.batch, 3, pre.clip_frames, pre.crop_px, pre.crop_px)
    ways: dict[str, Way] = {"model": model}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for kind, suffix in SUFFIXES.items():
            path = Path(folder) / f"model{suffix}"
            export_model(model, path, kind)
            ways[kind] = open_file(kind, path, arguments.threads)
        seconds = measure(ways, clips, arguments.rounds)
    rows = []
    for name, times in seconds.items():
        ratios = [one / other for one, other in zip(seconds["model"], times, strict=True)]
        speed = arguments.batch / statistics.median(times)
        rows.append({"way": name, "clips_per_s": speed, "ratio": statistics.median(ratios)})
    about = {
        "shape": list(clips.shape),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    if arguments.json:
        sys.stdout.write(json.dumps({**about, "rows": rows}) + "\n")
        return
    sys.stdout.write(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    for row in rows:
        speed = f"{row['clips_per_s']:6.2f} clips/s"
        sys.stdout.write(f"{row['way']:14} {speed} {row['ratio']:5.2f}x\n")


if __name__ == "__main__":
    main()
