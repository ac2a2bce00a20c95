"""What the commands share: logging, errors to exit codes, and the arguments that several take.

``argparse`` stays in this module and in the parsers of the commands: :func:`options_of` makes a
frozen dataclass of what they read before any of it is used.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ccl_hub._util.machine import keep_freed_memory
from ccl_hub.errors import CCLError, OutputError

from .data.splits import TEST_SHARE
from .evaluation.labelled_sets import RENDERED
from .evaluation.models import REFERENCE_ROWS, SUPERVISED
from .run.folder import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_SAVED
from .run.loop import NonFiniteError
from .run.steps import StepFailedError, StoppedError

Options = TypeVar("Options")
EXIT_CODES: dict[type[CCLError], int] = {
    OutputError: EXIT_FAILED,
    NonFiniteError: EXIT_FAILED,
    StepFailedError: EXIT_FAILED,
    StoppedError: EXIT_SAVED,
}


def run(
    main: Callable[[], object], *, level: int = logging.INFO, bad_input: int = EXIT_BAD_INPUT
) -> int:
    """Run a command and return its exit code; errors become one line on stderr.

    Args:
        main: The command, its options already read; returns an exit code, or anything else for 0.
        level: Lowest level of the messages that the first of several processes shows on stderr.
        bad_input: Exit code of errors that :data:`EXIT_CODES` leaves out.
    """
    level = level if is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    try:
        code = main()
        return code if isinstance(code, int) else 0
    except CCLError as error:
        sys.stderr.write(f"error: {error}\n")
        codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        return next(codes, bad_input)


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def options_of(
    kind: type[Options], parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> Options:
    """Read a command line into a dataclass whose fields are the parser's; lists become tuples."""
    values = vars(parser.parse_args(arguments))
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def add_change_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, whose texts are the ``changes`` of :func:`read_recipe`."""
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the recipe, such as optim.lr=0.03; may be repeated",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` (repeatable) and ``--seeds``, for :func:`load_models`."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[LABEL=]PLACE",
        help="a known name, model folder, Hub id, training run or checkpoint, "
        f"{', '.join(REFERENCE_ROWS[:-1])}, imagenet=FILE or {SUPERVISED}=PLACE; may be repeated",
    )
    parser.add_argument(
        "--seeds",
        type=seed_list,
        default=(0,),
        metavar="0,1,2",
        help="seeds of the random rows (default: 0)",
    )


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` (repeatable), for :func:`open_evaluation_sets`."""
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="PLACE",
        help="a packed set, a .csv or .parquet list, a folder with one folder per class; "
        "PLACE,LISTS,FOLD for one of these by the official lists of UCF101 or HMDB51; or "
        f"{RENDERED}N for N videos computed on the spot; may be repeated",
    )


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every evaluation takes: data, clips, precision, device, cache, results."""
    add_data_argument(parser)
    add_feature_arguments(parser)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="fp32")
    parser.add_argument("--threads", type=count, help="CPU threads that compute (default: all)")
    parser.add_argument("--group", default="", help="experiment the results belong to")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results files")


def add_feature_arguments(parser: argparse._ActionsContainer) -> None:
    """Add how the features of labelled sets are computed, to a parser or a group of one."""
    parser.add_argument(
        "--test-share",
        type=_share,
        default=TEST_SHARE,
        help="share of test videos where the data come without splits (default: %(default)s)",
    )
    parser.add_argument("--clips", type=count, default=10, help="clips per video (default: 10)")
    parser.add_argument("--batch-clips", type=count, default=32, help="clips computed at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--workers", type=count, default=2, help="threads that read frames")
    parser.add_argument("--cache", type=Path, help="folder that keeps embeddings for later runs")


def seed_list(text: str) -> tuple[int, ...]:
    """Read ``0,1,2`` for argparse: different whole numbers, 0 or more."""
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}; give whole numbers as 0,1,2") from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r}; give different numbers, 0 or more")
    return seeds


def count(text: str) -> int:
    """Read a whole number for argparse, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1; give 1 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; give a number between 0 and 1")
    return value
