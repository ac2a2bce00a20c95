"""Table 7: what each part of the objective is worth, in one command.

    python -m training.ablation mini --set data.pack=PACK --data EVAL [--data EVAL2] --out FOLDER

Every row is the recipe with another objective; everything else, budget and seeds included, is
the same. For every row and seed this pretrains, measures retrieval (Tables 2 and 3) and trains a
linear probe (Table 5) or, with ``--finetune``, fine-tunes, which is what the paper's Table 7 has.
The same command goes on where it was stopped: finished parts are kept. Exit codes: 0 all measured;
1 a part failed (which one, and its last words, are said); 2 wrong arguments; 75 stopped by
SIGTERM, SIGINT or SIGHUP: what ran was stopped too, and trainings have saved; 130 interrupted by
a second SIGINT.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccl_hub import CCLModel
from ccl_hub._util.files import write_atomically
from ccl_hub.config import parse_dataclass
from ccl_hub.errors import CCLError, ConfigError, OutputError

from .evaluation.labelled_sets import TEST_SHARE, open_evaluation_sets
from .evaluation.models import seed_list
from .evaluation.results import Results, Summary, read_results, summarise
from .recipes.finetuning import FinetuneRecipe, read_finetune_recipe
from .recipes.pretraining import (
    Recipe,
    differing_keys,
    frame_choice_of,
    read_recipe,
)
from .recipes.sections import Budget
from .recipes.toml import add_change_argument
from .run.folder import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_SAVED, StopFlag, write_recipe
from .run.steps import Part, PartFailedError, StoppedError, missing_parts, run_parts

__all__ = ["GROUP", "ROWS", "Row", "main"]

GROUP = "table 7"
EXIT_INTERRUPTED = 130
UNTRAINED = "untrained"  # a model of the architecture of all rows, for the random ones
SHOWN = (
    ("finetune", "", "video", "", "top-1"),
    ("linear", "", "video", "", "top-1"),
    ("V=>V", "512", "clip", "class", "top-1"),
    ("F=>V", "512", "clip", "same video", "top-1"),
    ("V=>F", "512", "clip", "same video", "top-1"),
    ("F=>V", "128", "clip", "same video", "top-1"),
    ("V=>F", "128", "clip", "same video", "top-1"),
)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        label: As printed.
        changes: ``section.key=value`` texts on top of the recipe.
        place: Instead of pretraining, a reference row that ``--model`` of the evaluations takes.
    """

    label: str
    changes: tuple[str, ...] = ()
    place: str = ""


ROWS = {
    "random": Row("random-init", place="random-init"),
    "random-identity": Row("random-init-identity", place="random-init-identity"),
    "mse": Row("MSE", ("objective.kind=mse",)),
    "lv": Row("Lv", ("objective.preset=paper", 'objective.terms=["backward"]')),
    "lv-lf": Row("Lv + Lf", ("objective.preset=paper", 'objective.terms=["backward", "forward"]')),
    "lv-lf-p": Row("Lv + Lf + P", ("objective.preset=paper",)),
    "tuned-lv": Row("tuned Lv", ("objective.preset=tuned", 'objective.terms=["backward"]')),
    "tuned-lv-lf": Row(
        "tuned Lv + Lf", ("objective.preset=tuned", 'objective.terms=["backward", "forward"]')
    ),
    "tuned": Row("tuned Lv + Lf + P", ("objective.preset=tuned",)),
}
DEFAULT_ROWS = ("random", "mse", "lv", "lv-lf", "lv-lf-p", "tuned")


@dataclass(frozen=True)
class Plan:
    """Everything the command line says."""

    recipe: str
    changes: tuple[str, ...]
    data: tuple[str, ...]
    out: Path
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    launch: tuple[str, ...]
    evaluation: tuple[str, ...]
    finetune: str | None


