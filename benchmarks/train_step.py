"""How fast one training step is, against the machine's matmul peak and against Conv3d.

    python -m benchmarks.train_step                  # this machine's best device, fp32 and bf16
    python -m benchmarks.train_step --compile --batch 256 --out step.json
    python -m benchmarks.train_step --quick          # seconds, only to see that it runs

Four things are timed for each number type, in turns, so that a busy machine slows all alike:
``step`` (forward, objective, backward, SGD), ``network`` (forward and backward alone, the limit),
``conv3d`` (the same step with the paper's network written literally) and ``matmul`` (the peak).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ccl_hub.model import CCLModel, CCLOutput
from tests.support.reference import Conv3dReference
from training.distributed.world import World, backward_step
from training.objective import Objective

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


class Conv3dNetwork(nn.Module):
    """The literal network with the projection of a CCLModel and its calling convention."""

    def __init__(self, model: CCLModel) -> None:
        super().__init__()
        self.reference, self.projection = Conv3dReference().load_from(model), model.projection

    def forward(self, clips: Tensor, project: bool = True) -> CCLOutput:
        """Clips (B,3,T,H,W) -> features and projections."""
        frames, video = self.reference(clips)
        both = self.projection(torch.cat([frames, video[:, None]], dim=1))
        return CCLOutput(frames, video, both[:, :-1], both[:, -1])


@dataclass
class Timed:
    """Something that is run again and again."""

    name: str
    run: Callable[[], object]
    flop: float
    clips: int
    seconds: list[float]
    first_seconds: float = 0.0
    peak_bytes: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table to stdout and write JSON."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.batch, options.size, options.rounds, options.seconds = 2, 32, 2, 0.2
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    options.batch = options.batch or (256 if device.type == "cuda" else 4)
    if options.threads:
        torch.set_num_threads(options.threads)
    flop = training_flop(options.frames, options.size)
    rows = []
    for dtype in options.dtypes.split(","):
        _set_precision(dtype)
        items = _items(options, device, dtype, flop)
        _measure(items, device, options)
        rows += [_row(item, dtype, items[-1]) for item in items]
        del items
    report = {
        "machine": machine(device),
        "settings": {k: v for k, v in vars(options).items() if k not in ("out", "quick")},
        "training_gflop_per_clip": flop / 1e9,
        "rows": rows,
    }
    print(table(report))
    if options.out:
        _write(options.out, json.dumps(report, indent=2) + "\n")
    return 0


def training_flop(frames: int, size_px: int) -> float:
    """Floating-point operations of one training clip: three times those of its forward pass."""
    with torch.device("meta"):
        model, clip = CCLModel().eval(), torch.zeros(1, 3, frames, size_px, size_px)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clip, project=True)
    return 3.0 * counter.get_total_flops()


def _items(
    options: argparse.Namespace, device: torch.device, dtype: str, flop: float
) -> list[Timed]:
    """What to time in one number type; the matmul comes last."""
    torch.manual_seed(0)
    model = CCLModel().to(device).train()
    shape = (options.batch, options.frames, 3, options.size, options.size)
    clips = torch.randn(shape, device=device).transpose(1, 2)  # (B,3,T,H,W)
    autocast = torch.bfloat16 if dtype == "bf16" else None
    world = World(device=device)
    work = flop * options.batch
    items = []
    networks: list[tuple[str, nn.Module]] = [("step", model)]
    if not options.no_conv3d:
        networks.append(("conv3d", Conv3dNetwork(CCLModel()).to(device).train()))
    for name, network in networks:
        if options.compile:
            network.compile()
        step = _step(network, clips, world, options.chunks, autocast)
        items.append(Timed(name, step, work, options.batch, []))

    def network_alone() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            output = model(clips, project=True)
        (output.frame_projections.sum() + output.video_projections.sum()).backward()

    items.append(Timed("network", network_alone, work, options.batch, []))
    side = options.matmul or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(side, side, device=device).to(DTYPES[dtype])
    items.append(Timed("matmul", lambda: a @ a, 2.0 * side**3, 0, []))
    return items


def _step(
    network: nn.Module, clips: Tensor, world: World, chunks: int, autocast: torch.dtype | None
) -> Callable[[], object]:
    """Return a function that does one update."""
    objective = Objective(preset="tuned")
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    pieces = clips.tensor_split(chunks)

    def step() -> None:
        backward_step(network, objective, pieces, world, autocast)
        optimizer.step()

    return step


def _measure(items: list[Timed], device: torch.device, options: argparse.Namespace) -> None:
    """Time each item for a while, in turns; the first run (compilation, caches) apart."""
    for item in items:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        item.first_seconds = _timed(item.run, device, 1)
        if device.type == "cuda":
            item.peak_bytes = torch.cuda.max_memory_allocated(device)
    repeats = [max(1, round(options.seconds / max(_timed(i.run, device, 1), 1e-6))) for i in items]
    for turn in range(options.rounds):
        for item, count in zip(items, repeats, strict=True):
            item.seconds.append(_timed(item.run, device, count))
            print(f"round {turn + 1}/{options.rounds}: {item.name}", file=sys.stderr)


def _timed(run: Callable[[], object], device: torch.device, count: int) -> float:
    """Return seconds per run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / count


