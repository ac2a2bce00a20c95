"""Pretrain a CCL model: ``python -m training.pretrain RECIPE [--set a.b=c] [--resume auto]``.

The same program runs under ``torchrun --nproc-per-node K -m training.pretrain RECIPE``, with the
same result for any K. Exit codes: 0 finished; 1 training failed (NaN, disk full); 2 the recipe,
the data or the checkpoint cannot be used; 75 saved before the end (SIGTERM, SIGINT or the time
budget), and ``--resume auto`` goes on. (torchrun exits with 1 whatever its processes returned; the
checkpoint is written all the same.)
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cli import add_change_argument, options_of, run
from .recipes.pretraining import read_recipe
from .run.folder import EXIT_SAVED
from .run.loop import Outcome
from .tasks.pretrain_run import pretrain

logger = logging.getLogger("training.pretrain")


@dataclass(frozen=True)
class Options:
    """What the command line says; see ``--help``."""

    recipe: str
    changes: tuple[str, ...]
    resume: str | None
    out: Path | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = read_options(arguments)

    def command() -> int:
        recipe = read_recipe(options.recipe, options.changes)
        folder = options.out or Path("runs") / recipe.name
        if pretrain(recipe, folder, options.resume) is Outcome.SAVED:
            logger.info("saved before the end in %s; continue with --resume auto", folder)
            return EXIT_SAVED
        logger.info("finished; export with: python -m training.export %s --out FOLDER", folder)
        return 0

    return run(command)


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.pretrain",
        description="Pretrain a CCL model from a recipe; also under torchrun.",
        epilog="Exit codes: 0 finished; 1 training failed; 2 unusable recipe, data or checkpoint; "
        "75 saved before the end, continue with --resume auto.",
    )
    parser.add_argument("recipe", help="a TOML file, or a name in training/recipes such as mini")
    add_change_argument(parser)
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="go on from the newest whole checkpoint in --out (from the start if it has none), "
        "or from the checkpoint at PATH",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for checkpoints and logs (default: runs/<recipe name>)"
    )
    return options_of(Options, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
