"""Logs: one line a step whatever happened, a live line, curves."""

from __future__ import annotations

import io

from training.run.logs import ProgressLine, RunLog, draw_curves, read_log


def write_steps(folder, start, end, validated=-1, active=True):
    with RunLog(folder, start, validated, tensorboard=False, active=active) as log:
        for step in range(start + 1, end + 1):
            log.write("train", step, {"total": 1 / step, "lr": 0.1, "cycle_rate": 0.5})
            if step % 3 == 0:
                table = {"small": {"features": {"video_to_video": {"1": 0.25, "5": 0.5}}}}
                log.write("validation", step, {"retrieval": table})


def test_a_resumed_log_holds_every_step_once(tmp_path):
    write_steps(tmp_path, 0, 7)
    # The checkpoint is of step 6, written before the validation of step 6.
    write_steps(tmp_path, 6, 9, validated=3)
    lines = read_log(tmp_path / "log.jsonl")
    assert [x["step"] for x in lines if x["kind"] == "train"] == list(range(1, 10))
    assert [x["step"] for x in lines if x["kind"] == "validation"] == [3, 9]
    write_steps(tmp_path, 0, 1)
    assert [x["step"] for x in read_log(tmp_path / "log.jsonl")] == [1]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    write_steps(tmp_path, 0, 2)
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    assert [x["step"] for x in read_log(path)] == [1, 2]
    write_steps(tmp_path, 2, 3, validated=2)
    assert [x["step"] for x in read_log(path) if x["kind"] == "train"] == [1, 2, 3]


def test_a_log_damaged_by_a_crash_does_not_keep_a_run_from_going_on(tmp_path, caplog):
    """Zeros where the disk had not written: once a traceback at every --resume."""
    write_steps(tmp_path, 0, 2)
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes() + b"\0" * 40 + b"\n" + b'{"kind": "train", "step": 9}\n')
    write_steps(tmp_path, 2, 3)
    assert "log.jsonl: damaged from line 3 on" in caplog.text
    assert [x["step"] for x in read_log(path) if x["kind"] == "train"] == [1, 2, 3]


def test_other_ranks_write_nothing(tmp_path):
    write_steps(tmp_path / "run", 0, 2, active=False)
    assert not (tmp_path / "run").exists()
    stream = io.StringIO()
    line = ProgressLine(2, 0.0, active=False, stream=stream)
    line.show(1, {"lr": 0.1, "clips_per_second": 1.0, "data_wait_share": 0.0}, 1.0)
    line.end()
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_line_is_rewritten_on_a_terminal_only(monkeypatch):
    values = {"total": 1.5, "lr": 0.01, "clips_per_second": 12.34, "data_wait_share": 0.25}
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        clock = iter(range(100))
        monkeypatch.setattr(
            "training.run.logs.time.monotonic", lambda clock=clock: float(next(clock))
        )
        line = ProgressLine(10, 2.0, stream=stream)
        for step in range(1, 6):
            line.show(step, values, 3725.0)
        line.end()
    assert terminal.getvalue().count("\r") == 5
    assert terminal.getvalue().endswith("\n")
    assert file.getvalue().count("\n") == 3  # seconds 0, 2 and 4
    shown = file.getvalue().splitlines()[0]
    assert shown == (
        "step 1/10  total 1.500  lr 1.00e-02  12.3 clips/s  data wait 25%  ETA 1:02:05"
    )


def test_curves_are_drawn_from_the_log(tmp_path):
    write_steps(tmp_path, 0, 9)
    draw_curves(read_log(tmp_path / "log.jsonl"), tmp_path / "curves.png", "a run")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    draw_curves([], tmp_path / "empty.png", "no step yet")
    assert (tmp_path / "empty.png").stat().st_size > 1000
