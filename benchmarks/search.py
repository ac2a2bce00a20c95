"""How fast the exact search of ``training.evaluation.search`` is, and how much memory it takes.

    python -m benchmarks.search --rows 20000 --threads 1 --out search.json

Searches ``--rows`` queries in as many gallery rows of ``--dim`` dimensions. Three kinds of rows:
``spread`` (directions at random), ``close`` (a network near collapse: all cosines above 0.99) and
``equal`` (a collapsed one). The time of a larger search follows from the scores per second, as
the number of scores is queries times gallery rows; ``--project`` prints it, marked as computed.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_step import machine
from ccl_hub._util.files import write_atomically
from training.evaluation.search import nearest

SPREADS = {"spread": 1.0, "close": 0.05, "equal": 0.0}


def rows_of(kind: str, count: int, dim: int, device: torch.device) -> torch.Tensor:
    """Return (count, dim) float32 rows of one kind."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, dim, generator=generator)
    base = torch.randn(1, dim, generator=generator) * (kind != "spread")
    return (base + SPREADS[kind] * noise).to(device)


def measure(kind: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Search once and return what it took."""
    gallery = rows_of(kind, options.rows, options.dim, device)
    queries = gallery[torch.randperm(options.rows, generator=torch.Generator().manual_seed(1))]
    nearest(queries[:64], gallery[:256], min(options.k, 256))  # first calls are slower
    start, used = time.perf_counter(), time.process_time()
    nearest(queries, gallery, options.k)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "kind": kind,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(used, 3),
        "scores_per_second": round(options.rows**2 / seconds),
        "process_peak_mb": round(peak),
        "gpu_peak_mb": round(torch.cuda.max_memory_allocated(device) / 2**20)
        if device.type == "cuda"
        else None,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table to stdout and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", type=int, default=20_000, help="queries, and gallery rows")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--kinds", nargs="+", choices=SPREADS, default=list(SPREADS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--project", type=int, default=1_000_000, help="rows to compute a time for"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    found = [measure(kind, options, device) for kind in options.kinds]
    for row in found:
        per_second = row["scores_per_second"]
        hours = options.project**2 / per_second / 3600
        print(
            f"{row['kind']:7} {row['seconds']:9.2f} s (CPU {row['cpu_seconds']:.2f} s)  "
            f"{per_second / 1e6:9.1f} M scores/s  peak {row['process_peak_mb']} MB  "
            f"({options.project:,} x {options.project:,}: {hours:.2f} h, computed)"
        )
    report = {
        "command": "python -m benchmarks.search " + " ".join(arguments or sys.argv[1:]),
        "machine": machine(device),
        "rows": options.rows,
        "dim": options.dim,
        "k": options.k,
        "results": found,
    }
    if options.out:
        write_atomically(options.out, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
