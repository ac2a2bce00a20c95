"""From videos to a finished checkpoint, in stages that stop before their time is over.

    python -m tools.campaign STAGE --data VIDEOS --eval SET[,SET] --out OUT --minutes M

Run the stages in this order, each again until it answers 0:

``prepare``  packs the videos to train on and the labelled sets
``check``    trains for half a minute and times a step and a forward pass (``OUT/check.md``)
``sweep``    Tables 2, 3 and 7 at equal time for each row (``OUT/sweep.md``)
``train``    the long run, ``--train-minutes`` in all; give the sweep's best settings by ``--set``
``finish``   exports fp16 weights, measures them beside random rows, writes ``OUT/report``

Everything that a stage makes is under OUT, and ``OUT/parts`` has what is worth carrying elsewhere,
in parts of at most 16 MB: ``state`` (logs, tables, results), ``checkpoint`` and ``weights``. Where
OUT holds ``parts`` alone, a stage starts by joining them, and only ``prepare`` must run again.
Exit codes: 0 the stage is done; 1 a step of it failed; 2 wrong arguments or data; 75 stopped by
time or signal: the same command goes on; 130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub._util.folder_lock import FolderInUseError, only_writer
from ccl_hub.errors import CCLError, ConfigError, OutputError
from training.cli import add_change_argument
from training.frames.packed import FrameStore
from training.recipes.pretraining import read_recipe
from training.run.folder import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_SAVED, StopFlag
from training.run.logs import LOG_NAME, read_log
from training.run.steps import Step, StepFailedError, StoppedError, run_steps

from .packs import pack_apart
from .state import DONE, RUN, newest_checkpoint, restore, write_parts

logger = logging.getLogger("tools.campaign")

EXIT_INTERRUPTED = 130
SAVING_SHARE, SAVING_SECONDS = 0.15, 40.0  # the time for saving: the smaller of the two
MODEL_NAME = "ccl_r18_mini"
# Changes and rows of the sweep's ablations, by name.
ARMS = {
    "one-view": (
        ("data.views=1",),
        "random,random-identity,mse,lv,lv-lf,lv-lf-p,tuned",
    ),
    "two-views": (("data.views=2",), "lv-lf-p,tuned"),
    "two-views-paper-penalty": (("data.views=2", "objective.penalty_reduction=sum"), "tuned"),
}
# The changes of --scale tiny: every stage is tried within seconds on a CPU.
TINY = (
    "data.cache=none",
    "data.workers=1",
    "model.stage_channels=[8, 8, 16, 16]",
    "model.stage_blocks=[1, 1, 1, 1]",
    "stages=[{until=0.5, crop_px=32}, {until=1.0, crop_px=40}]",
    "optim.batch=8",
    "precision.threads=1",
    "log.checkpoint_steps=20",
)
TINY_ARMS = {"one-view": (("data.views=1",), "random,tuned")}


@dataclass(frozen=True)
class Plan:
    """What the command line says; paths are absolute, and everything else is inside ``out``.

    Args:
        data: Videos to train on: a folder or a list.
        evaluation: Labelled sets: folders of classes, or lists.
        out: The folder for everything that a stage makes.
        recipe: As :mod:`training.pretrain` takes it.
        changes: ``section.key=value`` texts on top of it.
        tiny: Smallest sizes.
        trained_on: The training data in one line, kept with the weights.
        check_seconds: Of the training in ``check``.
        sweep_seconds: Of each row of the sweep.
        train_seconds: Of the long run.
    """

    data: Path
    evaluation: tuple[Path, ...]
    out: Path
    recipe: str
    changes: tuple[str, ...]
    tiny: bool
    trained_on: str
    check_seconds: float
    sweep_seconds: float
    train_seconds: float

    @property
    def sets(self) -> list[str]:
        """The packed labelled sets, from ``out``."""
        return [f"packs/{path.stem}" for path in self.evaluation]

    @property
    def all_changes(self) -> list[str]:
        """The data, the sizes of ``--scale``, and last the changes of ``--set``, which win."""
        return [f"data.pack=packs/{self.data.stem}", *(TINY if self.tiny else ()), *self.changes]

    def recipe_arguments(self, *more: str) -> list[str]:
        """Recipe and ``--set`` of a training program; ``more`` comes last and wins."""
        changes = [*self.all_changes, *more]
        return [self.recipe, *(text for change in changes for text in ("--set", change))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage and return the exit code; errors become one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    start = time.monotonic()
    stage, plan, minutes = parse_arguments(arguments)
    saving_seconds = min(SAVING_SECONDS, SAVING_SHARE * 60 * minutes)
    end = start + 60 * minutes - saving_seconds
    killing = max(end + saving_seconds / 2, start + 1)
    signalled = StopFlag()
    try:
        with _only_stage_in(plan.out), signalled.listening():
            restore(plan.out)
            make_folder(plan.out / DONE)
            plan = replace(plan, recipe=_kept(plan.recipe))
            try:
                with _interrupted_after(killing - time.monotonic()):
                    STAGES[stage](plan, lambda: signalled() or time.monotonic() > end)
            finally:
                write_parts(plan.out)
    except (StepFailedError, OutputError) as error:
        return _fail(str(error), EXIT_FAILED)
    except StoppedError as error:
        return _fail(str(error), EXIT_SAVED)
    except KeyboardInterrupt:  # the time is over, or a second Ctrl-C
        code = EXIT_SAVED if time.monotonic() >= killing else EXIT_INTERRUPTED
        return _fail("a step did not stop and was killed; the same command goes on.", code)
    except CCLError as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    logger.info("%s: done after %.0f s", stage, time.monotonic() - start)
    return 0


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"error: {text}\n")
    return code


def parse_arguments(arguments: Sequence[str] | None) -> tuple[str, Plan, float]:
    """Read the command line: stage, plan, and the minutes this call may take."""
    parser = argparse.ArgumentParser(prog="python -m tools.campaign", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--data", type=Path, required=True, help="videos: folder or list")
    parser.add_argument(
        "--eval", required=True, help="labelled sets, folders of classes or lists, by commas"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all that it makes")
    parser.add_argument("--minutes", type=float, required=True, help="of this call, at most")
    parser.add_argument("--recipe", default="mini_gpu", help="as for pretrain [%(default)s]")
    add_change_argument(parser)
    parser.add_argument("--check-seconds", type=float, default=30, help="[%(default)s]")
    parser.add_argument("--sweep-seconds", type=float, default=120, help="a row [%(default)s]")
    parser.add_argument("--train-minutes", type=float, default=20, help="in all [%(default)s]")
    parser.add_argument("--trained-on", default="", help="the training data in one line")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    options = parser.parse_args(arguments)
    evaluation = tuple(Path(text).absolute() for text in options.eval.split(","))
    names = [path.stem for path in (options.data, *evaluation)]
    if len(set(names)) < len(names):
        parser.error(f"--data and --eval are named {', '.join(names)}; they must differ")
    recipe = Path(options.recipe)
    plan = Plan(
        data=options.data.absolute(),
        evaluation=evaluation,
        out=options.out.absolute(),
        recipe=str(recipe.absolute()) if recipe.is_file() else options.recipe,
        changes=tuple(options.changes),
        tiny=options.scale == "tiny",
        trained_on=options.trained_on,
        check_seconds=options.check_seconds,
        sweep_seconds=options.sweep_seconds,
        train_seconds=60 * options.train_minutes,
    )
    return options.stage, plan, options.minutes


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt after a time, which kills steps that a stop has not ended.

    A training that measures stops only afterwards.
    """
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _only_stage_in(folder: Path) -> Iterator[None]:
    """Hold the folder and work in it, so that every path of a command is inside it.

    A finished step is known by its command, and the folder may have been moved since.
    """
    code = str(Path(__file__).resolve().parents[2])
    before = os.environ.get("PYTHONPATH")
    try:
        with only_writer(make_folder(folder)), chdir(folder):
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (code, before)))
            yield
    except FolderInUseError as error:
        raise ConfigError(f"{folder}: another stage is running here; wait for it.") from error
    finally:
        os.environ.pop("PYTHONPATH", None)
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _kept(recipe: str) -> str:
    """Copy a recipe that is a file into the working folder, and return its name there.

    The name depends on the content, as a finished step is known by its command.
    """
    if not os.path.isabs(recipe):  # noqa: PTH117 - a name
        return recipe
    data = Path(recipe).read_bytes()
    name = Path("recipes", f"{Path(recipe).stem}-{hashlib.sha256(data).hexdigest()[:8]}.toml")
    write_atomically(make_folder(name.parent) / name.name, data)
    return str(name)


