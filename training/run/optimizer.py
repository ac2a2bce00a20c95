"""The optimizer that a recipe asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..recipes.sections import Optim


def new_optimizer(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; vectors (BatchNorm, biases) may go without weight decay.

    Args:
        optim: Section of a recipe.
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
