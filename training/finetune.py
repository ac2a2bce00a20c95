"""Fine-tune models with labels and test them (paper, Section 4.3, Tables 4 and 6).

    python -m training.finetune --model ccl_r18_mini --data PACK --out RUN
    python -m training.finetune RECIPE --model A --model random-init --data PACK1 --data PACK2
        --seeds 0,1,2 --out RUNS [--set a.b=c] [--resume auto]
    python -m training.finetune --evaluate RUN --data PACK

A new FC layer on the video feature, all layers trained; then 10 centre-crop clips of every test
video, predictions averaged. Also under ``torchrun --nproc-per-node K -m training.finetune``.

Each model, set and seed is a run with its checkpoints and logs: in ``--out`` itself if there is
one, in a folder for each if there are several. A finished run holds the model too: a folder that
``from_pretrained`` loads, with ``classifier.safetensors`` and ``classes.json`` beside. Results
files go to ``--results``, and a table to standard output.

Exit codes: 0 finished; 1 training failed (NaN, disk full); 2 a recipe, model, set or checkpoint is
not usable; 75 saved before the end (SIGTERM, SIGINT or the time budget), to be continued with
``--resume auto``. (torchrun itself exits with 1 whatever a process of its own returned.)
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ccl_hub.config import parse_dataclass
from ccl_hub.errors import CCLError, ConfigError, OutputError

from .clips.source import SplitSource
from .distributed.world import start_world
from .evaluation.labelled_sets import EvaluationSet, data_record, open_evaluation_sets
from .evaluation.models import REFERENCE_ROWS, NamedModel, load_models, seed_list
from .evaluation.results import Results, write_results
from .linear_probe import fold_means, markdown_table
from .recipes.finetuning import FinetuneRecipe, read_finetune_recipe
from .recipes.toml import add_change_argument, apply_changes
from .run.folder import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_SAVED, StopFlag, set_precision
from .run.logs import require_drawing
from .run.loop import NonFiniteError, Outcome
from .tasks.classifier import load_classifier
from .tasks.finetune_run import finetune, fitted
from .tasks.finetuning import judge

__all__ = ["evaluate", "main"]

logger = logging.getLogger("training.finetune")

DEFAULT_RECIPE = "paper"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune",
        description="Fine-tune models with labels and test them (Tables 4 and 6); also under "
        "torchrun.",
        epilog="Exit codes: 0 finished; 1 training failed; 2 unusable recipe, model, data or "
        "checkpoint; 75 saved before the end, continue with --resume auto.",
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        help="a TOML file, or a name in training/recipes/finetune (default: paper)",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[LABEL=]PLACE",
        help="what to go on from: a known name, model folder, Hub id, training run or checkpoint, "
        f"or {', '.join(REFERENCE_ROWS[:-1])}; may be repeated",
    )
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="PLACE",
        help="a packed set, a .csv or .parquet list, a folder with one folder per class, or "
        "rendered:N; may be repeated",
    )
    parser.add_argument(
        "--seeds", type=seed_list, metavar="0,1,2", help="one run for each (default: the recipe's)"
    )
    add_change_argument(parser)
    parser.add_argument(
        "--metric",
        choices=("accuracy", "f-measure"),
        help="f-measure: as Table 6, beside the accuracy; short for --set test.metric=...",
    )
    parser.add_argument("--average", choices=("macro", "micro"), help="of the f-measure")
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="go on from the newest whole checkpoint of each run (start afresh if there is none), "
        "or, of a single run, from a given checkpoint",
    )
    parser.add_argument("--group", default="", help="experiment the results belong to")
    parser.add_argument("--out", type=Path, help="folder of the run, or of the runs")
    parser.add_argument(
        "--results", type=Path, help="folder for the results files (default: OUT/results)"
    )
    parser.add_argument(
        "--evaluate",
        type=Path,
        metavar="FOLDER",
        help="train nothing: test the model of a finished run again",
    )
    options = parser.parse_args(arguments)
    for name in ("metric", "average"):
        if getattr(options, name) is not None:
            options.changes.append(f"test.{name}={getattr(options, name)}")
    given = [name for name in ("recipe", "model", "out", "resume", "seeds") if vars(options)[name]]
    if options.evaluate is not None and given:
        parser.error(f"--evaluate trains nothing; leave out {' and '.join(given)}")
    if options.evaluate is None and not (options.model and options.out):
        parser.error("give --model and --out, or --evaluate")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = parse_arguments(arguments)
    main_process = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    try:
        if options.evaluate is not None:
            results, outcome = evaluate(options), Outcome.FINISHED
        else:
            results, outcome = _finetune_all(options)
    except (NonFiniteError, OutputError) as error:
        return _fail(error, EXIT_FAILED)
    except CCLError as error:
        return _fail(error, EXIT_BAD_INPUT)
    if main_process and results:
        sys.stdout.write(markdown_table([*results, *fold_means(results)]))
    if outcome is Outcome.SAVED:
        logger.info("saved before the end in %s; continue with --resume auto", options.out)
        return EXIT_SAVED
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


# Training ----------------------------------------------------------------------------------------


def _finetune_all(options: argparse.Namespace) -> tuple[list[Results], Outcome]:
    """Fine-tune every model on every set with every seed, until one run is stopped."""
    recipe = read_finetune_recipe(options.recipe or DEFAULT_RECIPE, options.changes)
    seeds = options.seeds or (recipe.seed,)
    runs = len(options.model) * len(options.data) * len(seeds)
    if runs > 1 and options.resume not in (None, "auto"):
        raise ConfigError(
            f"--resume {options.resume} is one checkpoint for {runs} runs; give auto."
        )
    if recipe.log.curves:
        require_drawing()
    set_precision(recipe.precision)
    stop, results = StopFlag(), []
    with start_world(recipe.precision.device) as world, stop.listening():
        for named, labelled, seed in _starts(options, recipe, seeds):
            folder = options.out
            if runs > 1:
                folder = folder / _slug(named.record.label, f"seed{seed}", labelled.videos.name)
            wanted = dataclasses.replace(recipe, seed=seed)
            outcome, result = finetune(
                wanted, named, labelled, folder, world, stop=stop, resume=options.resume
            )
            if outcome is Outcome.SAVED:
                if stop.signal_name:
                    logger.info("stopped by %s", stop.signal_name)
                return results, outcome
            result = dataclasses.replace(result, group=options.group)
            if world.is_main:
                place = options.results or options.out / "results"
                logger.info("wrote %s", write_results(result, place))
            results.append(result)
    return results, Outcome.FINISHED


def _starts(
    options: argparse.Namespace, recipe: FinetuneRecipe, seeds: Sequence[int]
) -> Iterator[tuple[NamedModel, EvaluationSet, int]]:
    """Yield what each run starts from; the record's seed tells the runs of a row apart."""
    for seed in seeds:
        for named in load_models(options.model, (seed,)):
            record = named.record
            if record.seed is None or len(seeds) > 1:
                record = dataclasses.replace(record, seed=seed)
            for labelled in _open_sets(options.data, recipe, named):
                # A model of its own for each set: training changes it.
                yield NamedModel(copy.deepcopy(named.model), record), labelled, seed


