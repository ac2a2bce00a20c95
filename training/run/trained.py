"""A checkpoint taken as a trained model: which file a path means, and which weights are taken."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ccl_hub.errors import ConfigError

from ..recipes.pretraining import Recipe
from .checkpoints import Checkpoint, list_checkpoints


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint file that ``path`` means: itself, or the newest of a run's folder."""
    for folder in (path / "checkpoints", path):
        checkpoints = list_checkpoints(folder)
        if checkpoints:
            return checkpoints[-1]
    return path


def trained_tensors(
    checkpoint: Checkpoint, recipe: Recipe, ema: bool | None = None
) -> tuple[dict[str, Tensor], bool]:
    """Choose the weights to measure and to export.

    Args:
        checkpoint: Of a training run.
        recipe: Its recipe.
        ema: As :func:`export` takes it.

    Returns:
        The tensors of the model, and whether they are the averaged ones.

    Raises:
        ConfigError: Averaged weights are asked for, but the run kept none.
    """
    if ema is None:
        ema = recipe.ema.decay is not None
    tensors = checkpoint.group("ema" if ema else "model")
    # The map to a teacher's vectors is a module of the network in training alone.
    tensors = {name: value for name, value in tensors.items() if not name.startswith("teacher.")}
    if not tensors:
        raise ConfigError(
            f"{checkpoint.path}: holds no averaged weights, as its recipe has no ema.decay; "
            "leave out --ema."
        )
    return tensors, ema
