"""Pretrain a CCL model: ``python -m training.pretrain RECIPE [--set a.b=c] [--resume auto]``.

The same program runs under ``torchrun --nproc-per-node K -m training.pretrain RECIPE``, with the
same result for any K. Exit codes: 0 finished; 1 training failed (NaN, disk full); 2 the recipe,
the data or the checkpoint is not usable; 75 saved before the end (SIGTERM, SIGINT or the time
budget), to be continued with ``--resume auto``. (torchrun itself exits with 1 whatever a process
of its own returned; the checkpoint is there all the same.)
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ccl_hub.errors import CCLError, OutputError

from .recipes.pretraining import read_recipe
from .recipes.toml import add_change_argument
from .run.folder import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_SAVED
from .run.loop import NonFiniteError, Outcome
from .tasks.pretrain_run import pretrain

__all__ = ["main"]

logger = logging.getLogger("training.pretrain")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
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
        help="go on from the newest whole checkpoint in --out (start afresh if there is none), "
        "or from a given checkpoint",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for checkpoints and logs (default: runs/<recipe name>)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = parse_arguments(arguments)
    main_process = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        recipe = read_recipe(options.recipe, options.changes)
        folder = options.out or Path("runs") / recipe.name
        outcome = pretrain(recipe, folder, options.resume)
    except (NonFiniteError, OutputError) as error:
        return _fail(error, EXIT_FAILED)
    except CCLError as error:
        return _fail(error, EXIT_BAD_INPUT)
    if outcome is Outcome.SAVED:
        logger.info("saved before the end in %s; continue with --resume auto", folder)
        return EXIT_SAVED
    logger.info("finished; export with: python -m training.export %s --out FOLDER", folder)
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