def _open_sets(
    places: Sequence[str], recipe: FinetuneRecipe, named: NamedModel
) -> list[EvaluationSet]:
    wanted = argparse.Namespace(
        data=places, test_share=recipe.data.test_share, workers=max(1, recipe.data.workers)
    )
    return open_evaluation_sets(wanted, named.model.preprocessing)


def _slug(*parts: str) -> str:
    return "--".join(re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-.") for part in parts)


# Testing again -----------------------------------------------------------------------------------


def evaluate(options: argparse.Namespace) -> list[Results]:
    """Test a finished run's model on the test splits of ``--data``, with its own settings.

    Raises:
        CCLError: The folder holds no whole fine-tuned model, or a set has other classes.
    """
    folder: Path = options.evaluate
    model, record = load_classifier(folder)
    values = copy.deepcopy(record.recipe)
    values["precision"] = {**values.get("precision", {}), "device": "auto", "threads": 0}
    apply_changes(values, options.changes)
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
            result = Results(
                kind="finetune",
                model=record.start,
                data=data_record(labelled),
                measurements=figures.measurements,
                settings={"recipe": recipe.to_dict(), "trained_on": record.data.name},
                confusion=figures.confusion,
                group=options.group,
            )
            if options.results is not None and world.is_main:
                logger.info("wrote %s", write_results(result, options.results))
            results.append(result)
    return results


def _require_classes(labelled: EvaluationSet, classes: Sequence[str], folder: Path) -> None:
    there = labelled.videos.classes
    if there == tuple(classes):
        return
    differing = sorted(set(there) ^ set(classes)) or ["their order"]
    raise ConfigError(
        f"{labelled.videos.name}: has {len(there)} classes, the model of {folder} "
        f"{len(classes)}; they differ in {', '.join(differing[:3])}. "
        "Test on a set with the classes it was trained on."
    )


if __name__ == "__main__":
    sys.exit(main())
