"""Table 7 in one command: every row at equal budget, measured, tabulated, and resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time

import pytest
from tiny_run import TINY

from ccl_hub._util.files import make_folder
from training.ablation import main, read_plan
from training.evaluation.models import load_models
from training.evaluation.results import (
    DataRecord,
    Measurement,
    ModelRecord,
    Results,
    read_results,
    summarise,
    write_results,
)
from training.evaluation.tables import ablation_table
from training.recipes.pretraining import read_recipe
from training.run import steps as parts
from training.run.folder import write_recipe
from training.tasks import ablation
from training.tasks.ablation import GROUP, ROWS

SETS = [
    text
    for change in (*TINY, "schedule.epochs=1", "schedule.warmup_epochs=0", "optim.clip_norm=5.0")
    for text in ("--set", change)
]


def arguments(out, *extra: str) -> list[str]:
    evaluation = "--clips 2 --device cpu --threads 1"
    return [
        *("smoke", *SETS, "--data", "rendered:24", "--out", str(out), "--seeds", "0"),
        *("--evaluation", evaluation, *extra),
    ]


@pytest.mark.slow
def test_one_command_pretrains_measures_and_tabulates_and_goes_on(tmp_path, capsys, monkeypatch):
    assert main(arguments(tmp_path, "--rows", "random,mse", "--jobs", "2")) == 0
    table = capsys.readouterr().out
    assert (tmp_path / "table7.md").read_text() == table
    lines = table.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["random-init", "MSE"]
    assert "rendered: linear top-1" in lines[0] and "V=>F 512-d same video top-1" in lines[0]
    assert "not yet measured" not in table

    results = read_results([tmp_path / "results"])
    assert {result.group for result in results} == {GROUP}
    assert {(result.kind, result.model.label, result.model.seed) for result in results} == {
        (kind, label, 0)
        for kind in ("retrieval", "linear-probe")
        for label in ("random-init", "MSE")
    }
    assert [r.model.reference for r in results if r.model.label == "MSE"] == [False, False]

    # The random row is the network of the other rows, not that of the paper.
    (random,) = load_models([f"x=random-init={tmp_path / 'untrained'}"])
    assert random.model.config.architecture == read_recipe("smoke", TINY).model

    # Nothing is made twice: a second call starts no process.
    monkeypatch.setattr(parts.subprocess, "Popen", None)
    assert main(arguments(tmp_path, "--rows", "random,mse")) == 0
    assert capsys.readouterr().out == table
    # Nor is anything kept that was made differently.
    assert main(arguments(tmp_path, "--rows", "mse", "--evaluation", "--clips 3")) == 1
    assert "give the same arguments, or another --out" in capsys.readouterr().err
    assert main(arguments(tmp_path, "--rows", "mse", "--set", "optim.lr=0.5")) == 2
    assert "optim.lr (0.05 there, 0.5 here)" in capsys.readouterr().err


def test_a_failing_part_is_named_with_its_last_words(tmp_path, capsys):
    wrong = ("--rows", "mse", "--set", "data.rendered=0", "--set", "data.pack=nowhere")
    assert main(arguments(tmp_path, *wrong)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: mse-seed0-pretrain ended with exit code 2: ")
    assert "nowhere" in error
    assert not list((tmp_path / "done").glob("*.json"))


FINETUNE = """
[data]
workers = 0
[optim]
lr = 0.02
batch = 8
[schedule]
epochs = 1
[test]
clips = 2
[log]
curves = false
tensorboard = false
[precision]
device = "cpu"
threads = 1
"""


@pytest.mark.slow
def test_rows_are_fine_tuned_with_the_seed_they_were_pretrained_with(tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(FINETUNE)
    words = arguments(tmp_path / "out", "--rows", "random,mse", "--finetune", str(recipe))
    words[words.index("--seeds") + 1] = "3"
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert "rendered: finetune top-1" in table[0] and "linear" not in table[0]
    assert "not yet measured" not in "".join(table) and len(table) == 4
    results = [r for r in read_results([tmp_path / "out" / "results"]) if r.kind == "finetune"]
    assert {(r.model.label, r.model.seed, r.settings["recipe"]["seed"]) for r in results} == {
        (label, 3, 3) for label in ("random-init", "MSE")
    }
    # The same file of another content is another recipe, though the command is the same.
    recipe.write_text(FINETUNE.replace("0.02", "0.2"))
    assert main(words) == 2
    assert "optim.lr (0.02 there, 0.2 here)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_what_runs_and_starts_nothing_more(tmp_path, monkeypatch, capsys, name):
    # Once, a child that had saved (75) was started again, and on SIGTERM it lived on as an orphan.
    program = (
        "import pathlib, signal, sys, time; here = pathlib.Path(sys.argv[1]); "
        "signal.signal(signal.SIGTERM, lambda *_: ((here / 'saved').touch(), sys.exit(75))); "
        "(here / 'started').open('a').write('x'); time.sleep(60)"
    )

    def commands(plan, row, seed):
        yield "pretrain", [sys.executable, "-c", program, str(tmp_path)]

    def send():
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(ablation, "_commands", commands)
    before = signal.getsignal(getattr(signal, name))
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    start = time.monotonic()
    assert main(arguments(tmp_path / "out", "--rows", "mse,lv")) == 75
    assert time.monotonic() - start < 50
    assert "stopped at mse-seed0-pretrain; the same command goes on" in capsys.readouterr().err
    assert (tmp_path / "saved").exists() and (tmp_path / "started").read_text() == "x"
    assert not list((tmp_path / "out" / "done").glob("*.json"))
    assert signal.getsignal(getattr(signal, name)) is before


def test_an_edited_recipe_of_the_same_name_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    plan = read_plan(arguments(out, "--rows", "mse"))
    recipe = read_recipe("smoke", (*plan.changes, *ROWS["mse"].changes, "seed=0"))
    folder = make_folder(out / "runs" / "mse-seed0")
    earlier = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, lr=0.7))
    write_recipe(earlier, folder)
    assert main(arguments(out, "--rows", "mse")) == 2
    assert "optim.lr (0.7 there, 0.05 here)" in capsys.readouterr().err
    assert not (out / "done").exists()


def test_an_ablation_from_before_the_frame_choice_goes_on_as_it_began(tmp_path, monkeypatch):
    """Every row by one rule: also those that are not begun yet, by the commands of then."""
    plan = read_plan(arguments(tmp_path / "out", "--rows", "mse,lv"))
    for name in ("mse", None):
        changes = ROWS[name].changes if name else ()
        old = read_recipe("smoke", (*plan.changes, *changes, "seed=0")).to_dict()
        del old["preprocessing"]["frame_choice"]
        folder = ablation._run_folder(plan, name, 0) if name else plan.out / ablation.UNTRAINED
        (make_folder(folder) / "recipe.json").write_text(json.dumps(old))
    ran = []
    monkeypatch.setattr(ablation, "run_steps", lambda chains, *rest: ran.extend(chains))
    monkeypatch.setattr(ablation, "open_evaluation_sets", lambda *arguments: [])
    ablation._run_missing_steps(plan)
    nearest = ("--set", "preprocessing.frame_choice=nearest")
    assert [[step.further for step in chain] for chain in ran] == [[nearest, (), ()]] * 2
    assert not any("frame_choice" in word for chain in ran for step in chain for word in step.mark)
    kept = json.loads((plan.out / ablation.UNTRAINED / "recipe.json").read_text())
    assert kept["preprocessing"]["frame_choice"] == "nearest"


def test_a_budget_that_would_end_rows_early_is_refused(tmp_path, capsys):
    # Once, such a row was started again and again, a step at a time, to its last step.
    assert main(arguments(tmp_path, "--set", "budget.max_seconds=9")) == 2
    assert "which would end rows before their last step" in capsys.readouterr().err


def test_data_that_are_not_there_are_found_before_any_training(tmp_path, capsys):
    assert main([*arguments(tmp_path), "--data", "nowhere"]) == 2
    assert "nowhere: no such data" in capsys.readouterr().err
    assert not (tmp_path / "done").exists()


def test_the_table_is_of_the_seeds_that_were_asked_for(tmp_path):
    for seed, value in ((0, 0.25), (1, 0.75)):
        figure = Measurement("linear", "top-1", value, level="video")
        one = Results("linear-probe", ModelRecord("MSE", seed=seed), DataRecord("x"), (figure,))
        write_results(one, tmp_path / "results")
    plan = read_plan(arguments(tmp_path, "--rows", "mse"))
    (summary,) = summarise(ablation._results_of(plan))
    assert (summary.mean, summary.seeds) == (0.25, 1)


def test_every_row_changes_the_objective_alone():
    base = read_recipe("ablation").to_dict()
    for name, row in ROWS.items():
        recipe = read_recipe("ablation", row.changes).to_dict()
        assert {key for key in base if base[key] != recipe[key]} <= {"objective"}, name
    kinds = {name: read_recipe("ablation", ROWS[name].changes).objective for name in ROWS}
    assert kinds["lv-lf-p"] == read_recipe("k400").objective
    assert kinds["lv"].terms == ("backward",) and kinds["lv"].tau == 1.0
    assert kinds["tuned-lv-lf"].tau == 0.1 and kinds["mse"].kind == "mse"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--rows", "mse,poetry"), "'poetry' is none of"),
        (("--rows", "mse,mse"), "give each row once"),
        (("--seeds", "0,x"), "whole numbers"),
        (("--jobs", "0"), "argument --jobs: 0 is below 1"),
    ],
)
def test_wrong_arguments_end_at_once(tmp_path, capsys, extra, words):
    with pytest.raises(SystemExit) as caught:
        main(arguments(tmp_path, *extra))
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_wrong_recipe_is_refused_before_any_work(tmp_path, capsys):
    assert main(arguments(tmp_path, "--set", "optim.speed=3")) == 2
    assert "speed" in capsys.readouterr().err
    assert not (tmp_path / "done").exists()


def test_what_was_not_measured_is_said():
    labels = [ROWS[name].label for name in ("mse", "tuned")]
    figure = Measurement("linear", "top-1", 0.25, level="video")
    measured = Results("linear-probe", ModelRecord("MSE", seed=0), DataRecord("x"), (figure,))
    assert ablation_table(summarise([measured]), labels).splitlines() == [
        "| objective | x: linear top-1 |",
        "|---|---|",
        "| MSE | 25.0 |",
        "| tuned Lv + Lf + P | not yet measured |",
    ]