Stop = Callable[[], bool]


def _run(steps: Sequence[Step], stop: Stop) -> None:
    """Run the steps that are not yet done, one after the other."""
    run_steps([steps], Path(DONE), 1, stop)


def _step(name: str, module: str, *arguments: str) -> Step:
    return Step(name, (sys.executable, "-m", module, *arguments))


# Stages ------------------------------------------------------------------------------------------


def prepare(plan: Plan, stop: Stop) -> None:
    """Pack what is not yet packed; refuse sets that share a file with the training data."""
    recipe = read_recipe(plan.recipe, plan.all_changes)
    pack_apart(plan.data, plan.evaluation, Path("packs"), recipe.preprocessing, stop)


def check(plan: Plan, stop: Stop) -> None:
    """Train briefly and time the step and the forward pass; write ``check.md``."""
    _require_packs(plan)
    budget = _budget(plan.check_seconds)
    train = [*plan.recipe_arguments(*budget), "--out", "runs/check", "--resume", "auto"]
    size = ["--quick"] if plan.tiny else ["--rounds", "3", "--seconds", "1"]
    timed = {
        "check-step": ["benchmarks.train_step", *size],
        "check-step-compiled": ["benchmarks.train_step", *size, "--compile", "--no-conv3d"],
        "check-forward": ["benchmarks.forward", *size],
    }
    if plan.tiny:  # compiling takes a minute, however small the network
        del timed["check-step-compiled"]
    benchmarks = [_step(name, *what, "--out", f"{name}.json") for name, what in timed.items()]
    _run([_step("check-train", "training.pretrain", *train), *benchmarks], stop)
    texts = [_training_lines(plan), *(_printed(step) for step in benchmarks)]
    _write("check.md", "\n\n".join(texts))


