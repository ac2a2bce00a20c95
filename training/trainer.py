"""The training loop: recipe, data and world in, checkpoints and logs out.

Every random draw is a pure function of the recipe's seed and the position, and a checkpoint holds
all that changes from step to step, so a resumed run repeats an undisturbed one bit for bit on a
CPU. The position is one number: optimizer steps done.
"""

from __future__ import annotations

import copy
import enum
import logging
import time
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ccl_hub import CCLModel
from ccl_hub.errors import ConfigError, TrainingError

from . import checkpoints
from .clips import ClipSource
from .distributed import (
    World,
    backward_step,
    barrier,
    broadcast_model,
    local_batch,
    synchronise_batchnorm,
)
from .ema import EmaWeights
from .loader import Batch
from .logs import ProgressLine, RunLog
from .recipe import Recipe, differing_keys, recipe_from_dict
from .schedules import learning_rate
from .software import software
from .validation import Validator

__all__ = ["NonFiniteError", "Outcome", "Trainer", "initial_model", "require_same_start"]

logger = logging.getLogger(__name__)

STEP_SECONDS_MEMORY = 0.95


class NonFiniteError(TrainingError):
    """A loss or gradient is NaN or infinite; names the videos of the batch."""


class Outcome(enum.Enum):
    """How :meth:`Trainer.run` ended."""

    FINISHED = "finished"
    SAVED = "saved before the end"


