"""Table 7: the rows of an ablation, and the commands that make and measure them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccl_hub import CCLModel
from ccl_hub._util.files import write_atomically
from ccl_hub.config import parse_dataclass
from ccl_hub.errors import ConfigError

from ..evaluation.labelled_sets import open_evaluation_sets
from ..evaluation.results import Results, read_results, summarise
from ..evaluation.tables import ablation_table
from ..recipes.finetuning import FinetuneRecipe, read_finetune_recipe
from ..recipes.pretraining import Recipe, differing_keys, frame_choice_of, read_recipe
from ..recipes.sections import Budget
from ..run.folder import StopFlag, write_recipe
from ..run.steps import Step, missing_steps, run_steps

GROUP = "table 7"
UNTRAINED = "untrained"  # the folder of a model that gives the random rows their architecture


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        label: As printed.
        changes: ``section.key=value`` texts on top of the recipe.
        reference: Instead of pretraining, a reference row that the evaluations' ``--model`` takes.
    """

    label: str
    changes: tuple[str, ...] = ()
    reference: str = ""


ROWS = {
    "random": Row("random-init", reference="random-init"),
    "random-identity": Row("random-init-identity", reference="random-init-identity"),
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
    """What an ablation makes; see ``python -m training.ablation --help``."""

    recipe: str
    changes: tuple[str, ...]
    data: tuple[str, ...]
    out: Path
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: int
    launch: tuple[str, ...]
    evaluation: tuple[str, ...]
    finetune: str | None


def run_ablation(plan: Plan) -> str:
    """Make every step that is not done yet, and the table.

    Args:
        plan: What to make.

    Returns:
        Table 7 in Markdown; ``table7.md`` of ``plan.out`` holds the same.

    Raises:
        ConfigError: A recipe cannot be used, another one has trained in the folder, or a data set
            does not fit.
        StepFailedError: A step failed; those that were running are finished first.
        StoppedError: SIGTERM, SIGINT or SIGHUP came; trainings that ran have saved.
        OutputError: The folder cannot be written.
    """
    for name in plan.rows:  # before hours of work
        recipe = read_recipe(plan.recipe, (*plan.changes, *ROWS[name].changes))
        _require_complete(recipe.budget, plan.recipe)
    if plan.finetune is not None:
        _require_complete(read_finetune_recipe(plan.finetune).budget, plan.finetune)
    _run_missing_steps(plan)
    labels = [ROWS[name].label for name in plan.rows]
    table = ablation_table(summarise(_results_of(plan)), labels)
    write_atomically(plan.out / "table7.md", table)
    return table


def _run_missing_steps(plan: Plan) -> None:
    done = plan.out / "done"
    cells = [(name, seed) for seed in plan.seeds for name in plan.rows]
    kept = _kept_changes(plan)
    chains = [_steps(plan, name, seed, kept) for name, seed in cells]
    recipe = read_recipe(plan.recipe, (*plan.changes, "seed=0", *kept))
    _require_same_recipe(plan.out / UNTRAINED, recipe)
    for name, seed in cells:
        _require_same_recipes(plan, name, seed, kept)
    if missing_steps(chains, done):
        open_evaluation_sets(plan.data, recipe.preprocessing)  # refuses wrong ones at once
        CCLModel(recipe.model_config).save_pretrained(plan.out / UNTRAINED)
        write_recipe(recipe, plan.out / UNTRAINED)
    stop = StopFlag()
    with stop.listening():
        run_steps(chains, done, plan.jobs, stop)


def _require_complete(budget: Budget, recipe: str) -> None:
    """Refuse a budget that ends runs early: rows would differ in how long they trained."""
    if budget.max_seconds is not None and not budget.paces_schedule:
        raise ConfigError(
            f"{recipe}: budget.max_seconds is {budget.max_seconds:g}, which would end rows before "
            "their last step; leave it out, or set budget.paces_schedule=true too."
        )


def _kept_changes(plan: Plan) -> tuple[str, ...]:
    """Return the changes that keep ``frame_choice`` as it was when the ablation began.

    Every row takes frames by one rule, and the recipe's default is younger than some ablations.
    """
    path, key = plan.out / UNTRAINED / "recipe.json", "preprocessing.frame_choice="
    if not path.is_file() or any(change.startswith(key) for change in plan.changes):
        return ()
    return (key + frame_choice_of(_read(path)),)


def _require_same_recipes(plan: Plan, name: str, seed: int, kept: tuple[str, ...]) -> None:
    """Refuse what another recipe has trained in this folder, finished or not.

    A recipe's file can change while its name, and so the command, stays the same.
    """
    row = ROWS[name]
    if not row.reference:
        changes = (*plan.changes, *row.changes, f"seed={seed}", *kept)
        recipe = read_recipe(plan.recipe, changes)
        _require_same_recipe(_run_folder(plan, name, seed), recipe)
    if plan.finetune is not None:
        tuning = dataclasses.replace(read_finetune_recipe(plan.finetune), seed=seed)
        for data in plan.data:
            _require_same_recipe(_tuned_folder(plan, name, seed, data), tuning)


def _require_same_recipe(folder: Path, recipe: Recipe | FinetuneRecipe) -> None:
    path = folder / "recipe.json"
    if not path.is_file():
        return
    values = _read(path)
    earlier = parse_dataclass(type(recipe), values, str(path))
    if isinstance(recipe, FinetuneRecipe):  # its preprocessing is filled in from the model
        recipe = dataclasses.replace(recipe, preprocessing=earlier.preprocessing)
    differing = differing_keys(earlier.to_dict(), recipe.to_dict())
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


def _tuned_folder(plan: Plan, name: str, seed: int, data: str) -> Path:
    return plan.out / "finetuned" / f"{name}-seed{seed}-{_short(data)}"


def _steps(plan: Plan, name: str, seed: int, kept: tuple[str, ...]) -> list[Step]:
    """Return what makes one row for one seed, in order."""
    further = tuple(text for change in kept for text in ("--set", change))
    return [
        Step(f"{name}-seed{seed}-{step}", tuple(command), further if step == "pretrain" else ())
        for step, command in _commands(plan, name, seed)
    ]


def _commands(plan: Plan, name: str, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Name the commands of one row and seed, in order."""
    row = ROWS[name]
    model = f"{row.reference}={plan.out / UNTRAINED}"
    if not row.reference:
        model = str(_run_folder(plan, name, seed))
        changes = [*plan.changes, *row.changes, f"seed={seed}"]
        flags = [text for change in changes for text in ("--set", change)]
        pretrain = [*plan.launch, "-m", "training.pretrain", plan.recipe, *flags]
        yield "pretrain", [*pretrain, "--out", model, "--resume", "auto"]
    results = str(plan.out / "results")
    common = ["--model", f"{row.label}={model}", "--group", GROUP]
    sets = [text for data in plan.data for text in ("--data", data)]
    evaluate = [*common, *sets, "--cache", str(plan.out / "cache"), *plan.evaluation]
    evaluate += ["--seeds", str(seed), "--out", results]
    yield "retrieval", [sys.executable, "-m", "training.retrieval", *evaluate]
    if plan.finetune is None:
        yield "probe", [sys.executable, "-m", "training.linear_probe", *evaluate]
        return
    for data in plan.data:
        folder = _tuned_folder(plan, name, seed, data)
        tune = [*plan.launch, "-m", "training.finetune", plan.finetune, *common, "--data", data]
        tune += ["--seeds", str(seed), "--out", str(folder), "--results", results]
        yield f"finetune-{_short(data)}", [*tune, "--resume", "auto"]


def _short(data: str) -> str:
    """A name for a data set that can be part of a file name, and differs for different sets."""
    return f"{Path(data).stem}-{hashlib.sha256(data.encode()).hexdigest()[:6]}"


def _results_of(plan: Plan) -> list[Results]:
    """Read the results of this plan's rows and seeds; the folder may hold more of either."""
    labels = {ROWS[name].label for name in plan.rows}
    return [
        result
        for result in read_results([plan.out / "results"])
        if result.model.label in labels and result.model.seed in plan.seeds
    ]
