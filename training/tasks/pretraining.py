"""What pretraining brings to the loop: an objective without labels, and retrieval to check it."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub.network.architecture import Whitening

from ..clips.loader import Batch
from ..clips.source import ClipSource
from ..distributed.world import World, backward_step, broadcast_model
from ..recipes.pretraining import Recipe
from ..run.checkpoints import Checkpoint
from ..run.ema import EmaWeights
from ..run.logs import RunLog
from ..run.optimizer import FrozenInBfloat16, freeze, new_optimizer, prepared
from ..teachers.lite0 import load_lite0
from .teaching import LITE0, Teaching, fit_features, pooled_frames
from .validation import Validator


class Pretraining:
    """The task of pretraining; see :class:`training.run.loop.Task`.

    Args:
        recipe: What to do.
        source: The training clips.
        world: This process among its peers.

    Raises:
        CCLError: The validation sets are damaged or do not fit.
        TrainingError: The recipe asks for SyncBatchNorm on CPUs.
    """

    kind = "pretrain"

    def __init__(self, recipe: Recipe, source: ClipSource, world: World) -> None:
        self.recipe, self.source, self.world = recipe, source, world
        torch.manual_seed(recipe.seed)
        model = initial_model(recipe)
        # Weights from elsewhere, by their hashes; all others are decided by the recipe.
        self.origin: dict[str, Any] = {"start": model.weights_sha256} if recipe.start else {}
        model.weights_sha256 = ""  # training changes them
        self.teaching = Teaching.of(recipe, source, model, world.device)
        self.model = prepared(model, recipe, world)
        self.frozen = freeze(self.model, recipe.optim.frozen)
        self.optimizer = new_optimizer(recipe.optim, self.model)
        self.ema = (
            EmaWeights(self.model, recipe.ema.decay) if recipe.ema.decay is not None else None
        )
        self.validator = Validator(recipe)
        self.measure_epochs = recipe.validation.every_epochs if self.validator.sets else None

    @property
    def trained(self) -> CCLModel:
        """The weights to measure and to export: the average where one is kept."""
        return self.ema.model if self.ema else self.model

    def begin(self) -> None:
        """Fit what starts from data: features, then BatchNorm of a calibrated temporal head."""
        if self.recipe.start == LITE0:
            fit_features(self.model.trunk, self.source.frames, self.recipe)
        if self.recipe.temporal_init == "calibrated":
            self._calibrate_head()
        broadcast_model(self.model, self.world)
        if self.ema:
            self.ema.model.load_state_dict(self.model.state_dict())

    def _calibrate_head(self) -> None:
        """Fit BatchNorm after conv6 to the first batch of this process."""
        with self.source.batches(0, 0, self.world) as batches:
            chunk = self.source.augmented_chunks(next(batches), self.recipe.crop_px(0.0))[0]
        clips = chunk[0] if isinstance(chunk, tuple) else chunk  # (b,3,T,H,W)
        trunk = copy.deepcopy(self.model.trunk).train()  # a copy: running statistics stay
        with torch.no_grad():
            maps = trunk(clips.transpose(1, 2).flatten(0, 1))  # (b*T,D,h,w)
        self.model.head.start_calibrated(maps)

    def gradient(self, batch: Batch, progress: float) -> dict[str, Tensor | float]:
        """Leave the gradient of the objective in ``.grad``; return its terms."""
        recipe = self.recipe
        for module in self.frozen:  # the loop puts the whole model into training mode
            module.eval()
        crop_px = recipe.crop_px(progress)
        chunks = self.source.augmented_chunks(batch, crop_px)
        autocast = torch.bfloat16 if recipe.precision.autocast == "bf16" else None
        frame_loss = (
            self.teaching.frame_loss(batch, recipe.optim.chunks) if self.teaching else None
        )
        model, objective = self.model, recipe.objective
        with self._frozen_in_bfloat16.used() if self._frozen_in_bfloat16 else nullcontext():
            losses = backward_step(
                model,
                objective,
                chunks,
                self.world,
                autocast,
                frame_loss,
                recipe.features_weight,
            )
        return {**losses, "crop_px": crop_px}

    @cached_property
    def _frozen_in_bfloat16(self) -> FrozenInBfloat16 | None:
        """Made at the first step, when weights are read or restored.

        Of the trunk alone: a frozen temporal head passes the gradient on.
        """
        named = zip(self.recipe.optim.frozen, self.frozen, strict=True)
        parts = [module for name, module in named if name.startswith("trunk.")]
        wanted = parts and self.recipe.precision.frozen == "bf16"
        return FrozenInBfloat16(parts) if wanted else None

    def updated(self, step: int) -> None:
        """Move the average towards the weights."""
        if self.ema:
            self.ema.update(self.model, step)

    def finish(self) -> None:
        """Fit the map after pooling to untouched frames, where the model has one."""
        if isinstance(self.trained.output, Whitening):
            if self.world.is_main:
                self.trained.output.fit(pooled_frames(self.trained, self.source.frames))
            broadcast_model(self.trained, self.world)

    def more_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the average."""
        return {"ema": self.ema.model.state_dict()} if self.ema else {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the average."""
        if self.ema:
            self.ema.model.load_state_dict(checkpoint.group("ema"))

    def measure(self, log: RunLog, step: int, metrics: dict[str, Any]) -> None:
        """Measure retrieval on rank 0, and that of the untrained network once."""
        if not self.world.is_main:
            return
        if self.recipe.validation.random_init and "random_init" not in metrics:
            untrained = self.validator.measure(self._untrained())
            log.write("validation", 0, {"retrieval": untrained})
            metrics["random_init"] = untrained
        retrieval = self.validator.measure(self.trained)
        log.write("validation", step, {"retrieval": retrieval})
        metrics["trained"] = retrieval

    def _untrained(self) -> CCLModel:
        """Return the network as it was before the first step."""
        device = self.world.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.recipe.seed)
            return initial_model(self.recipe).to(device)


def initial_model(recipe: Recipe) -> CCLModel:
    """Build the recipe's untrained network from the current random state of torch."""
    model = CCLModel(recipe.model_config)
    if recipe.start == LITE0:
        model.weights_sha256 = load_lite0(model.trunk)
    elif recipe.start:
        before = CCLModel.from_pretrained(Path(recipe.start))
        model.load_state_dict(before.state_dict())
        model.weights_sha256 = before.weights_sha256
        return model
    if recipe.temporal_init != "random":  # "calibrated" goes on from here with a first batch
        model.head.start_as_identity()
    return model
