"""Table 7: what each part of the objective is worth, in one command.

    python -m training.ablation mini --set data.pack=PACK --data EVAL [--data EVAL2] --out FOLDER

Every row is the recipe with another objective; everything else, budget and seeds included, is
the same. For every row and seed this pretrains, measures retrieval (Tables 2 and 3) and trains a
linear probe (Table 5) or, with ``--finetune``, fine-tunes, which is what the paper's Table 7 has.
The same command goes on where it was stopped: finished parts are kept. Exit codes: 0 all measured;
1 a part failed (which one, and its last words, are said); 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ccl_hub.errors import CCLError, ConfigError, TrainingError
from ccl_hub.files import make_folder, write_atomically

from .finetune_recipe import read_finetune_recipe
from .recipe import read_recipe
from .reference_models import seed_list
from .results import Results, Summary, read_results, summarise

__all__ = ["GROUP", "ROWS", "Row", "main"]

logger = logging.getLogger("training.ablation")

GROUP = "table 7"
EXIT_SAVED = 75
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


class PartFailedError(TrainingError):
    """A pretraining or an evaluation ended with an error."""


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
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the recipe for all rows; may be repeated",
    )
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
            read_recipe(plan.recipe, (*plan.changes, *ROWS[name].changes))
        if plan.finetune is not None:
            read_finetune_recipe(plan.finetune)
        run(plan, jobs)
        table = markdown(summarise(_results_of(plan)), plan)
        write_atomically(plan.out / "table7.md", lambda file: file.write(table.encode()))
    except CCLError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    sys.stdout.write(table)
    return 0


def run(plan: Plan, jobs: int) -> None:
    """Make every part that is not there yet.

    Args:
        plan: What to make.
        jobs: Parts at a time.

    Raises:
        PartFailedError: A part failed; those that were running are finished first.
        OutputError: The folder cannot be written.
    """
    make_folder(plan.out)
    failed = threading.Event()
    cells = [(name, seed) for seed in plan.seeds for name in plan.rows]
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_make, plan, name, seed, failed) for name, seed in cells]
        errors = [error for done in waiting if (error := done.exception())]
    if errors:
        raise errors[0]


def _make(plan: Plan, name: str, seed: int, failed: threading.Event) -> None:
    """Make one row for one seed."""
    for part, command in _commands(plan, name, seed):
        if failed.is_set():
            return
        try:
            _once(plan.out / "done", f"{name}-seed{seed}-{part}", command)
        except CCLError:
            failed.set()
            raise


def _commands(plan: Plan, name: str, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Name the commands of one row and seed, in order."""
    row = ROWS[name]
    model = row.place
    if not row.place:
        folder = plan.out / "runs" / f"{name}-seed{seed}"
        model = str(folder)
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
        folder = plan.out / "finetuned" / f"{name}-seed{seed}-{_short(place)}"
        tune = [*plan.launch, "-m", "training.finetune", plan.finetune, *common, "--data", place]
        tune += ["--seeds", str(seed), "--out", str(folder), "--results", results]
        yield f"finetune-{_short(place)}", [*tune, "--resume", "auto"]


def _short(place: str) -> str:
    """A name for a data set that is a file name too, and differs for different places."""
    return f"{Path(place).stem}-{hashlib.sha256(place.encode()).hexdigest()[:6]}"


def _once(folder: Path, name: str, command: list[str]) -> None:
    """Run a command unless it has succeeded before; its output goes to a log beside the mark.

    Raises:
        PartFailedError: It failed, or was made with other arguments before.
    """
    mark = make_folder(folder) / f"{name}.json"
    said = [Path(command[0]).name, *command[1:]]
    if mark.is_file():
        before = json.loads(mark.read_text(encoding="utf-8"))
        if before != said:
            raise PartFailedError(
                f"{mark}: this part was made by `{shlex.join(before)}`, now it would be "
                f"`{shlex.join(said)}`; give the same arguments, or another --out."
            )
        return
    logger.info("%s", name)
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        code = _run_to_end(command, output)
    if code != 0:
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise PartFailedError(f"{name} ended with {code}: {' / '.join(words)} (see {log})")
    text = json.dumps(said)
    write_atomically(mark, lambda file: file.write(text.encode()))


def _run_to_end(command: list[str], output: BinaryIO) -> int:
    """Run a command; one that saved before its end (exit code 75) is run again."""
    code = EXIT_SAVED
    while code == EXIT_SAVED:
        code = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    return code


def _results_of(plan: Plan) -> list[Results]:
    """Read the results of the rows of this plan."""
    labels = {ROWS[name].label for name in plan.rows}
    return [r for r in read_results([plan.out / "results"]) if r.model.label in labels]


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
