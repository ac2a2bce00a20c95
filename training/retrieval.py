"""Retrieval by cosine inside a labelled set (paper, Section 4.2, Tables 2 and 3).

    python -m training.retrieval --model ccl_r18_mini --model random-init --data PACK --out OUT

Every video gives 10 uniform centre-crop clips of T frames. Four questions:

``F=>V``, ``V=>F``
    Inside the test split: does a frame (of all T of every clip) find the very clip that holds it
    (``exact clip``), or any clip of its video (``same video``)? And does a clip find one of its
    frames? Clips of a short video overlap and share frames. A shared frame is a query once for
    each clip that holds it, and each time only that clip is the exact one, so even a perfect
    embedding misses some. ``shared_frames`` in the settings is the share of such frames; where it
    is large, read ``same video``.
``F=>F``, ``V=>V``
    Does a test item find a training item of its class? By ``clip``, the paper's wording: every
    clip is a query and an item of the gallery; for ``F=>F`` it stands for one frame, the middle
    one (of T, number T // 2 from 0). By ``video``, as the code that Table 3 compares with does
    it: one vector per video, the mean over its clips.

Each is answered with the 512-d representations and with the 128-d projections that the loss
compares. With ``--centre`` every figure is measured once more after centring: the mean of all
frames of a split is subtracted from its frames, and the mean of all its clips from its clips, so
that a constant shift between frames and clips, or between splits, no longer counts.

All neighbours are exact and every item counts; of equally near items the earlier one comes first.
A k larger than the gallery is left out, as it would count the whole gallery; the settings in the
results file say so. The command writes one results file per model, seed and set, and tables to
standard output. Exit codes: 0 done; 2 a model, set or argument cannot be used; 1 a result cannot
be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .cli import add_evaluation_arguments, add_model_arguments, options_of, run
from .evaluation.evaluate import EvaluationOptions
from .evaluation.retrieval import KS, LEVELS, Retrieval, measure_retrieval
from .evaluation.tables import retrieval_tables


@dataclass(frozen=True)
class Options(EvaluationOptions):
    """What the command line says; see ``--help``."""

    ks: tuple[int, ...]
    level: tuple[str, ...]
    centre: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = read_options(arguments)
    retrieval = Retrieval(options.ks, options.level, options.centre)
    return run(lambda: print(retrieval_tables(measure_retrieval(options, retrieval)), end=""))


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.retrieval",
        description="Measure retrieval by cosine inside labelled sets (Tables 2 and 3).",
    )
    add_model_arguments(parser)
    add_evaluation_arguments(parser)
    parser.add_argument(
        "--ks", type=_numbers, default=KS, metavar="1,5,10,20,50", help="ranks to report"
    )
    parser.add_argument(
        "--level", type=_levels, default=LEVELS, metavar="clip,video", help="what is retrieved"
    )
    parser.add_argument(
        "--centre", action="store_true", help="also with each split's mean subtracted"
    )
    return options_of(Options, parser, arguments)


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}; give whole numbers from 1, such as 1,5,10")
    return tuple(sorted({int(part) for part in parts}))


def _levels(text: str) -> tuple[str, ...]:
    parts = set(text.split(","))
    if not parts <= set(LEVELS):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: clip, video, or clip,video")
    return tuple(level for level in LEVELS if level in parts)


if __name__ == "__main__":
    sys.exit(main())
