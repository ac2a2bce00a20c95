"""Learning-rate schedules: pure functions of the position, so that a resumed run goes on exactly.

Positions are counted in epochs and may be fractions: ``step / steps_per_epoch``. Every function
returns the factor by which the recipe's learning rate is multiplied. Source of the step schedule:
paper, Section 4.1 (a tenth every 20 epochs). The paper has no cosine schedule and no warm-up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..recipes.sections import Schedule

# Division may put a position one rounding below its epoch; every step is longer than this.
_ROUNDING_EPOCHS = 1e-9


def learning_rate(schedule: Schedule, progress: float) -> float:
    """Return the factor on the recipe's learning rate.

    Args:
        schedule: The ``[schedule]`` section of a recipe.
        progress: Share of the run that is done, in [0, 1]: steps taken over all steps.

    Returns:
        A factor in [0, 1].

    Example:
        >>> from training.recipes.sections import Schedule
        >>> schedule = Schedule(kind="step", epochs=80)
        >>> [learning_rate(schedule, epoch / 80) for epoch in (0, 19, 20)]
        [1.0, 1.0, 0.1]
    """
    epoch = progress * schedule.epochs
    ramp = warmup_factor(epoch, schedule.warmup_epochs)
    if schedule.kind == "step":
        return ramp * step_factor(epoch, schedule.step_epochs, schedule.step_factor)
    return ramp * cosine_factor(
        epoch, schedule.warmup_epochs, schedule.epochs, schedule.final_factor
    )


def warmup_factor(epoch: float, warmup_epochs: float) -> float:
    """Return the linear ramp from 0 at the start to 1 at ``warmup_epochs``, and 1 after it."""
    return min(1.0, epoch / warmup_epochs) if warmup_epochs > 0 else 1.0


def step_factor(epoch: float, every_epochs: float, decay: float) -> float:
    """Return ``decay`` to the power of the whole periods of ``every_epochs`` that have passed."""
    return float(decay ** math.floor((epoch + _ROUNDING_EPOCHS) / every_epochs))


def cosine_factor(epoch: float, first_epoch: float, epochs: float, floor: float = 0.0) -> float:
    """Return half a cosine: 1 up to ``first_epoch``, falling to ``floor`` at ``epochs``."""
    if epoch >= epochs:
        return floor
    done = max(0.0, epoch - first_epoch) / (epochs - first_epoch) if epoch > first_epoch else 0.0
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
