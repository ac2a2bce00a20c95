"""The network of a run, ready for training, and its optimizer, as the recipe asks."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from ..distributed.world import World, broadcast_model, synchronise_batchnorm
from ..recipes.sections import Optim, PlainRecipe

Network = TypeVar("Network", bound=nn.Module)


def prepared(model: Network, recipe: PlainRecipe, world: World) -> Network:
    """Return a network on its device, with the same weights in every process, in training mode.

    Raises:
        TrainingError: The recipe asks for SyncBatchNorm on CPUs.
    """
    model = model.to(world.device)
    broadcast_model(model, world)  # the same bits, even where another machine's torch drew others
    if recipe.optim.sync_batchnorm:
        synchronise_batchnorm(model, world)
    if recipe.precision.compile:
        model.compile()
    return model.train()


def new_optimizer(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; vectors (BatchNorm, biases) may go without weight decay.

    Args:
        optim: The ``[optim]`` section of a recipe.
        model: All its parameters are optimised.
    """
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
