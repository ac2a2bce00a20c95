"""Table 7 in one command: every row at equal budget, measured, tabulated, and resumed."""

from __future__ import annotations

import sys

import pytest

from tests.tiny_run import TINY
from training import ablation
from training.ablation import GROUP, ROWS, main
from training.recipe import read_recipe
from training.results import DataRecord, Measurement, ModelRecord, Results, read_results, summarise

SETS = [
    text
    for change in (*TINY, "schedule.epochs=1", "schedule.warmup_epochs=0")
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

    found = read_results([tmp_path / "results"])
    assert {result.group for result in found} == {GROUP}
    assert {(result.kind, result.model.label, result.model.seed) for result in found} == {
        (kind, label, 0)
        for kind in ("retrieval", "linear-probe")
        for label in ("random-init", "MSE")
    }
    assert [r.model.reference for r in found if r.model.label == "MSE"] == [False, False]

    # Nothing is made twice: a second call starts no process.
    monkeypatch.setattr(ablation.subprocess, "run", None)
    assert main(arguments(tmp_path, "--rows", "random,mse")) == 0
    assert capsys.readouterr().out == table
    # Nor is anything kept that was made differently.
    assert main(arguments(tmp_path, "--rows", "mse", "--set", "optim.lr=0.5")) == 1
    assert "give the same arguments, or another --out" in capsys.readouterr().err


def test_a_failing_part_is_named_with_its_last_words(tmp_path, capsys):
    wrong = ("--rows", "mse", "--set", "data.rendered=0", "--set", "data.pack=nowhere")
    assert main(arguments(tmp_path, *wrong)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: mse-seed0-pretrain ended with 2: ") and "nowhere" in said
    assert not list((tmp_path / "done").glob("*.json"))


def test_a_run_that_saved_before_its_end_is_gone_on_with(tmp_path):
    count = tmp_path / "count"
    program = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); n = len(p.read_text()) if p.exists() "
        "else 0; p.write_text('x' * (n + 1)); sys.exit(75 if n < 2 else 0)"
    )
    ablation._once(tmp_path / "done", "part", [sys.executable, "-c", program, str(count)])
    assert count.read_text() == "xxx"
    assert (tmp_path / "done" / "part.json").is_file()


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
        (("--rows", "mse,mse"), "each once"),
        (("--seeds", "0,x"), "whole numbers"),
        (("--jobs", "0"), "--jobs is 1 or more"),
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


def test_what_was_not_measured_is_said(tmp_path):
    plan, _ = ablation.parse_arguments(arguments(tmp_path, "--rows", "mse,tuned"))
    figure = Measurement("linear", "top-1", 0.25, level="video")
    measured = Results("linear-probe", ModelRecord("MSE", seed=0), DataRecord("x"), (figure,))
    assert ablation.markdown(summarise([measured]), plan).splitlines() == [
        "| objective | x: linear top-1 |",
        "|---|---|",
        "| MSE | 25.0 |",
        "| tuned Lv + Lf + P | not yet measured |",
    ]