def _row(item: Timed, dtype: str, matmul: Timed) -> dict[str, Any]:
    """Medians over rounds; the share of the peak is the median of each round's share."""
    shares = [
        (item.flop / own) / (matmul.flop / peak)
        for own, peak in zip(item.seconds, matmul.seconds, strict=True)
    ]
    seconds = statistics.median(item.seconds)
    return {
        "name": item.name,
        "dtype": dtype,
        "seconds": seconds,
        "seconds_of_rounds": item.seconds,
        "first_seconds": item.first_seconds,
        "clips_per_second": item.clips / seconds,
        "gflop_per_second": item.flop / seconds / 1e9,
        "share_of_matmul_peak": statistics.median(shares),
        "peak_gpu_bytes": item.peak_bytes,
    }


def table(report: dict[str, Any]) -> str:
    """Render the rows for people."""
    options = report["settings"]
    lines = [
        f"{report['machine']['device']}; {'compiled' if options['compile'] else 'eager'}, batch "
        f"{options['batch']}, {options['frames']} frames of {options['size']}x{options['size']}, "
        f"{report['training_gflop_per_clip']:.1f} GFLOP a clip",
        f"{'what':8} {'type':5} {'clips/s':>9} {'GFLOP/s':>10} {'of peak':>8} {'seconds':>9}",
    ]
    for row in report["rows"]:
        lines.append(
            f"{row['name']:8} {row['dtype']:5} {row['clips_per_second']:9.2f} "
            f"{row['gflop_per_second']:10.1f} {row['share_of_matmul_peak']:8.1%} "
            f"{row['seconds']:9.4f}"
        )
    return "\n".join(lines)


def machine(device: torch.device) -> dict[str, Any]:
    """Facts that the figures depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    facts: dict[str, Any] = {
        "device": cpu if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        facts["cuda"], facts["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
        facts["gpu_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return facts


def _set_precision(dtype: str) -> None:
    """Let float32 be float32 unless ``tf32`` is asked for."""
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"


def _write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, help="clips a step (256 on a GPU, 4 on a CPU)")
    parser.add_argument("--chunks", type=int, default=1, help="parts of the batch, two passes")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=112, help="crop side in pixels")
    parser.add_argument("--dtypes", default="fp32,bf16", help="some of fp32, tf32, bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile both networks")
    parser.add_argument("--no-conv3d", action="store_true", help="leave the comparison out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each item in a round")
    parser.add_argument("--matmul", type=int, help="side of the matmul (8192 GPU, 2048 CPU)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="smallest sizes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
