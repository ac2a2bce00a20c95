"""Recall of edited frames: which video is this picture from? ``python -m training.recall``.

    python -m training.recall --model ccl_lite0 --model thumbnail --queries LIST --out OUT

One frame of each video of ``--queries``, at a random instant, is edited in 13 ways (compressed,
cropped, mirrored, in black bars, under a banner, grey, bright, blurred, turned, laid over another
picture, filmed off a screen, ...) and looked up by cosine among frames about half a second apart
of these videos and of those of ``--gallery``. It is found where the nearest frame is of its video.

The command writes one results file per model and seed; ``python -m training.report`` makes a table
of them. Exit codes: 0 done; 2 a model, list or argument cannot be used; 1 a result cannot be
written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .cli import add_model_arguments, options_of, run
from .evaluation.edited.measure import RecallOptions, measure_recall


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = read_options(arguments)

    def command() -> None:
        for result in measure_recall(options):
            figures = {(one.match, one.centred): one.value for one in result.measurements}
            for (edit, centred), value in figures.items():
                name = f"{edit}, centred" if centred else edit
                print(f"{result.model.label}\t{name}\t{100 * value:.1f}")

    return run(command)


def read_options(arguments: Sequence[str] | None) -> RecallOptions:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.recall",
        description="Measure how often an edited frame finds its video.",
    )
    add_model_arguments(parser)
    for name, required, text in (
        ("--queries", True, "videos of which a frame each is asked for"),
        ("--gallery", False, "further videos, to confuse them with"),
    ):
        parser.add_argument(
            name,
            action="append",
            default=[],
            required=required,
            metavar="PLACE",
            help=f"{text}: a folder, or a .csv or .parquet list; may be repeated",
        )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--centre", action="store_true", help="also with the library's mean subtracted"
    )
    parser.add_argument("--group", default="", help="experiment the results belong to")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results files")
    return options_of(RecallOptions, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
