"""Fine-tune models with labels and test them (paper, Section 4.3, Tables 4 and 6).

    python -m training.finetune --model ccl_r18_mini --data PACK --out RUN
    python -m training.finetune RECIPE --model A --model random-init --data PACK1 --data PACK2
        --seeds 0,1,2 --out RUNS [--set a.b=c] [--resume auto]
    python -m training.finetune --evaluate RUN --data PACK

A new FC layer is put on the video feature and all layers are trained; then the predictions of 10
centre-crop clips of every test video are averaged. The same program runs under ``torchrun
--nproc-per-node K -m training.finetune``.

Each model, set and seed is a run with its checkpoints and logs: in ``--out`` itself if there is
one run, in a folder for each if there are several. A finished run holds the model too: a folder
that ``from_pretrained`` loads, with ``classifier.safetensors`` and ``classes.json`` in it. Results
files go to ``--results``, and a table to standard output.

Exit codes: 0 finished; 1 training failed (NaN, disk full); 2 a recipe, model, set or checkpoint
cannot be used; 75 saved before the end (SIGTERM, SIGINT or the time budget), and ``--resume auto``
goes on. (torchrun exits with 1 whatever its processes returned.)
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from .cli import (
    add_change_argument,
    add_data_argument,
    is_main_process,
    options_of,
    run,
    seed_list,
)
from .evaluation.models import REFERENCE_ROWS
from .evaluation.tables import classifier_table
from .run.folder import EXIT_SAVED
from .run.loop import Outcome
from .tasks.finetune_runs import FinetuneOptions, finetune_all, test_again

logger = logging.getLogger("training.finetune")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = read_options(arguments)

    def command() -> int:
        if options.evaluate is not None:
            results, outcome = test_again(options.evaluate, options), Outcome.FINISHED
        else:
            results, outcome = finetune_all(options)
        if is_main_process() and results:
            sys.stdout.write(classifier_table(results))
        if outcome is Outcome.SAVED:
            logger.info("saved before the end in %s; continue with --resume auto", options.out)
            return EXIT_SAVED
        return 0

    return run(command)


def read_options(arguments: Sequence[str] | None) -> FinetuneOptions:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune",
        description="Fine-tune models with labels and test them (Tables 4 and 6); also under "
        "torchrun.",
        epilog="Exit codes: 0 finished; 1 training failed; 2 unusable recipe, model, data or "
        "checkpoint; 75 saved before the end, continue with --resume auto.",
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        help="a TOML file, or a name in training/recipes/finetune (default: paper)",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[LABEL=]PLACE",
        help="what to start from: a known name, model folder, Hub id, training run or checkpoint, "
        f"or {', '.join(REFERENCE_ROWS[:-1])}; may be repeated",
    )
    add_data_argument(parser)
    parser.add_argument(
        "--seeds", type=seed_list, metavar="0,1,2", help="one run for each (default: the recipe's)"
    )
    add_change_argument(parser)
    parser.add_argument(
        "--metric",
        choices=("accuracy", "f-measure"),
        help="f-measure: as Table 6, beside the accuracy; short for --set test.metric=...",
    )
    parser.add_argument("--average", choices=("macro", "micro"), help="of the f-measure")
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="go on from the newest whole checkpoint of each run (from the start if it has none), "
        "or, for a single run, from the checkpoint at PATH",
    )
    parser.add_argument("--group", default="", help="experiment the results belong to")
    parser.add_argument("--out", type=Path, help="folder of the run, or of the runs")
    parser.add_argument(
        "--results", type=Path, help="folder for the results files (default: OUT/results)"
    )
    parser.add_argument(
        "--evaluate",
        type=Path,
        metavar="FOLDER",
        help="train nothing: test the model of a finished run again",
    )
    options = options_of(FinetuneOptions, parser, arguments)
    of_training = ("recipe", "model", "out", "resume", "seeds")
    unread = [name for name in of_training if getattr(options, name)]
    if options.evaluate is not None and unread:
        parser.error(f"--evaluate trains nothing; leave out {' and '.join(unread)}")
    if options.evaluate is None and not (options.model and options.out):
        parser.error("give --model and --out, or --evaluate")
    return options


if __name__ == "__main__":
    sys.exit(main())