class Trainer:
    """One process of a training run.

    Args:
        recipe: What to do.
        source: The training clips.
        folder: Where checkpoints and logs go.
        world: This process among its peers.
        stop_requested: Asked after each step; True saves and ends the run.

    Raises:
        ConfigError: The recipe does not fit the data or the world.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: ClipSource,
        folder: Path,
        world: World,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        _check_batch(recipe, len(source), world)
        self.recipe, self.source, self.world, self.folder = recipe, source, world, folder
        self.step = 0
        self.seconds = 0.0
        self.metrics: dict[str, Any] = {}
        self.steps_per_epoch = len(source) // recipe.optim.batch
        self.total_steps = self.steps_per_epoch * recipe.schedule.epochs
        torch.manual_seed(recipe.seed)
        self.model = _new_model(recipe, world)
        self.optimizer = _new_optimizer(recipe, self.model)
        self.ema = (
            EmaWeights(self.model, recipe.ema.decay) if recipe.ema.decay is not None else None
        )
        self.validator = Validator(recipe, world.device)
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

    @property
    def trained(self) -> CCLModel:
        """The weights to judge and to export: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def save(self) -> None:
        """Write a checkpoint of the current position, unless it is there already (rank 0)."""
        position = (self.step, self.metrics.get("step"))
        if self.world.rank != 0 or self._saved == position:
            return
        optimizer_tensors, optimizer_values = checkpoints.optimizer_state(
            self.model, self.optimizer
        )
        groups = {"model": self.model.state_dict(), "optimizer": optimizer_tensors}
        groups["random"] = {"cpu": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            groups["random"]["cuda"] = torch.cuda.get_rng_state(self.world.device)
        if self.ema:
            groups["ema"] = self.ema.state_dict()
        tensors = {f"{group}/{n}": t for group, named in groups.items() for n, t in named.items()}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "progress": self.progress,
            "steps_per_epoch": self.steps_per_epoch,
            "recipe": self.recipe.to_dict(),
            "data": self.source.identity(),
            "software": software(),
            "optimizer_values": optimizer_values,
            "metrics": self.metrics,
        }
        folder = self.folder / "checkpoints"
        path = checkpoints.checkpoint_path(folder, self.step)
        checkpoints.write_checkpoint(path, tensors, state)
        checkpoints.prune(folder, self.recipe.log.keep_checkpoints, self.step)
        self._saved = position

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go on from ``checkpoint``.

        Raises:
            ConfigError: It comes from another recipe or other data.
        """
        self._refuse_other_run(checkpoint)
        state = checkpoint.state
        self.model.load_state_dict(checkpoint.group("model"))
        checkpoints.restore_optimizer(
            self.model, self.optimizer, checkpoint.group("optimizer"), state["optimizer_values"]
        )
        if self.ema:
            self.ema.load_state_dict(checkpoint.group("ema"))
        random = checkpoint.group("random")
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.world.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.metrics = state["metrics"]
        self._saved = (self.step, self.metrics.get("step"))
        logger.info("resumed from %s at step %d", checkpoint.path, self.step)

    def _refuse_other_run(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Raise ConfigError unless recipe and data of the checkpoint are those of this run."""
        state, data = checkpoint.state, self.source.identity()
        # Read as a recipe, so that keys younger than the checkpoint take their defaults.
        theirs = recipe_from_dict(state["recipe"], str(checkpoint.path))
        differing = differing_keys(theirs.to_dict(), self.recipe.to_dict())
        if differing:
            raise ConfigError(
                f"{checkpoint.path}: checkpoint of another recipe, differing in "
                f"{'; '.join(differing)}. Give the same values, or another --out."
            )
        if state["data"] != data:
            raise ConfigError(
                f"{checkpoint.path}: trained on other data ({state['data']} there, {data} here). "
                "Give the same data, or another --out."
            )

    # Running -------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train to the end, or until a stop is requested or the budget is used.

        Raises:
            NonFiniteError: A loss or gradient is not finite; names the videos of the batch. No
                checkpoint is written from then on.
        """
        log_recipe, main = self.recipe.log, self.world.rank == 0
        self._clock = time.perf_counter()
        progress_line = ProgressLine(self.total_steps, log_recipe.line_seconds, active=main)
        validated = self.metrics.get("step", -1)
        with RunLog(self.folder, self.step, validated, log_recipe.tensorboard, main) as log:
            try:
                if self.step == 0 and self.recipe.temporal_init == "calibrated":
                    self._calibrate()
                self._validate_if_due(log)
                while self.progress < 1 and not self._stopping:
                    self._run_epoch(log, progress_line)
            finally:
                progress_line.end()
        self.save()
        return Outcome.SAVED if self._stopping else Outcome.FINISHED

    def _calibrate(self) -> None:
        """Fit BatchNorm of the temporal head to the first batch of rank 0, before any update."""
        with self.source.batches(0, 0, self.world) as batches:
            chunk = self.source.augmented_chunks(next(batches), self.recipe.crop_px(0.0))[0]
        clips = chunk[0] if isinstance(chunk, tuple) else chunk  # (b,3,T,H,W)
        trunk = copy.deepcopy(self.model.trunk).train()  # keeps the running statistics as they are
        with torch.no_grad():
            maps = trunk(clips.transpose(1, 2).flatten(0, 1))  # (b*T,D,h,w)
        self.model.head.start_calibrated(maps)
        broadcast_model(self.model, self.world)
        if self.ema:
            self.ema.load_state_dict(self.model.state_dict())

    def _run_epoch(self, log: RunLog, progress_line: ProgressLine) -> None:
        """Run from the current position to the end of its epoch, or to a stop."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        end = (epoch + 1) * self.steps_per_epoch
        every = self.recipe.log.checkpoint_steps
        self.model.train()
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
            self._validate_if_due(log)
            self.save()

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
        clips = self.recipe.optim.batch * self.recipe.data.views
        values["clips_per_second"] = clips / took
        values["data_wait_share"] = waited / took
        values["seconds"] = self.seconds
        return values

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """Do one update; the batch is this process's share of the global one."""
        recipe, progress = self.recipe, self.progress
        lr = recipe.optim.lr * learning_rate(recipe.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        crop_px = recipe.crop_px(progress)
        chunks = self.source.augmented_chunks(batch, crop_px)
        self.optimizer.zero_grad(set_to_none=True)
        autocast = torch.bfloat16 if recipe.precision.autocast == "bf16" else None
        losses = backward_step(self.model, recipe.objective, chunks, self.world, autocast)
        limit = recipe.optim.clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        together = torch.stack([*losses.values(), norm]).tolist()  # one wait for the device
        values = dict(zip([*losses, "grad_norm"], together, strict=True))
        values |= {"lr": lr, "crop_px": crop_px}
        self._refuse_non_finite(values, batch)
        self.optimizer.step()
        self.step += 1
        if self.ema:
            self.ema.update(self.model, self.step)
        return values

    def _refuse_non_finite(self, values: dict[str, float], batch: Batch) -> None:
        """Raise NonFiniteError unless every value is finite; weights are as before the step."""
        wrong = [f"{name} is {value}" for name, value in values.items() if not isfinite(value)]
        if wrong:
            raise NonFiniteError(
                f"step {self.step + 1}: {', '.join(wrong)}; training stopped and checkpoints left "
                f"as they were. Lower optim.lr, or look at this batch's videos: "
                f"{', '.join(self.source.global_names(self.step))}."
            )

    def _add_time(self) -> None:
        """Count the time since the last call as spent on training."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now

    def _agree_on_stop(self) -> None:
        """Let all processes stop after the same step, and share one clock."""
        limit = self.recipe.budget.max_seconds
        used_up = limit is not None and self.seconds >= limit
        stop = self._stop_requested() or (used_up and not self.recipe.budget.paces_schedule)
        if self.world.size > 1:
            shared = torch.tensor([float(stop), self.seconds], dtype=torch.float64)
            shared = shared.to(self.world.device)
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
            stop, self.seconds = bool(shared[0]), float(shared[1])
        self._stopping = stop

    def _remaining_seconds(self) -> float:
        """Estimate the time to the end from recent steps."""
        by_steps = (self.total_steps - self.step) * self._step_seconds
        limit = self.recipe.budget.max_seconds
        return by_steps if limit is None else min(by_steps, max(limit - self.seconds, 0.0))

    def _validate_if_due(self, log: RunLog) -> None:
        """Measure retrieval every few epochs and at the end (rank 0)."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        section = self.recipe.validation
        due = self.progress >= 1 or (rest == 0 and self.step and epoch % section.every_epochs == 0)
        if not due or not self.validator.sets or self.metrics.get("step") == self.step:
            return
        if self.world.rank == 0:
            if section.random_init and "random_init" not in self.metrics:
                untrained = self.validator.measure(self._untrained())
                log.write("validation", 0, {"retrieval": untrained})
                self.metrics["random_init"] = untrained
            retrieval = self.validator.measure(self.trained)
            log.write("validation", self.step, {"retrieval": retrieval})
            self.metrics["trained"] = retrieval
        self.metrics["step"] = self.step
        barrier(self.world)
        self._add_time()

    def _untrained(self) -> CCLModel:
        """Return the network as it was before the first step."""
        device = self.world.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.recipe.seed)
            return initial_model(self.recipe).to(device)


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
            "--out must be one folder that every machine sees."
        )


