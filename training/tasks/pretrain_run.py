"""One pretraining, from a recipe to its checkpoints, logs and curves."""

from __future__ import annotations

import logging
from pathlib import Path

from ..clips.source import open_source
from ..distributed.world import start_world
from ..recipes.pretraining import Recipe, as_begun
from ..run.folder import StopFlag, choose_checkpoint, only_run_in, set_precision
from ..run.logs import CURVES_NAME, LOG_NAME, draw_curves, read_log, require_drawing
from ..run.loop import Loop, Outcome, check_batch
from .pretraining import Pretraining

logger = logging.getLogger(__name__)


def pretrain(recipe: Recipe, folder: Path, resume: str | None = None) -> Outcome:
    """Pretrain a model by a recipe.

    Args:
        recipe: What to do.
        folder: For checkpoints, logs and curves.
        resume: ``"auto"``, the path of a checkpoint, or None for a fresh run.

    Returns:
        Whether the run came to its end.

    Raises:
        CCLError: Recipe, data, world or checkpoint are damaged or do not fit each other.
        NonFiniteError: The loss or a gradient is NaN or infinite.
        OutputError: The folder cannot be written.
    """
    stop = StopFlag()
    if recipe.log.curves:
        require_drawing()
    set_precision(recipe.precision)
    with start_world(recipe.precision.device) as world:
        checkpoint = choose_checkpoint(folder, resume)
        if checkpoint is not None:
            recipe = as_begun(recipe, checkpoint.state["recipe"])
        source = open_source(recipe, world.device)
        check_batch(recipe.optim, len(source), world)
        loop = Loop(Pretraining(recipe, source, world), recipe, source, folder, world, stop)
        loop.start_from(checkpoint)
        with only_run_in(folder, recipe, world), stop.listening():
            outcome = loop.run()
        if stop.signal_name:
            logger.info("stopped by %s", stop.signal_name)
        if world.is_main and recipe.log.curves:
            draw_curves(read_log(folder / LOG_NAME), folder / CURVES_NAME, recipe.name)
    return outcome
