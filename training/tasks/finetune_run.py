"""One fine-tuning, from a model and a labelled set to the tested model and its figures."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ccl_hub.errors import ConfigError

from ..clips.source import ClipSource, SplitSource, cached_frames
from ..distributed.world import World
from ..evaluation.labelled_sets import EvaluationSet, data_record
from ..evaluation.models import NamedModel
from ..evaluation.results import Results
from ..recipes.finetuning import FinetuneRecipe
from ..run import checkpoints
from ..run.folder import StopFlag, choose_checkpoint, only_run_in, require_same_start, write_recipe
from ..run.logs import CURVES_NAME, LOG_NAME, draw_curves, read_log
from ..run.loop import Loop, Outcome, check_batch
from .classifier import ClassifierRecord, save_classifier
from .finetuning import Figures, Finetuning

__all__ = ["epoch_curves", "finetune", "fitted"]


def finetune(
    recipe: FinetuneRecipe,
    named: NamedModel,
    labelled: EvaluationSet,
    folder: Path,
    world: World,
    *,
    stop: StopFlag | None = None,
    resume: str | None = None,
) -> tuple[Outcome, Results | None]:
    """Fine-tune one model on one set, test it and keep it.

    Args:
        recipe: What to do.
        named: What to go on from; its model is changed.
        labelled: The set.
        folder: For checkpoints, logs and the final model.
        world: This process among its peers.
        stop: Asked after each step.
        resume: ``"auto"``, the path of a checkpoint, or None for a fresh run.

    Returns:
        Whether the run came to its end, and what it measured; None of a stopped run.

    Raises:
        CCLError: Recipe, data, world or checkpoint are damaged or do not fit each other.
        NonFiniteError: The loss or a gradient is not finite.
        OutputError: The folder cannot be written.
    """
    recipe = fitted(recipe, named)
    checkpoint = choose_checkpoint(folder, resume)
    train, test = (SplitSource(labelled, split) for split in ("train", "test"))
    check_batch(recipe.optim, len(train), world)
    frames = cached_frames(train, recipe.data, world.device)
    source = ClipSource(recipe, frames, world.device)
    task = Finetuning(recipe, named.model, source, train, test, world)
    loop = Loop(task, recipe, source, folder, world, stop or StopFlag())
    if checkpoint is not None:
        loop.restore(checkpoint)
    require_same_start(loop.step, world)
    with only_run_in(folder, world):
        if world.is_main:
            checkpoints.remove_leftovers(folder / "checkpoints")
            write_recipe(recipe, folder)
        outcome = loop.run()
        lines = read_log(folder / LOG_NAME)
        if world.is_main and recipe.log.curves:
            draw_curves(lines, folder / CURVES_NAME, f"{named.record.label}, {recipe.name}")
        if outcome is Outcome.SAVED:
            return outcome, None
        figures = Figures.from_dict(loop.metrics["test"])
        if world.is_main:
            record = ClassifierRecord(
                labelled.videos.classes,
                named.record,
                data_record(labelled),
                recipe.to_dict(),
                figures.by_metric,
            )
            save_classifier(task.model, record, folder)
    settings = {
        "recipe": recipe.to_dict(),
        "steps": loop.step,
        "training_seconds": round(loop.seconds, 1),
        "processes": world.size,
        "device": world.device.type,
    }
    result = Results(
        kind="finetune",
        model=named.record,
        data=data_record(labelled),
        measurements=figures.measurements,
        settings=settings,
        confusion=figures.confusion,
        curves=epoch_curves(lines),
    )
    return outcome, result


def fitted(recipe: FinetuneRecipe, named: NamedModel) -> FinetuneRecipe:
    """Return the recipe with the model's preprocessing.

    Args:
        recipe: As read.
        named: The model it is used with.

    Raises:
        ConfigError: Its clips would be larger than the model's.
    """
    recipe = dataclasses.replace(recipe, preprocessing=named.model.preprocessing)
    largest = recipe.preprocessing.crop_px
    if recipe.crop_px > largest:
        raise ConfigError(
            f"clip.crop_px is {recipe.crop_px}, the crop of {named.record.label} is {largest}; "
            "allowed: at most that."
        )
    return recipe


def epoch_curves(lines: Sequence[dict]) -> dict[str, list[float]]:
    """Return loss and accuracy over epochs, from the lines of a log.

    Args:
        lines: As :func:`training.run.logs.read_log` gives them.

    Returns:
        ``loss`` and ``training accuracy``, means over each epoch; and each figure of the test,
        one value for each time it was made, where that was more than once.
    """
    of_epochs: dict[int, list[dict]] = defaultdict(list)
    tests: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line["kind"] == "train":
            of_epochs[line["epoch"]].append(line)
        else:
            for metric, value in line.get("test", {}).items():
                tests[f"test {metric}"].append(value)
    curves = {
        title: [
            sum(line[name] for line in of_epochs[epoch]) / len(of_epochs[epoch])
            for epoch in sorted(of_epochs)
        ]
        for title, name in (("loss", "loss"), ("training accuracy", "accuracy"))
    }
    return curves | {name: values for name, values in tests.items() if len(values) > 1}
