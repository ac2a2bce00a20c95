"""Steps of a long job: once each, side by side, and stopped together."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from training.run.steps import Step, StepFailedError, StoppedError, missing_steps, run_steps


def step(name: str, program: str, *arguments: str) -> Step:
    return Step(name, (sys.executable, "-c", program, *arguments))


def never() -> bool:
    return False


def test_a_step_that_saved_before_its_end_runs_again_until_it_is_done(tmp_path):
    count = tmp_path / "count"
    program = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); n = len(p.read_text()) if p.exists() "
        "else 0; p.write_text('x' * (n + 1)); sys.exit(75 if n < 2 else 0)"
    )
    one = step("step", program, str(count))
    assert missing_steps([[one]], tmp_path / "done") == [one]
    for _ in range(2):
        run_steps([[one]], tmp_path / "done", 1, never)
        assert count.read_text() == "xxx"
    assert missing_steps([[one]], tmp_path / "done") == []


def test_further_arguments_leave_a_step_done(tmp_path):
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    plain = step("step", write, str(tmp_path / "out"))
    more = Step(plain.name, plain.command, ("more",))
    run_steps([[more]], tmp_path / "done", 1, never)
    assert (tmp_path / "out").read_text() == "more"
    assert missing_steps([[plain]], tmp_path / "done") == []


def test_after_a_failed_step_none_is_started_and_those_beside_it_are_finished(tmp_path):
    wait = (
        "import pathlib, sys, time\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)\n"
        "time.sleep(0.5)"
    )
    fail = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); sys.exit('so it ends')"
    flag = str(tmp_path / "flag")
    chains = [
        [step("a", fail, flag), step("after a", "")],
        [step("b", wait, flag), step("after b", "")],
    ]
    with pytest.raises(
        StepFailedError, match=r"a ended with exit code 1: so it ends \(see .*a\.log\)"
    ):
        run_steps(chains, tmp_path / "done", 2, never)
    assert sorted(path.name for path in (tmp_path / "done").glob("*.json")) == ["b.json"]


def test_a_missing_program_is_one_clear_line(tmp_path):
    with pytest.raises(StepFailedError, match=r"x: no-such-launcher cannot be started \(No such"):
        run_steps([[Step("x", ("no-such-launcher",))]], tmp_path, 1, never)


def test_once_stopped_nothing_is_started(tmp_path):
    with pytest.raises(StoppedError, match="stopped at x; the same command goes on"):
        run_steps([[step("x", "")]], tmp_path, 1, lambda: True)
    assert not list(tmp_path.glob("x.*"))


def test_an_interrupt_while_stopping_kills_what_does_not_end(tmp_path):
    program = (
        "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    )
    started = tmp_path / "started"

    def interrupt():
        while not (started.exists() and started.read_text()):
            time.sleep(0.05)
        time.sleep(0.5)  # SIGTERM has come and done nothing
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_steps([[step("x", program, str(started))]], tmp_path, 1, started.exists)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert not (tmp_path / "x.json").exists()


def test_a_killed_job_kills_its_steps(tmp_path):
    """Its step once went on writing into the folder while the next call began."""
    inner = (
        "import os, pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    )
    outer = (
        "import pathlib, sys\n"
        "from training.run.steps import Step, run_steps\n"
        "from training.run.folder import StopFlag\n"
        "stop, step = StopFlag(), Step('inner', (sys.executable, '-c', *sys.argv[1:3]))\n"
        "with stop.listening(): run_steps([[step]], pathlib.Path(sys.argv[3]), 1, stop)"
    )
    started = tmp_path / "started"

    def interrupt():
        while not (started.exists() and started.read_text()):
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    job = step("outer", outer, inner, str(started), str(tmp_path / "inner"))
    with pytest.raises(KeyboardInterrupt):
        run_steps([[job]], tmp_path, 1, started.exists)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_damaged_mark_and_another_command_are_refused(tmp_path):
    one = step("x", "")
    run_steps([[one]], tmp_path, 1, never)
    with pytest.raises(StepFailedError, match="give the same arguments, or another --out"):
        missing_steps([[step("x", "pass")]], tmp_path)
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(StepFailedError, match="damaged"):
        missing_steps([[one]], tmp_path)
