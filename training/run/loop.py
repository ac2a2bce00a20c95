"""The training loop: recipe, data, world and a task in, checkpoints and logs out.

Pretraining and fine-tuning are two tasks: they differ in the network, its gradient and what is
measured. Every random draw is a pure function of the recipe's seed and the position, and a
checkpoint holds all that changes from step to step, so a resumed run repeats an undisturbed one
bit for bit on a CPU. The position is one number: optimizer steps done.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ccl_hub.config import parse_dataclass
from ccl_hub.errors import ConfigError, TrainingError

from ..clips.loader import Batch
from ..clips.source import ClipSource
from ..distributed.world import World, barrier, local_batch
from ..recipes.pretraining import differing_keys
from ..recipes.sections import Optim, PlainRecipe
from . import checkpoints
from .environment import software
from .folder import require_same_start
from .logs import ProgressLine, RunLog
from .schedule import learning_rate

logger = logging.getLogger(__name__)

STEP_SECONDS_MEMORY = 0.95  # share of the earlier steps in the mean time of a step


class NonFiniteError(TrainingError):
    """A loss or gradient is NaN or infinite; the message names the videos of the batch."""


class Outcome(enum.Enum):
    """How :meth:`Loop.run` ended."""

    FINISHED = "finished"
    SAVED = "saved before the end"


class Task(Protocol):
    """What one kind of training brings to the loop.

    ``kind`` is a word kept in checkpoints; ``model`` is trained by ``optimizer``. ``origin`` are
    JSON values that, beside recipe and data, must be those of a checkpoint to go on from it.
    ``measure_epochs``: after how many epochs to measure; 0: at the end alone; None: never.
    """

    kind: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    origin: dict[str, Any]
    measure_epochs: int | None

    def begin(self) -> None:
        """Prepare the first step of a fresh run."""

    def gradient(self, batch: Batch, progress: float) -> Mapping[str, Tensor | float]:
        """Leave the gradient of the global batch in ``.grad``.

        Args:
            batch: This process's share.
            progress: Share of the run that is done.

        Returns:
            What to log, by name; tensors are 0-d and of the global batch.
        """

    def updated(self, step: int) -> None:
        """Follow optimizer step ``step`` (from 1)."""

    def finish(self) -> None:
        """Do what comes after the last step; done twice, it gives the same."""

    def more_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint must hold beside model and optimizer, by group and name."""

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Restore :meth:`more_tensors`."""

    def measure(self, log: RunLog, step: int, metrics: dict[str, Any]) -> None:
        """Measure the model, called on every process; put figures into ``metrics`` and ``log``."""


class Loop:
    """One process of a training run.

    Args:
        task: What is trained, and how.
        recipe: What to do.
        source: The training clips, of which :func:`check_batch` has allowed the batch.
        folder: Where checkpoints and logs go.
        world: This process among its peers.
        stop_requested: Asked after each step; True saves and ends the run.
    """

    def __init__(
        self,
        task: Task,
        recipe: PlainRecipe,
        source: ClipSource,
        folder: Path,
        world: World,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.task, self.recipe, self.source = task, recipe, source
        self.world, self.folder = world, folder
        self.step = 0
        self.seconds = 0.0
        self.metrics: dict[str, Any] = {}
        self.steps_per_epoch = len(source) // recipe.optim.batch
        self.total_steps = self.steps_per_epoch * recipe.schedule.epochs
        self._stop_requested = stop_requested
        self._stopping = False
        self._saved: tuple[int, int | None] | None = None
        self._step_seconds = 0.0
        self._clock = time.perf_counter()

    # State ---------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]; drives learning rate and stages."""
        share = self.step / self.total_steps
        budget = self.recipe.budget
        if budget.paces_schedule and budget.max_seconds is not None:
            share = max(share, self.seconds / budget.max_seconds)
        return min(share, 1.0)

    def save(self) -> None:
        """Write a checkpoint of the current position on rank 0, unless it is written already."""
        position = (self.step, self.metrics.get("step"))
        if not self.world.is_main or self._saved == position:
            return
        task = self.task
        optimizer_tensors, optimizer_values = checkpoints.optimizer_state(
            task.model, task.optimizer
        )
        groups = {"model": task.model.state_dict(), "optimizer": optimizer_tensors}
        groups["random"] = {"cpu": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            groups["random"]["cuda"] = torch.cuda.get_rng_state(self.world.device)
        groups |= task.more_tensors()
        tensors = {f"{group}/{n}": t for group, named in groups.items() for n, t in named.items()}
        state = {
            "kind": task.kind,
            "step": self.step,
            "seconds": self.seconds,
            "progress": self.progress,
            "steps_per_epoch": self.steps_per_epoch,
            "recipe": self.recipe.to_dict(),
            "data": self.source.identity(),
            "origin": task.origin,
            "software": software(),
            "optimizer_values": optimizer_values,
            "metrics": self.metrics,
        }
        folder = self.folder / "checkpoints"
        path = checkpoints.checkpoint_path(folder, self.step)
        checkpoints.write_checkpoint(path, tensors, state)
        checkpoints.prune(folder, self.recipe.log.keep_checkpoints, self.step)
        self._saved = position

    def start_from(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Go on from a checkpoint, or from the beginning if None.

        Raises:
            ConfigError: It comes from another recipe, other data or another kind of training, or
                the processes start at different steps.
        """
        if checkpoint is not None:
            self._restore(checkpoint)
        require_same_start(self.step, self.world)

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        self._refuse_other_run(checkpoint)
        state, task = checkpoint.state, self.task
        task.model.load_state_dict(checkpoint.group("model"))
        checkpoints.restore_optimizer(
            task.model, task.optimizer, checkpoint.group("optimizer"), state["optimizer_values"]
        )
        task.restore(checkpoint)
        random = checkpoint.group("random")
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.world.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.metrics = state["metrics"]
        self._saved = (self.step, self.metrics.get("step"))
        logger.info("resumed from %s at step %d", checkpoint.path, self.step)

    def _refuse_other_run(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Raise ConfigError unless kind, recipe, data and origin are those of this run."""
        state, path = checkpoint.state, checkpoint.path
        kind = state.get("kind", "pretrain")  # older checkpoints are all of this kind
        if kind != self.task.kind:
            raise ConfigError(
                f"{path}: is a checkpoint of '{kind}', and this is '{self.task.kind}'; "
                "give another --out."
            )
        # Parsed as a recipe, so that keys younger than the checkpoint take their defaults.
        before = parse_dataclass(type(self.recipe), state["recipe"], str(path))
        differing = differing_keys(before.to_dict(), self.recipe.to_dict())
        if differing:
            raise ConfigError(
                f"{path}: is a checkpoint of another recipe, which differs in "
                f"{'; '.join(differing)}. Give the same values, or another --out."
            )
        for difference, there, here in (
            ("trained on other data", state["data"], self.source.identity()),
            ("went on from other weights", state.get("origin", {}), self.task.origin),
        ):
            if there != here:
                raise ConfigError(
                    f"{path}: {difference} ({there} there, {here} here). "
                    "Give the same, or another --out."
                )

    # Running -------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train to the end, or until a stop is requested or the budget is used.

        Raises:
            NonFiniteError: A loss or gradient is NaN or infinite; the message names the videos of
                the batch. No checkpoint is written from then on.
        """
        section, main = self.recipe.log, self.world.is_main
        self._clock = time.perf_counter()
        progress_line = ProgressLine(self.total_steps, section.line_seconds, active=main)
        measured_step = self.metrics.get("step", -1)
        with RunLog(self.folder, self.step, measured_step, section.tensorboard, main) as log:
            try:
                if self.step == 0:
                    self.task.begin()
                self._finish_if_ended()  # again, where a run was killed in it
                self._measure_if_due(log)
                while self.progress < 1 and not self._stopping:
                    self._run_epoch(log, progress_line)
            finally:
                progress_line.end()
        self.save()
        return Outcome.SAVED if self._stopping else Outcome.FINISHED

    def _run_epoch(self, log: RunLog, progress_line: ProgressLine) -> None:
        """Run from the current position to the end of its epoch, or to a stop."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        end = (epoch + 1) * self.steps_per_epoch
        every = self.recipe.log.checkpoint_steps
        self.task.model.train()
        with self.source.batches(epoch, done, self.world) as batches:
            while self.step < end and self.progress < 1 and not self._stopping:
                values = self._timed_step(batches)
                if self.step % self.recipe.log.every_steps == 0:
                    log.write("train", self.step, {"epoch": epoch, **values})
                progress_line.show(self.step, values, self._remaining_seconds())
                self._agree_on_stop()
                if every and self.step % every == 0 and self.step < end:
                    self.save()
        self.save()
        if not self._stopping:
            self._finish_if_ended()
            self._measure_if_due(log)
            self.save()

    def _finish_if_ended(self) -> None:
        if self.progress >= 1:
            self.task.finish()
            self._saved = None  # what was written lacks it

    def _timed_step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Wait for a batch, train on it, and return what to log."""
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        values = self._train_step(batch)
        took = time.perf_counter() - start
        self._add_time()
        memory = STEP_SECONDS_MEMORY if self._step_seconds else 0.0
        self._step_seconds = memory * self._step_seconds + (1 - memory) * took
        values["clips_per_second"] = self.recipe.optim.batch * self.recipe.data.views / took
        values["data_wait_share"] = waited / took
        values["seconds"] = self.seconds
        return values

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """Do one update; ``batch`` is this process's share of the global batch."""
        recipe, task, progress = self.recipe, self.task, self.progress
        lr = recipe.optim.lr * learning_rate(recipe.schedule, progress)
        for group in task.optimizer.param_groups:
            group["lr"] = lr * group["lr_share"]
        task.optimizer.zero_grad(set_to_none=True)
        terms = task.gradient(batch, progress)
        limit = recipe.optim.clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(task.model.parameters(), limit)
        tensors = {name: value for name, value in terms.items() if isinstance(value, Tensor)}
        tensors["grad_norm"] = norm
        numbers = torch.stack(list(tensors.values())).tolist()  # one wait for the device
        values = {**terms, **dict(zip(tensors, numbers, strict=True)), "lr": lr}
        self._refuse_non_finite(values)
        task.optimizer.step()
        self.step += 1
        task.updated(self.step)
        return values

    def _refuse_non_finite(self, values: Mapping[str, float]) -> None:
        """Raise NonFiniteError unless every value is finite; the weights are still unchanged."""
        faults = [f"{name} is {value}" for name, value in values.items() if not isfinite(value)]
        if faults:
            raise NonFiniteError(
                f"step {self.step + 1}: {', '.join(faults)}; training stopped, with checkpoints "
                f"as they were. Lower optim.lr, or look at this batch's videos: "
                f"{', '.join(self.source.global_names(self.step))}."
            )

    def _add_time(self) -> None:
        """Add the time since the last call to that of training."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now

    def _agree_on_stop(self) -> None:
        """Let all processes stop after the same step, and share one clock."""
        limit = self.recipe.budget.max_seconds
        used_up = limit is not None and self.seconds >= limit
        stop = self._stop_requested() or (used_up and not self.recipe.budget.paces_schedule)
        self._stopping = self._share_clock(stop)

    def _share_clock(self, stop: bool = False) -> bool:
        """Give all processes the latest clock; return whether any of them has ``stop``.

        Where the budget paces the schedule, learning rate and crop depend on the clock, and clocks
        that differ by a millisecond would make the weights of the processes differ.
        """
        if self.world.size == 1:
            return stop
        shared = torch.tensor([float(stop), self.seconds], dtype=torch.float64)
        shared = shared.to(self.world.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        self.seconds = float(shared[1])
        return bool(shared[0])

    def _remaining_seconds(self) -> float:
        """Estimate the time to the end from recent steps."""
        by_steps = (self.total_steps - self.step) * self._step_seconds
        limit = self.recipe.budget.max_seconds
        return by_steps if limit is None else min(by_steps, max(limit - self.seconds, 0.0))

    def _measure_if_due(self, log: RunLog) -> None:
        """Measure every few epochs and at the end."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        every = self.task.measure_epochs
        if every is None or self.metrics.get("step") == self.step:
            return
        ended = self.progress >= 1
        if ended or (rest == 0 and self.step and every and epoch % every == 0):
            self.task.measure(log, self.step, self.metrics)
            self.metrics["step"] = self.step
            barrier(self.world)
            self._add_time()
            self._share_clock()


def check_batch(optim: Optim, videos: int, world: World) -> None:
    """Refuse a global batch that does not fit the data or the processes.

    Args:
        optim: Gives batch and chunks.
        videos: Number of videos to train on.
        world: This process among its peers.

    Raises:
        ConfigError: A process has fewer videos than chunks, or the data fewer than the batch.
        TrainingError: The processes cannot share the batch equally.
    """
    share = local_batch(optim.batch, world)
    if share < optim.chunks:
        raise ConfigError(
            f"optim.chunks is {optim.chunks}, but each process has only {share} videos of "
            f"optim.batch = {optim.batch}; allowed: at most {share}."
        )
    if videos < optim.batch:
        raise ConfigError(
            f"the data holds {videos} usable videos, fewer than optim.batch = {optim.batch}; "
            "give more videos or a smaller batch."
        )
