"""Pretrain a CCL model: ``python -m training.pretrain RECIPE [--set a.b=c] [--resume auto]``.

The same program runs under ``torchrun --nproc-per-node K -m training.pretrain RECIPE``, with the
same result for any K. Exit codes: 0 finished; 1 training failed (NaN, disk full); 2 the recipe,
the data or the checkpoint is not usable; 75 saved before the end (SIGTERM, SIGINT or the time
budget), to be continued with ``--resume auto``. (torchrun itself exits with 1 whatever a process
of its own returned; the checkpoint is there all the same.)
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from ccl_hub.errors import CCLError, ConfigError, OutputError
from ccl_hub.files import make_folder, write_atomically

from . import checkpoints
from .clips import open_source
from .distributed import World, start_world
from .folder_lock import FolderInUseError, only_writer
from .logs import CURVES_NAME, LOG_NAME, draw_curves, read_log, require_drawing
from .recipe import Precision, Recipe, read_recipe
from .trainer import NonFiniteError, Outcome, Trainer, require_same_start

__all__ = ["main"]

logger = logging.getLogger("training.pretrain")

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_SAVED = 75  # EX_TEMPFAIL: run again


class StopFlag:
    """Remembers that SIGTERM or SIGINT came; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal_name = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over both signals of this process for a while."""
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        """Return True once a signal has come."""
        return bool(self.signal_name)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.pretrain",
        description="Pretrain a CCL model from a recipe; also under torchrun.",
        epilog="Exit codes: 0 finished; 1 training failed; 2 unusable recipe, data or checkpoint; "
        "75 saved before the end, continue with --resume auto.",
    )
    parser.add_argument("recipe", help="a TOML file, or a name in training/recipes such as mini")
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the recipe, such as optim.lr=0.03; may be repeated",
    )
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


def pretrain(recipe: Recipe, folder: Path, resume: str | None = None) -> Outcome:
    """Train as ``recipe`` says.

    Args:
        recipe: What to do.
        folder: For checkpoints, logs and curves.
        resume: ``"auto"``, the path of a checkpoint, or None for a fresh run.

    Returns:
        Whether the run came to its end.

    Raises:
        CCLError: Recipe, data, world or checkpoint are damaged or do not fit each other.
        NonFiniteError: The loss or a gradient is not finite.
        OutputError: The folder cannot be written.
    """
    stop = StopFlag()
    if recipe.log.curves:
        require_drawing()
    set_precision(recipe.precision)
    with start_world(recipe.precision.device) as world:
        checkpoint = _choose_checkpoint(folder, resume)
        source = open_source(recipe, world.device)
        trainer = Trainer(recipe, source, folder, world, stop)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        require_same_start(trainer.step, world)
        with only_run_in(folder, world), stop.listening():
            if world.rank == 0:
                checkpoints.remove_leftovers(folder / "checkpoints")
                _write_recipe(recipe, folder)
            outcome = trainer.run()
        if stop.signal_name:
            logger.info("stopped by %s", stop.signal_name)
        if world.rank == 0 and recipe.log.curves:
            lines = read_log(folder / LOG_NAME)
            draw_curves(lines, folder / CURVES_NAME, recipe.name)
    return outcome


@contextmanager
def only_run_in(folder: Path, world: World) -> Iterator[None]:
    """Hold the run's folder, making it if need be, so that two runs never write to one.

    Args:
        folder: The run's folder.
        world: Rank 0 holds it for all.

    Raises:
        ConfigError: Another run holds it.
        OutputError: It cannot be made.
    """
    if world.rank != 0:
        yield
        return
    try:
        with only_writer(make_folder(folder)):
            yield
    except FolderInUseError as error:
        raise ConfigError(
            f"{folder}: another run is writing here; wait for it, stop it, or give another --out."
        ) from error


def _choose_checkpoint(folder: Path, resume: str | None) -> checkpoints.Checkpoint | None:
    """Return the checkpoint to go on from, or None for a fresh run in an unused folder."""
    kept = folder / "checkpoints"
    if resume == "auto":
        return checkpoints.load_newest(kept)
    if resume is not None:
        chosen = checkpoints.read_checkpoint(Path(resume))
        later = checkpoints.later_checkpoints(kept, chosen.state["step"])
        if later:
            raise ConfigError(
                f"{folder}: holds checkpoints after step {chosen.state['step']} ({later[0].name} "
                "and so on), which --resume auto would take next time; move them away, or give "
                "another --out."
            )
        return chosen
    if checkpoints.list_checkpoints(kept):
        raise ConfigError(
            f"{folder}: holds checkpoints of an earlier run; go on with --resume auto, "
            "or give another --out."
        )
    return None


def set_precision(precision: Precision) -> None:
    """Apply what PyTorch keeps per process."""
    if precision.threads:
        torch.set_num_threads(precision.threads)
    torch.backends.cudnn.benchmark = not precision.deterministic
    if precision.deterministic:  # cuBLAS wants it said before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(precision.deterministic)


def _write_recipe(recipe: Recipe, folder: Path) -> None:
    """Keep the recipe, with every default filled in, beside the run."""
    text = json.dumps(recipe.to_dict(), indent=2) + "\n"
    write_atomically(folder / "recipe.json", lambda file: file.write(text.encode()))


if __name__ == "__main__":
    sys.exit(main())