def _training_lines(plan: Plan) -> str:
    """Describe the short training: whether the loss falls, its speed, and the resident frames."""
    lines = [x for x in read_log(Path("runs/check") / LOG_NAME) if x["kind"] == "train"]
    tenth = max(1, len(lines) // 10)

    def mean(name: str, some: Sequence[dict[str, float]]) -> float:
        return sum(line[name] for line in some) / len(some)

    texts = [f"{len(lines)} steps; means of the first and the last {tenth}:", ""]
    for name in ("total", "forward", "backward", "penalty", "cycle_rate", "grad_norm"):
        first, last = mean(name, lines[:tenth]), mean(name, lines[-tenth:])
        texts.append(f"    {name:10} {first:9.4f} -> {last:9.4f}")
    if mean("total", lines[-tenth:]) >= mean("total", lines[:tenth]):
        logger.warning("the loss did not fall in the short training; see check.md")
    late = lines[len(lines) // 2 :]
    store = FrameStore(f"packs/{plan.data.stem}")
    height, width = store.frame_size(0)
    texts += [
        f"    {mean('clips_per_second', late):.1f} clips/s, "
        f"waiting for data {mean('data_wait_share', late):.1%} (second half)",
        f"    {store.frames} frames, {store.frames * height * width * 3 / 1e9:.2f} GB resident",
    ]
    return "\n".join(texts)


def _printed(step: Step) -> str:
    """Return the table that a benchmark printed, indented."""
    lines = (Path(DONE) / f"{step.name}.log").read_text(errors="replace").splitlines()
    return "\n".join([step.name, "", *(f"    {x}" for x in lines if not x.startswith("round "))])


def sweep(plan: Plan, stop: Stop) -> None:
    """Make the rows of Tables 2, 3 and 7; write ``sweep.md`` and a report for each arm."""
    _require_packs(plan)
    arms = TINY_ARMS if plan.tiny else ARMS
    steps = []
    for name, (changes, rows) in arms.items():
        folder = f"sweep/{name}"
        recipe = plan.recipe_arguments(*changes, *_budget(plan.sweep_seconds))
        data = [text for pack in plan.sets for text in ("--data", pack)]
        run = [*recipe, *data, "--rows", rows, "--seeds", "0", "--out", folder]
        run += ["--evaluation", " ".join(_measuring(plan))]
        report = [f"{folder}/results", "--out", f"{folder}/report", "--title", f"Sweep: {name}"]
        steps.append(_step(f"sweep-{name}", "training.ablation", *run))
        steps.append(_step(f"sweep-{name}-report", "training.report", *report))
    _run(steps, stop)
    tables = [f"## {name}\n\n{Path(f'sweep/{name}/table7.md').read_text()}" for name in arms]
    _write("sweep.md", "\n".join(tables))


def train(plan: Plan, stop: Stop) -> None:
    """Go on with the long run."""
    _require_packs(plan)
    packs = ", ".join(f'"{pack}"' for pack in plan.sets)
    recipe = plan.recipe_arguments(f"validation.packs=[{packs}]", *_budget(plan.train_seconds))
    _run([_step("train", "training.pretrain", *recipe, "--out", RUN, "--resume", "auto")], stop)


def finish(plan: Plan, stop: Stop) -> None:
    """Export the newest checkpoint, measure it beside random rows, and write the report."""
    _require_packs(plan)
    newest = newest_checkpoint(plan.out)
    if newest is None:
        raise ConfigError(f"{RUN}: holds no checkpoint yet; run the stage 'train' first.")
    name = newest.stem  # part of the steps' names, so that a later checkpoint has its own steps
    export = [str(Path(RUN) / "checkpoints" / newest.name), "--out", "model"]
    export += ["--name", MODEL_NAME, "--licence", "apache-2.0", "--trained-on", plan.trained_on]
    models = [f"{MODEL_NAME}=model", "random-init", "random-init-identity"]
    rows = [text for model in models for text in ("--model", model)]
    data = [text for pack in plan.sets for text in ("--data", pack)]
    seeds = "0" if plan.tiny else "0,1,2"
    measure = [*rows, *data, "--seeds", seeds, *_measuring(plan), "--out", "results"]
    report = ["results", "--runs", RUN, "--out", "report", "--title", MODEL_NAME]
    _run(
        [
            _step(f"{name}-export", "training.export", *export),
            _step(f"{name}-retrieval", "training.retrieval", *measure, "--centre"),
            _step(f"{name}-probe", "training.linear_probe", *measure),
            _step(f"{name}-report", "training.report", *report),
        ],
        stop,
    )


def _budget(seconds: float) -> tuple[str, str]:
    return f"budget.max_seconds={seconds:g}", "budget.paces_schedule=true"


def _measuring(plan: Plan) -> list[str]:
    """Return the arguments of evaluations: clips as in the paper, or fewer with --scale tiny."""
    clips = "2" if plan.tiny else "10"
    return ["--clips", clips, "--precision", "bf16", "--workers", "8", "--cache", "cache"]


def _require_packs(plan: Plan) -> None:
    for pack in (f"packs/{plan.data.stem}", *plan.sets):
        if not (Path(pack) / "store.json").is_file():
            raise ConfigError(f"{plan.out / pack}: is not packed; run the stage 'prepare' first.")


def _write(name: str, text: str) -> None:
    write_atomically(Path(name), f"{text.rstrip()}\n")
    logger.info("%s", text)


STAGES: dict[str, Callable[[Plan, Stop], None]] = {
    "prepare": prepare,
    "check": check,
    "sweep": sweep,
    "train": train,
    "finish": finish,
}
