"""What the commands share: options, logging, exit codes."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass

import pytest

from ccl_hub.errors import CCLError, ConfigError, OutputError
from training import cli
from training.evaluation.evaluate import EvaluationOptions
from training.run.loop import NonFiniteError
from training.run.steps import StepFailedError, StoppedError


def options(*texts: str) -> EvaluationOptions:
    parser = argparse.ArgumentParser()
    cli.add_model_arguments(parser)
    cli.add_evaluation_arguments(parser)
    words = ["--model", "a", "--data", "rendered:24", "--out", "results", *texts]
    return cli.options_of(EvaluationOptions, parser, words)


def test_options_of_an_evaluation():
    few = options()
    assert (few.clips, few.precision, few.test_share, few.seeds) == (10, "fp32", 0.3, (0,))
    more = options("--model", "b", "--data", "rendered:32", "--seeds", "0,2")
    assert more.model == ("a", "b") and more.data == ("rendered:24", "rendered:32")
    assert more.seeds == (0, 2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--clips", "0"), "0 is below 1"),
        (("--test-share", "1"), "give a number between 0 and 1"),
        (("--test-share", "half"), "half"),
        (("--threads", "x"), "x"),
        *((("--seeds=" + text,), "give") for text in ("x", "1,1", "-1,0", "")),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, words, capsys):
    with pytest.raises(SystemExit):
        options(*wrong)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutputError("full"), 1),
        (NonFiniteError("full"), 1),
        (StepFailedError("full"), 1),
        (ConfigError("full"), 2),
        (StoppedError("full"), 75),
    ],
)
def test_errors_become_one_line_and_a_code(error: CCLError, code: int, capsys):
    def fail() -> int:
        raise error

    assert cli.run(fail) == code
    assert capsys.readouterr().err == "error: full\n"
    assert cli.run(fail, bad_input=1) == (1 if code == 2 else code)


def test_one_of_several_processes_says_what_is_done(monkeypatch):
    levels = []
    monkeypatch.setattr(cli.logging, "basicConfig", lambda level, **_: levels.append(level))
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert cli.run(lambda: 3) == 3
    assert levels == [logging.INFO, logging.WARNING]


@dataclass(frozen=True)
class Chosen:
    """Options of a made-up command."""

    source: str
    changes: tuple[str, ...]


def test_changes_become_a_tuple():
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    cli.add_change_argument(parser)
    assert cli.options_of(Chosen, parser, ["x", "--set", "a=1"]) == Chosen("x", ("a=1",))
    assert cli.options_of(Chosen, parser, ["x"]).changes == ()
