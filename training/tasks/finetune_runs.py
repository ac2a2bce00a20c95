"""Fine-tunings, from models and labelled sets to tested models and their figures."""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccl_hub.config import parse_dataclass
from ccl_hub.errors import ConfigError

from ..clips.source import ClipSource, SplitSource, cached_frames
from ..distributed.world import World, start_world
from ..evaluation.labelled_sets import EvaluationSet, data_record, open_evaluation_sets
from ..evaluation.models import NamedModel, load_models
from ..evaluation.results import ModelRecord, Results, write_results
from ..recipes.finetuning import FinetuneRecipe, read_finetune_recipe
from ..recipes.toml import apply_changes
from ..run.folder import StopFlag, choose_checkpoint, only_run_in, set_precision
from ..run.logs import CURVES_NAME, LOG_NAME, draw_curves, read_log, require_drawing
from ..run.loop import Loop, Outcome, check_batch
from .classifier import ClassifierRecord, load_classifier, save_classifier
from .finetuning import Figures, Finetuning, judge

logger = logging.getLogger("training.finetune")

DEFAULT_RECIPE = "paper"


@dataclass(frozen=True)
class FinetuneOptions:
    """What the command line says; see ``python -m training.finetune --help``."""

    recipe: str | None
    model: tuple[str, ...]
    data: tuple[str, ...]
    seeds: tuple[int, ...] | None
    changes: tuple[str, ...]
    metric: str | None
    average: str | None
    resume: str | None
    group: str
    out: Path | None
    results: Path | None
    evaluate: Path | None

    @property
    def all_changes(self) -> tuple[str, ...]:
        """The changes, followed by those of ``--metric`` and ``--average``."""
        short = {"test.metric": self.metric, "test.average": self.average}
        return (*self.changes, *(f"{key}={value}" for key, value in short.items() if value))


def finetune_all(options: FinetuneOptions) -> tuple[list[Results], Outcome]:
    """Fine-tune every model on every set with every seed, until one run is stopped.

    Raises:
        CCLError: As :func:`finetune`; or a recipe, model or set cannot be found.
    """
    recipe = read_finetune_recipe(options.recipe or DEFAULT_RECIPE, options.all_changes)
    out = options.out or Path()
    seeds = options.seeds or (recipe.seed,)
    runs = len(options.model) * len(options.data) * len(seeds)
    if runs > 1 and options.resume not in (None, "auto"):
        raise ConfigError(
            f"--resume {options.resume} is one checkpoint for {runs} runs; give --resume auto."
        )
    if recipe.log.curves:
        require_drawing()
    set_precision(recipe.precision)
    stop, results = StopFlag(), []
    with start_world(recipe.precision.device) as world, stop.listening():
        for named, labelled, seed in _starts(options, recipe, seeds):
            folder = out
            if runs > 1:
                folder /= _slug(named.record.label, f"seed{seed}", labelled.videos.name)
            seeded = dataclasses.replace(recipe, seed=seed)
            outcome, result = finetune(
                seeded, named, labelled, folder, world, stop=stop, resume=options.resume
            )
            if result is None:
                if stop.signal_name:
                    logger.info("stopped by %s", stop.signal_name)
                return results, outcome
            result = dataclasses.replace(result, group=options.group)
            if world.is_main:
                logger.info("wrote %s", write_results(result, options.results or out / "results"))
            results.append(result)
    return results, Outcome.FINISHED


def _starts(
    options: FinetuneOptions, recipe: FinetuneRecipe, seeds: Sequence[int]
) -> Iterator[tuple[NamedModel, EvaluationSet, int]]:
    """Yield what each run starts from; the seed in its record distinguishes the runs of a row."""
    for seed in seeds:
        for named in load_models(options.model, (seed,)):
            record = named.record
            if record.seed is None or len(seeds) > 1:
                record = dataclasses.replace(record, seed=seed)
            for labelled in _open_sets(options.data, recipe, named):
                # A copy for each set, as training changes the model.
                yield NamedModel(copy.deepcopy(named.model), record), labelled, seed


def _open_sets(
    places: Sequence[str], recipe: FinetuneRecipe, named: NamedModel
) -> list[EvaluationSet]:
    return open_evaluation_sets(
        places,
        named.model.preprocessing,
        test_share=recipe.data.test_share,
        workers=max(1, recipe.data.workers),
    )