def _check_batch(recipe: Recipe, clips: int, world: World) -> None:
    """Refuse a global batch that does not fit the data or the processes."""
    batch = recipe.optim.batch
    share = local_batch(batch, world)
    if share < recipe.optim.chunks:
        raise ConfigError(
            f"optim.chunks is {recipe.optim.chunks} but each process has only {share} of "
            f"optim.batch = {batch}; allowed: at most that."
        )
    if clips < batch:
        raise ConfigError(
            f"the data holds {clips} usable videos, fewer than optim.batch = {batch}; "
            "give more videos or a smaller batch."
        )


def initial_model(recipe: Recipe) -> CCLModel:
    """Build the untrained network from torch's current random state, as the recipe asks."""
    model = CCLModel(recipe.model_config)
    if recipe.temporal_init != "random":  # a calibrated one goes on from here with a first batch
        model.head.start_as_identity()
    return model


def _new_model(recipe: Recipe, world: World) -> CCLModel:
    """Build the model as the recipe asks, in training mode."""
    model = initial_model(recipe).to(world.device)
    broadcast_model(model, world)  # the same bits, whatever another machine's torch has drawn
    if recipe.optim.sync_batchnorm:
        synchronise_batchnorm(model, world)
    if recipe.precision.compile:
        model.compile()
    return model.train()


def _new_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; vectors (BatchNorm, biases) may go without weight decay."""
    optim = recipe.optim
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not optim.decay_norm_and_bias:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if optim.kind == "adamw":
        first, second = optim.betas
        return torch.optim.AdamW(
            groups, lr=optim.lr, betas=(first, second), weight_decay=optim.weight_decay
        )
    return torch.optim.SGD(
        groups, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
    )