def parse_arguments(arguments: Sequence[str] | None) -> tuple[Plan, int]:
    """Read the command line: the plan, and the number of jobs at a time."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablation",
        description="Pretrain, measure and tabulate every row of Table 7 at equal budget.",
    )
    parser.add_argument("recipe", help="a TOML file, or a name in training/recipes such as mini")
    add_change_argument(parser)
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        help="a labelled set to measure on, as the evaluations take it; may be repeated",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--rows",
        default=",".join(DEFAULT_ROWS),
        help=f"rows to make, of {', '.join(ROWS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=seed_list,
        default=(0, 1, 2),
        metavar="0,1,2",
        help="seeds of every row (default: 0,1,2)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="parts to run at the same time")
    parser.add_argument(
        "--launch",
        default="",
        help="what starts a pretraining or fine-tuning, such as 'torchrun --nproc-per-node 8'",
    )
    parser.add_argument(
        "--evaluation",
        default="",
        help="further arguments of the evaluations, such as '--precision bf16 --threads 1'",
    )
    parser.add_argument(
        "--finetune",
        nargs="?",
        const="paper",
        metavar="RECIPE",
        help="fine-tune by this recipe (default: paper) instead of training a linear probe",
    )
    options = parser.parse_args(arguments)
    rows = tuple(options.rows.split(","))
    unknown = [name for name in rows if name not in ROWS]
    if unknown:
        parser.error(f"--rows: {unknown[0]!r} is none of {', '.join(ROWS)}")
    if len(set(rows)) < len(rows) or options.jobs < 1:
        parser.error("--rows names each once, and --jobs is 1 or more")
    plan = Plan(
        recipe=options.recipe,
        changes=tuple(options.changes),
        data=tuple(options.data),
        out=options.out,
        rows=rows,
        seeds=options.seeds,
        launch=tuple(shlex.split(options.launch)) or (sys.executable,),
        evaluation=tuple(shlex.split(options.evaluation)),
        finetune=options.finetune,
    )
    return plan, options.jobs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    plan, jobs = parse_arguments(arguments)
    try:
        for name in plan.rows:  # before hours of work
            recipe = read_recipe(plan.recipe, (*plan.changes, *ROWS[name].changes))
            _require_complete(recipe.budget, plan.recipe)
        if plan.finetune is not None:
            _require_complete(read_finetune_recipe(plan.finetune).budget, plan.finetune)
        run(plan, jobs)
        table = markdown(summarise(_results_of(plan)), plan)
        write_atomically(plan.out / "table7.md", lambda file: file.write(table.encode()))
    except (PartFailedError, OutputError) as error:
        return _fail(error, EXIT_FAILED)
    except StoppedError as error:
        return _fail(error, EXIT_SAVED)
    except KeyboardInterrupt:  # a second Ctrl-C
        sys.stderr.write("error: interrupted; what ran was killed. The same command goes on.\n")
        return EXIT_INTERRUPTED
    except CCLError as error:
        return _fail(error, EXIT_BAD_INPUT)
    sys.stdout.write(table)
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


def run(plan: Plan, jobs: int) -> None:
    """Make every part that is not there yet.

    Args:
        plan: What to make.
        jobs: Parts at a time.

    Raises:
        ConfigError: What is there was made by another recipe, or a data set does not fit.
        PartFailedError: A part failed; those that were running are finished first.
        StoppedError: SIGTERM, SIGINT or SIGHUP came; trainings that ran have saved.
        OutputError: The folder cannot be written.
    """
    done = plan.out / "done"
    cells = [(name, seed) for seed in plan.seeds for name in plan.rows]
    begun = _begun(plan)
    chains = [_parts(plan, name, seed, begun) for name, seed in cells]
    recipe = read_recipe(plan.recipe, (*plan.changes, "seed=0", *begun))
    _require_same_recipe(plan.out / UNTRAINED, recipe)
    for name, seed in cells:
        _require_same_recipes(plan, name, seed, begun)
    if missing_parts(chains, done):
        wanted = argparse.Namespace(data=plan.data, test_share=TEST_SHARE, workers=2)
        open_evaluation_sets(wanted, recipe.preprocessing)  # wrong ones are found at once
        CCLModel(recipe.model_config).save_pretrained(plan.out / UNTRAINED)
        write_recipe(recipe, plan.out / UNTRAINED)
    stop = StopFlag()
    with stop.listening():
        run_parts(chains, done, jobs, stop)


def _require_complete(budget: Budget, what: str) -> None:
    """Refuse a budget that ends runs early: no two rows would have had the same training."""
    if budget.max_seconds is not None and not budget.paces_schedule:
        raise ConfigError(
            f"{what}: budget.max_seconds is {budget.max_seconds:g}, which would end rows before "
            "their last step; leave it out, or set budget.paces_schedule=true too."
        )


def _begun(plan: Plan) -> tuple[str, ...]:
    """Return the changes that keep ``frame_choice`` as it was when the ablation began.

    Every row takes frames by one rule, and the recipe's default is younger than some ablations.
    """
    path, key = plan.out / UNTRAINED / "recipe.json", "preprocessing.frame_choice="
    if not path.is_file() or any(change.startswith(key) for change in plan.changes):
        return ()
    return (key + frame_choice_of(_read(path)),)


def _require_same_recipes(plan: Plan, name: str, seed: int, begun: tuple[str, ...]) -> None:
    """Refuse what another recipe has trained in this folder, finished or not.

    A file of a recipe can change while its name, and so the command, stays the same.
    """
    row = ROWS[name]
    if not row.place:
        changes = (*plan.changes, *row.changes, f"seed={seed}", *begun)
        recipe = read_recipe(plan.recipe, changes)
        _require_same_recipe(_run_folder(plan, name, seed), recipe)
    if plan.finetune is not None:
        tuning = dataclasses.replace(read_finetune_recipe(plan.finetune), seed=seed)
        for place in plan.data:
            _require_same_recipe(_tuned_folder(plan, name, seed, place), tuning)


def _require_same_recipe(folder: Path, wanted: Recipe | FinetuneRecipe) -> None:
    path = folder / "recipe.json"
    if not path.is_file():
        return
    values = _read(path)
    theirs = parse_dataclass(type(wanted), values, str(path))
    if isinstance(wanted, FinetuneRecipe):  # filled in from the model
        wanted = dataclasses.replace(wanted, preprocessing=theirs.preprocessing)
    differing = differing_keys(theirs.to_dict(), wanted.to_dict())
    if differing:
        raise ConfigError(
            f"{path}: trained by another recipe, differing in {'; '.join(differing)}. "
            "Give the same values, or another --out."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not JSON ({error}); give another --out.") from error
    return values


def _run_folder(plan: Plan, name: str, seed: int) -> Path:
    return plan.out / "runs" / f"{name}-seed{seed}"


def _tuned_folder(plan: Plan, name: str, seed: int, place: str) -> Path:
    return plan.out / "finetuned" / f"{name}-seed{seed}-{_short(place)}"


def _parts(plan: Plan, name: str, seed: int, begun: tuple[str, ...] = ()) -> list[Part]:
    """Return what makes one row for one seed, in order."""
    kept = tuple(text for change in begun for text in ("--set", change))
    return [
        Part(f"{name}-seed{seed}-{part}", tuple(command), kept if part == "pretrain" else ())
        for part, command in _commands(plan, name, seed)
    ]


def _commands(plan: Plan, name: str, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Name the commands of one row and seed, in order."""
    row = ROWS[name]
    model = f"{row.place}={plan.out / UNTRAINED}"
    if not row.place:
        model = str(_run_folder(plan, name, seed))
        sets = [*plan.changes, *row.changes, f"seed={seed}"]
        flags = [text for change in sets for text in ("--set", change)]
        pretrain = [*plan.launch, "-m", "training.pretrain", plan.recipe, *flags]
        yield "pretrain", [*pretrain, "--out", model, "--resume", "auto"]
    results = str(plan.out / "results")
    common = ["--model", f"{row.label}={model}", "--group", GROUP]
    places = [text for place in plan.data for text in ("--data", place)]
    evaluate = [*common, *places, "--cache", str(plan.out / "cache"), *plan.evaluation]
    evaluate += ["--seeds", str(seed), "--out", results]
    yield "retrieval", [sys.executable, "-m", "training.retrieval", *evaluate]
    if plan.finetune is None:
        yield "probe", [sys.executable, "-m", "training.linear_probe", *evaluate]
        return
    for place in plan.data:
        folder = _tuned_folder(plan, name, seed, place)
        tune = [*plan.launch, "-m", "training.finetune", plan.finetune, *common, "--data", place]
        tune += ["--seeds", str(seed), "--out", str(folder), "--results", results]
        yield f"finetune-{_short(place)}", [*tune, "--resume", "auto"]


