"""A slow average of a model's weights, often better than the last ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from ccl_hub import CCLModel


class EmaWeights:
    """Exponential moving average of weights and BatchNorm statistics.

    Args:
        model: Whose weights are averaged; the average starts as a copy.
        decay: Share of the average kept at each step, 0 to below 1. At step n it is at most
            (1 + n) / (10 + n), so that the random start is soon forgotten.
    """

    def __init__(self, model: CCLModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: CCLModel, step: int) -> None:
        """Move the average towards ``model`` after optimizer step ``step`` (from 1)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [ours[name] for name in floating], [theirs[name] for name in floating], share
        )
        for name in ours.keys() - set(floating):
            ours[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average, named as the model's own state."""
        return self.model.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.model.load_state_dict(tensors)
