"""A run's folder and its process: where it starts, one run at a time, and how it is stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from ccl_hub._util.files import make_folder, remove_leftovers, write_atomically
from ccl_hub._util.folder_lock import FolderInUseError, only_writer
from ccl_hub.errors import ConfigError

from ..distributed.world import World
from ..recipes.sections import PlainRecipe, Precision
from . import checkpoints

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_SAVED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on


class StopFlag:
    """Remembers that SIGTERM, SIGINT or SIGHUP came; a further SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal_name = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive these signals for a while; SIGHUP stays ignored where nohup ignores it."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        if before[signal.SIGHUP] is signal.SIG_IGN:
            del before[signal.SIGHUP]
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


@contextmanager
def only_run_in(folder: Path, recipe: PlainRecipe, world: World) -> Iterator[None]:
    """Hold the run's folder, so that two runs never write into one.

    Args:
        folder: Made if missing; what a killed run left half-written is removed.
        recipe: Kept in the folder.
        world: Rank 0 holds the folder for all processes.

    Raises:
        ConfigError: Another run holds it.
        OutputError: The folder cannot be made or written.
    """
    if not world.is_main:
        yield
        return
    try:
        with only_writer(make_folder(folder)):
            remove_leftovers(folder / "checkpoints")
            write_recipe(recipe, folder)
            yield
    except FolderInUseError as error:
        raise ConfigError(
            f"{folder}: another run is writing here; wait for it, stop it, or give another --out."
        ) from error


def choose_checkpoint(folder: Path, resume: str | None) -> checkpoints.Checkpoint | None:
    """Return the checkpoint to go on from, or None for a fresh run in an unused folder.

    Args:
        folder: The run's folder.
        resume: ``"auto"`` for the newest whole checkpoint, if there is any; the path of one; or
            None for a fresh run.

    Raises:
        ConfigError: The folder holds checkpoints that would be mixed up with those of this run.
        TrainingError: The checkpoint is missing or damaged.
    """
    run_checkpoints = folder / "checkpoints"
    if resume == "auto":
        return checkpoints.load_newest(run_checkpoints)
    if resume is not None:
        checkpoint = checkpoints.read_checkpoint(Path(resume))
        step = checkpoint.state["step"]
        later = checkpoints.list_checkpoints(run_checkpoints, after_step=step)
        if later:
            raise ConfigError(
                f"{folder}: holds checkpoints after step {step} ({later[0].name} and so on), "
                "which --resume auto would take next time; move them away, or give another --out."
            )
        return checkpoint
    if checkpoints.list_checkpoints(run_checkpoints):
        raise ConfigError(
            f"{folder}: holds checkpoints of an earlier run; go on with --resume auto, "
            "or give another --out."
        )
    return None


def require_same_start(step: int, world: World) -> None:
    """Refuse processes that would go on from different checkpoints.

    Args:
        step: Where this process starts.
        world: This process among its peers.

    Raises:
        ConfigError: On every process, if their steps differ.
    """
    if world.size == 1:
        return
    ends = torch.tensor([step, -step], device=world.device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    last, first = int(ends[0]), -int(ends[1])
    if first != last:
        raise ConfigError(
            f"the processes start at steps {first} to {last}; "
            "give as --out one folder that every machine sees."
        )


def set_precision(precision: Precision) -> None:
    """Apply what PyTorch keeps per process."""
    if precision.threads:
        torch.set_num_threads(precision.threads)
    torch.backends.cudnn.benchmark = not precision.deterministic
    if precision.deterministic:  # cuBLAS reads this before its first use
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(precision.deterministic)


def write_recipe(recipe: PlainRecipe, folder: Path) -> None:
    """Keep the recipe, with every default filled in, in the run's folder."""
    write_atomically(folder / "recipe.json", json.dumps(recipe.to_dict(), indent=2) + "\n")
