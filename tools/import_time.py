"""Compare what importing costs in two trees of this project, side by side.

    python -m tools.import_time OLD_TREE NEW_TREE [--runs 15]

Times ``import ccl_hub`` and ``ccl-embed --help`` by ``python -X importtime``, the trees in turn,
so that a busy machine slows both alike. Prints a Markdown table: the time of all imports
together, as the median over the runs, and how many modules were imported.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from .same_results.steps import ENTRY

_SELF_MICROSECONDS = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.import_time", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("old", metavar="OLD_TREE", type=Path, help="a checkout from before")
    parser.add_argument("new", metavar="NEW_TREE", type=Path, help="a checkout from after")
    parser.add_argument("--runs", type=int, default=15, help="of each (default: 15)")
    options = parser.parse_args(words)
    print("| command | old ms | new ms | old modules | new modules |\n|---|---|---|---|---|")
    for name in ("import ccl_hub", "ccl-embed --help"):
        trees = {tree.resolve(): _command(tree, name) for tree in (options.old, options.new)}
        runs = [[_measure(tree, trees[tree]) for tree in trees] for _ in range(options.runs)]
        times = [statistics.median(run[side][0] for run in runs) for side in range(len(trees))]
        cells = [*(f"{1000 * seconds:.0f}" for seconds in times), *(f"{n}" for _, n in runs[-1])]
        print(f"| `{name}` | {' | '.join(cells)} |")
    return 0


def _command(tree: Path, name: str) -> list[str]:
    if name.startswith("import "):
        return ["-c", name]
    program, option = name.split()
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    return ["-c", ENTRY, program, project["project"]["scripts"][program], option]


def _measure(tree: Path, command: Sequence[str]) -> tuple[float, int]:
    """Return the seconds that all imports of a command took, and their number."""
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", *command],
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    microseconds = [int(text) for text in _SELF_MICROSECONDS.findall(done.stderr)]
    return sum(microseconds) / 1e6, len(microseconds)


if __name__ == "__main__":
    sys.exit(main())