def _slug(*parts: str) -> str:
    return "--".join(re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-.") for part in parts)


def test_again(folder: Path, options: FinetuneOptions) -> list[Results]:
    """Test the model of a finished run on the test splits of sets, with the settings of the run.

    Args:
        folder: Of the run.
        options: Its ``data``, changes, ``group`` and ``results`` are used.

    Raises:
        CCLError: The folder holds no whole fine-tuned model, or a set has other classes.
    """
    model, record = load_classifier(folder)
    values = copy.deepcopy(record.recipe)
    values["precision"] = {**values.get("precision", {}), "device": "auto", "threads": 0}
    apply_changes(values, options.all_changes)
    recipe = parse_dataclass(FinetuneRecipe, values, str(folder / "recipe of classes.json"))
    set_precision(recipe.precision)
    results = []
    with start_world(recipe.precision.device) as world:
        named = NamedModel(model.backbone, record.start)
        sets = _open_sets(options.data, fitted(recipe, named), named)
        for labelled in sets:
            _require_classes(labelled, record.classes, folder)
        model.to(world.device)
        for labelled in sets:
            figures = judge(model, SplitSource(labelled, "test"), recipe, world)
            settings = {"recipe": recipe.to_dict(), "trained_on": record.data.name}
            result = _results(record.start, labelled, figures, settings, group=options.group)
            if options.results is not None and world.is_main:
                logger.info("wrote %s", write_results(result, options.results))
            results.append(result)
    return results


def _require_classes(labelled: EvaluationSet, classes: Sequence[str], folder: Path) -> None:
    present = labelled.videos.classes
    if present == tuple(classes):
        return
    differing = sorted(set(present) ^ set(classes)) or ["their order"]
    raise ConfigError(
        f"{labelled.videos.name}: has {len(present)} classes, and the model of {folder} has "
        f"{len(classes)}; they differ in {', '.join(differing[:3])}. "
        "Give a set with the classes that the model was trained on."
    )


def _results(
    start: ModelRecord,
    labelled: EvaluationSet,
    figures: Figures,
    settings: dict[str, Any],
    **more: Any,
) -> Results:
    return Results(
        kind="finetune",
        model=start,
        data=data_record(labelled),
        measurements=figures.measurements,
        settings=settings,
        confusion=figures.confusion,
        **more,
    )


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
        named: The model to start from; training changes it.
        labelled: The set.
        folder: For checkpoints, logs and the final model.
        world: This process among its peers.
        stop: Asked after each step.
        resume: ``"auto"``, the path of a checkpoint, or None for a fresh run.

    Returns:
        Whether the run came to its end, and its results; a stopped run has none.

    Raises:
        CCLError: Recipe, data, world or checkpoint are damaged or do not fit each other.
        NonFiniteError: The loss or a gradient is NaN or infinite.
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
    loop.start_from(checkpoint)
    with only_run_in(folder, recipe, world):
        outcome = loop.run()
        lines = read_log(folder / LOG_NAME)
        if world.is_main and recipe.log.curves:
            draw_curves(lines, folder / CURVES_NAME, f"{named.record.label}, {recipe.name}")
        if outcome is Outcome.SAVED:
            return outcome, None
        figures = parse_dataclass(Figures, loop.metrics["test"], "the figures of the test")
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
    curves = epoch_curves(lines)
    return outcome, _results(named.record, labelled, figures, settings, curves=curves)


def fitted(recipe: FinetuneRecipe, named: NamedModel) -> FinetuneRecipe:
    """Return the recipe with the preprocessing of the model.

    Raises:
        ConfigError: The clips of the recipe would be larger than those of the model.
    """
    recipe = dataclasses.replace(recipe, preprocessing=named.model.preprocessing)
    largest = recipe.preprocessing.crop_px
    if recipe.crop_px > largest:
        raise ConfigError(
            f"clip.crop_px is {recipe.crop_px}, and the crop of {named.record.label} is "
            f"{largest}; allowed: at most {largest}."
        )
    return recipe


def epoch_curves(lines: Sequence[dict]) -> dict[str, list[float]]:
    """Return loss and accuracy over epochs, from the lines of a log.

    Args:
        lines: As :func:`training.run.logs.read_log` gives them.

    Returns:
        ``loss`` and ``training accuracy``, means over each epoch; and each figure of the test, if
        the run was tested more than once, with one value for each time.
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
