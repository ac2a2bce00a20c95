"""A slow average of a model's weights, which is often better than the last weights."""

from __future__ import annotations

import copy

import torch

from ccl_hub import CCLModel


class EmaWeights:
    """Exponential moving average of weights and BatchNorm statistics, as ``model``.

    Args:
        model: Its weights are averaged; the average starts as a copy.
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
        averages, values = self.model.state_dict(), model.state_dict()
        floating = [name for name, average in averages.items() if average.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating], [values[name] for name in floating], share
        )
        for name in averages.keys() - set(floating):
            averages[name].copy_(values[name])
