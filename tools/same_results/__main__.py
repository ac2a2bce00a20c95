"""Compare what two trees of this project compute, bit for bit, on the same inputs.

    python -m tools.same_results OLD_TREE NEW_TREE [--videos FOLDER ...] [--out FOLDER]

For changes that must not change results, such as moving modules: OLD_TREE is a checkout from
before, NEW_TREE one from after. Both run the same commands in the same working folder, one tree
after the other: golden values, single videos by every backend that is installed, batch jobs into
a folder and into datasets, frames in memory, sampling plans, packing, pretraining (whole, and
stopped and resumed), export, fine-tuning, linear probe, retrieval and an ablation. NEW_TREE also
goes on with what OLD_TREE left: its trainings, its job and its ablation. Inputs are the example of
the README, clips that are rendered here, and every file below the folders of ``--videos``.

Prints a line for every item: "same", "DIFFERS" with the first difference, or "only in" one of the
trees; then how many of each. Exit codes: 0 everything is the same; 1 something differs or failed;
2 wrong arguments. :data:`.compare.VARIES` names what may differ, with the reason.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .compare import compare_folders
from .inputs import make_inputs
from .steps import Tree, run_all

EXIT_DIFFERENT = 1


def main(words: Sequence[str] | None = None) -> int:
    """Run both trees and compare; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.same_results", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("old", metavar="OLD_TREE", type=Path, help="a checkout from before")
    parser.add_argument("new", metavar="NEW_TREE", type=Path, help="a checkout from after")
    parser.add_argument(
        "--videos", metavar="FOLDER", type=Path, action="append", default=[], help="more inputs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="new or empty folder that keeps all outputs (default: a temporary one)",
    )
    options = parser.parse_args(words)
    for folder in (options.old, options.new):
        if not (folder / "ccl_hub").is_dir():
            parser.error(f"{folder}: holds no ccl_hub; give the root of a checkout.")
    for folder in options.videos:
        if not folder.is_dir():
            parser.error(f"--videos {folder}: is not a folder; give one.")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        if any(options.out.iterdir()):
            parser.error(f"--out {options.out}: is not empty; give a new folder.")
        return compare_trees(options.old, options.new, options.videos, options.out.resolve())
    with tempfile.TemporaryDirectory() as out:
        return compare_trees(options.old, options.new, options.videos, Path(out).resolve())


def compare_trees(old: Path, new: Path, videos: Sequence[Path], out: Path) -> int:
    """Run both trees inside ``out`` and print how their outputs compare; return the exit code.

    Each tree works in ``out/work``, so that both write the same paths into their outputs.
    """
    inputs = make_inputs(out / "inputs", videos)
    results, failures = {}, []
    for name, tree in (("old", old), ("new", new)):
        print(f"running {tree} ...", file=sys.stderr)
        work = out / "work"
        work.mkdir()
        failures += [
            f"{name} {failure}"
            for failure in run_all(Tree(tree.resolve(), work), inputs, results.get("old", work))
        ]
        results[name] = shutil.move(work, out / name)
    counts = {"same": 0, "DIFFERS": 0, "only in": 0}
    for item, verdict in compare_folders(results["old"], results["new"]):
        print(f"{item}: {verdict}")
        counts[next(word for word in counts if verdict.startswith(word))] += 1
    for failure in failures:
        print(f"FAILED: {failure}")
    print(
        f"{counts['same']} items same, {counts['DIFFERS']} differ, "
        f"{counts['only in']} only in one tree, {len(failures)} steps failed"
    )
    all_same = sum(counts.values()) == counts["same"] > 0
    return 0 if all_same and not failures else EXIT_DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
