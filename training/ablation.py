"""Table 7: what each part of the objective is worth, in one command.

    python -m training.ablation mini --set data.pack=PACK --data EVAL [--data EVAL2] --out FOLDER

Every row is the recipe with another objective; everything else, budget and seeds included, is
the same. For every row and seed this pretrains, measures retrieval (Tables 2 and 3) and trains a
linear probe (Table 5) or, with ``--finetune``, fine-tunes, as the paper's Table 7 does. The same
command goes on where it was stopped: finished steps are kept. Exit codes: 0 all is measured; 1 a
step failed, and the message names it and quotes its last lines; 2 wrong arguments; 75 stopped by
SIGTERM, SIGINT or SIGHUP: its steps were stopped too, and trainings have saved; 130 interrupted by
a second SIGINT.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .cli import add_change_argument, add_data_argument, count, options_of, run, seed_list
from .tasks.ablation import DEFAULT_ROWS, ROWS, Plan, run_ablation

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    plan = read_plan(arguments)
    try:
        return run(lambda: print(run_ablation(plan), end=""))
    except KeyboardInterrupt:  # a second Ctrl-C
        sys.stderr.write("error: interrupted; its steps were killed. The same command goes on.\n")
        return EXIT_INTERRUPTED


def read_plan(arguments: Sequence[str] | None) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablation",
        description="Pretrain, measure and tabulate every row of Table 7 at equal budget.",
    )
    parser.add_argument("recipe", help="a TOML file, or a name in training/recipes such as mini")
    add_change_argument(parser)
    add_data_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--rows",
        type=_rows,
        default=",".join(DEFAULT_ROWS),
        help=f"rows to make, of {', '.join(ROWS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=seed_list,
        default=(0, 1, 2),
        metavar="0,1,2",
        help="seeds of every row (default: 0,1,2)",
    )
    parser.add_argument("--jobs", type=count, default=1, help="steps to run at the same time")
    parser.add_argument(
        "--launch",
        type=_launch,
        default="",
        help="what starts a pretraining or fine-tuning, such as 'torchrun --nproc-per-node 8'",
    )
    parser.add_argument(
        "--evaluation",
        type=_words,
        default="",
        help="further arguments of the evaluations, such as '--precision bf16 --threads 1'",
    )
    parser.add_argument(
        "--finetune",
        nargs="?",
        const="paper",
        metavar="RECIPE",
        help="fine-tune by this recipe (default: paper) instead of training a linear probe",
    )
    return options_of(Plan, parser, arguments)


def _rows(text: str) -> tuple[str, ...]:
    rows = tuple(text.split(","))
    unknown = [name for name in rows if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(ROWS)}")
    if len(set(rows)) < len(rows):
        raise argparse.ArgumentTypeError(f"{text!r}; give each row once")
    return rows


def _words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _launch(text: str) -> tuple[str, ...]:
    return _words(text) or (sys.executable,)


if __name__ == "__main__":
    sys.exit(main())