def _short(place: str) -> str:
    """A name for a data set that is a file name too, and differs for different places."""
    return f"{Path(place).stem}-{hashlib.sha256(place.encode()).hexdigest()[:6]}"


def _results_of(plan: Plan) -> list[Results]:
    """Read the results of this plan's rows and seeds; the folder may hold more of either."""
    labels = {ROWS[name].label for name in plan.rows}
    return [
        result
        for result in read_results([plan.out / "results"])
        if result.model.label in labels and result.model.seed in plan.seeds
    ]


def markdown(summaries: Iterable[Summary], plan: Plan) -> str:
    """Lay the table out: one row per objective, one column per data set and figure.

    Args:
        summaries: Of the results.
        plan: Gives the order of the rows.

    Returns:
        A Markdown table in per cent, mean and standard deviation over seeds.
    """
    cells = {}
    columns = {}
    for one in summaries:
        *what, centred = one.column
        if tuple(what) in SHOWN and not centred:
            cells[one.label, one.data, tuple(what)] = one.text()
            columns[one.data, SHOWN.index(tuple(what))] = None
    order = sorted(columns)
    titles = [f"{data}: {_title(SHOWN[place])}" for data, place in order]
    lines = [f"| objective | {' | '.join(titles)} |", "|---" * (1 + len(order)) + "|"]
    for name in plan.rows:
        label = ROWS[name].label
        texts = [
            cells.get((label, data, SHOWN[place]), "not yet measured") for data, place in order
        ]
        lines.append(f"| {label} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _title(column: tuple[str, ...]) -> str:
    task, space, _, match, metric = column
    return " ".join(part for part in (task, f"{space}-d" if space else "", match, metric) if part)


if __name__ == "__main__":
    sys.exit(main())
