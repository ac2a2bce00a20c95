"""How many clips a second the network embeds, frames already on the device.

    python -m benchmarks.forward                        # best device, fp32 and bf16, with compile
    python -m benchmarks.forward --quick                # seconds, only to see that it runs

``engine`` is what embedding does: every frame once, clips of 8 frames side by side put together
of their parts. ``graph`` is its network alone, ``model`` the network clip by clip, ``matmul`` the
peak of the device. Each is timed in turns; the best of several rounds of a fixed time counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.train_step import machine, training_flop
from ccl_hub.backends import TorchEngine
from ccl_hub.model import CCLModel
from ccl_hub.network.devices import resolve_device
from ccl_hub.network.windows import WindowAssembler
from ccl_hub.transforms import to_clips

CLIP_FRAMES = 8


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table and, with --out, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, help="clips at once [512 on a GPU, 2 on a CPU]")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.seconds, chosen.rounds, chosen.no_compile = 0.2, 1, True
    device = resolve_device(chosen.device)
    batch = chosen.batch or (512 if device.type == "cuda" else 2)
    rows = []
    for dtype in chosen.dtypes.split(","):
        rates = _rates(device, dtype, batch, chosen)
        clip_flop = training_flop(CLIP_FRAMES, 112) / 3
        for name, clips in rates.items():
            share = clips * clip_flop / rates["matmul"]
            if name == "matmul":
                print(f"{dtype:9} {name:16} {clips / 1e12:9.2f} TFLOP/s")
            else:
                print(f"{dtype:9} {name:16} {clips:9.1f} clips/s  {share:6.1%} of matmul")
            rows.append({"dtype": dtype, "what": name, "per_second": clips})
    if chosen.out:
        report = {"machine": machine(device), "batch_clips": batch, "rows": rows}
        chosen.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _rates(
    device: torch.device, dtype: str, batch: int, chosen: argparse.Namespace
) -> dict[str, float]:
    """Clips a second of everything in one dtype; operations a second of matmul."""
    model = CCLModel().eval().to(device=device, dtype=getattr(torch, dtype))
    frames = np.random.default_rng(0).integers(
        0, 256, (batch * CLIP_FRAMES, 112, 112, 3), np.uint8
    )
    resident = torch.from_numpy(frames).to(device)
    indices = np.arange(len(frames)).reshape(batch, CLIP_FRAMES)
    clips = resident.unflatten(0, (batch, CLIP_FRAMES))
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=device, dtype=model.dtype)
    engines = {"": TorchEngine(model)}
    if not chosen.no_compile:
        engines[" compiled"] = TorchEngine(model, compile=True, batch_frames=len(frames))
    work: dict[str, tuple[Callable[[], object], float]] = {}
    for name, engine in engines.items():

        def embed(engine: TorchEngine = engine) -> object:
            return WindowAssembler(indices, engine.clip_head).add(engine.run(resident))

        work["engine" + name] = (embed, batch)
        work["graph" + name] = (lambda engine=engine: engine.run(resident), batch)
    work["model"] = (lambda: model(to_clips(clips, model.preprocessing)), batch)
    work["matmul"] = (lambda: matrix @ matrix, 2.0 * side**3)
    best = dict.fromkeys(work, 0.0)
    with torch.inference_mode():
        for run, _ in work.values():
            run()  # compiles, chooses kernels
        for _ in range(chosen.rounds):
            for name, (run, amount) in work.items():
                best[name] = max(best[name], _rate(run, amount, device, chosen.seconds))
    return best


def _rate(run: Callable[[], object], amount: float, device: torch.device, seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        run()
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return count * amount / (time.perf_counter() - began)


if __name__ == "__main__":
    raise SystemExit(main())
