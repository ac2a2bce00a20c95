"""The command: a whole run, what it writes, bad input, and any number of processes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from distributed_program import free_port
from project import ROOT
from tiny_run import (
    STEPS,
    command,
    disturbed_command,
    final_tensors,
    run,
    trained_steps,
)

from ccl_hub import CCLModel
from training.distributed.world import World
from training.export import main as export_main
from training.recipes.pretraining import read_recipe
from training.recipes.sections import Precision
from training.run import checkpoints
from training.run import loop as loop_module
from training.run.checkpoints import list_checkpoints, read_checkpoint
from training.run.folder import only_run_in, set_precision
from training.run.logs import read_log
from training.tasks import pretraining as trainer_module


def test_a_whole_run_learns_measures_draws_and_exports(tmp_path):
    out = tmp_path / "run"
    changes = (
        "schedule.epochs=8",
        "validation.rendered=24",
        "validation.every_epochs=4",
        "log.tensorboard=true",
        "log.curves=true",
        "data.workers=2",
    )
    done = run(out, changes=changes)
    assert done.returncode == 0, done.stderr
    lines = read_log(out / "log.jsonl")
    losses = [line["total"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 48
    assert np.mean(losses[-12:]) < np.mean(losses[:6]) - 0.05
    logged = {"forward", "backward", "penalty", "cycle_rate", "lr", "clips_per_second"}
    assert logged | {"data_wait_share", "grad_norm", "crop_px", "epoch"} <= lines[0].keys()
    assert {line["crop_px"] for line in lines if line["kind"] == "train"} == {32, 36}

    checks = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in checks] == [0, 24, 48]
    table = checks[-1]["retrieval"]["rendered"]["features"]
    assert table.keys() >= {"video_to_video", "frame_to_video_clip", "video_to_frame_clip"}
    assert all(0 <= table[question][k] <= 1 for question in table for k in ("1", "5", "10"))

    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((out / "tensorboard").iterdir())
    assert json.loads((out / "recipe.json").read_text())["schedule"]["epochs"] == 8
    assert "step 48/48" in done.stderr
    assert "clips/s" in done.stderr
    assert "ETA 0:00:00" in done.stderr

    assert export_main([str(out), "--out", str(tmp_path / "model"), "--ema"]) == 0
    model = CCLModel.from_pretrained(tmp_path / "model")
    assert model(torch.zeros(1, 3, 4, 32, 32)).video.shape == (1, 8)
    assert "random init" in (tmp_path / "model" / "README.md").read_text()


def test_two_views_and_chunks_and_adamw_run(tmp_path):
    changes = ("data.views=2", "optim.chunks=2", "optim.kind='adamw'", "optim.lr=0.001")
    done = run(tmp_path, changes=(*changes, "schedule.epochs=2"))
    assert done.returncode == 0, done.stderr
    assert len(trained_steps(tmp_path)) == 12


def test_a_calibrated_run_starts_with_videos_as_means_of_their_frames(tmp_path):
    sets = ("schedule.epochs=1", "schedule.warmup_epochs=0", "optim.lr=1e-12", "ema.decay=0.9")
    tuned = ('objective.kind="mse"', "objective.penalty_unit_rows=true", *sets)
    first = {}
    for start in ("random", "identity", "calibrated"):
        changes = (*tuned, f"temporal_init={start}", "precision.autocast=none")
        assert run(tmp_path / start, changes=changes).returncode == 0
        first[start] = trained_steps(tmp_path / start)[0]["total"]
        kept = final_tensors(tmp_path / start)
        moved = (kept["ema/head.bn6.weight"] - kept["model/head.bn6.weight"]).abs().max()
        assert moved < 1e-6, "the average starts where the calibrated model does"
    assert first["calibrated"] < 0.8 * min(first["random"], first["identity"])


def test_clips_a_second_count_both_views(tmp_path, monkeypatch):
    """Once a step of two views counted as many clips as a step of one."""
    rates = []
    for views in (1, 2):
        clock = itertools.count()
        monkeypatch.setattr(loop_module.time, "perf_counter", lambda c=clock: float(next(c)))
        changes = (f"data.views={views}", "schedule.epochs=1", "schedule.warmup_epochs=0")
        assert run(tmp_path / str(views), changes=changes).returncode == 0
        lines = read_log(tmp_path / str(views) / "log.jsonl")
        rates.append(lines[-1]["clips_per_second"])
    assert rates[1] == 2 * rates[0]


@pytest.mark.slow
def test_a_compiled_run_computes_what_an_eager_one_does(tmp_path):
    """Loss and gradient of its first step; later ones let the other rounding grow."""
    changes = ("schedule.epochs=2", "data.views=2", "optim.chunks=2", "stages=[]")
    changes = (*changes, "schedule.warmup_epochs=0")
    assert run(tmp_path / "eager", changes=changes).returncode == 0
    compiled = run(tmp_path / "compiled", changes=(*changes, "precision.compile=true"))
    assert compiled.returncode == 0, compiled.stderr
    ours, theirs = trained_steps(tmp_path / "compiled"), trained_steps(tmp_path / "eager")
    assert len(ours) == len(theirs) == 12
    for name in ("total", "forward", "backward", "penalty", "cycle_rate", "grad_norm"):
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-3), name
    assert final_tensors(tmp_path / "compiled").keys() == final_tensors(tmp_path / "eager").keys()


def test_deterministic_runs_tell_cublas_before_its_first_use(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "to be unset")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        set_precision(Precision(deterministic=True))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        set_precision(Precision())
    assert torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()


def test_resident_frames_train_as_frames_read_one_by_one(tmp_path):
    changes = ("schedule.epochs=2",)
    assert run(tmp_path / "a", changes=changes).returncode == 0
    assert run(tmp_path / "b", changes=(*changes, "data.cache='ram'")).returncode == 0
    ours, theirs = final_tensors(tmp_path / "a"), final_tensors(tmp_path / "b")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_budget_stops_a_run_and_more_of_it_goes_on(tmp_path):
    done = run(tmp_path, changes=("budget.max_seconds=0.01",))
    assert done.returncode == 75
    assert "saved before the end" in done.stderr
    assert len(trained_steps(tmp_path)) == 1
    done = run(tmp_path, "--resume", "auto", changes=("budget.max_seconds=1000",))
    assert done.returncode == 0, done.stderr
    assert len(trained_steps(tmp_path)) == STEPS


def test_a_paced_run_ends_annealed_when_its_time_is_used(tmp_path):
    changes = ("schedule.epochs=1000", "budget.max_seconds=2", "budget.paces_schedule=true")
    started = time.monotonic()
    done = run(tmp_path, changes=changes)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    steps = trained_steps(tmp_path)
    assert 2 < len(steps) < 6000
    assert max(step["lr"] for step in steps) > 0.8 * 0.05
    assert steps[-1]["lr"] < 0.5 * 0.05
    assert {step["crop_px"] for step in steps} == {32, 36}


def test_nan_stops_naming_the_videos_and_leaves_checkpoints_alone(tmp_path, monkeypatch):
    real = trainer_module.backward_step
    calls = []

    def poisoned(*arguments):
        calls.append(1)
        losses = real(*arguments)
        if len(calls) == 7:
            losses["forward"] = torch.tensor(float("nan"))
        return losses

    monkeypatch.setattr(trainer_module, "backward_step", poisoned)
    done = run(tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "step 7: forward is nan; training stopped" in last
    assert last.count("rendered-000") == 4
    newest = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert newest.state["step"] == 6
    assert all(torch.isfinite(t.float()).all() for t in newest.tensors.values())
    # Without the fault the same run goes on to its end.
    monkeypatch.setattr(trainer_module, "backward_step", real)
    assert run(tmp_path, "--resume", "auto").returncode == 0
    assert [line["step"] for line in trained_steps(tmp_path)] == list(range(1, STEPS + 1))


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    done = run(tmp_path, changes=("optim.lr=1e30",))
    assert done.returncode == 1
    assert "training stopped, with checkpoints as they were" in done.stderr


def video_folder(folder, videos=6):
    media = pytest.importorskip("media", reason="making videos needs PyAV")
    folder.mkdir()
    for number in range(videos):

        def pixels(frame, width, height, first=20 * number):
            return media.numbered_frame(first + frame, width, height)

        made = media.Recipe(f"{number}.mp4", "mpeg4", frames=20, rate=12, make=pixels)
        media.write_video(folder, made)
    return folder


def test_training_straight_from_video_files(tmp_path):
    folder = video_folder(tmp_path / "videos")
    changes = ("data.rendered=0", f"data.folder={folder}", "optim.batch=3", "schedule.epochs=2")
    done = run(tmp_path / "run", changes=changes)
    assert done.returncode == 0, done.stderr
    assert len(trained_steps(tmp_path / "run")) == 4
    newest = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert newest.state["data"]["videos"] == 6


def test_an_empty_class_and_an_unreadable_video_are_refused(tmp_path):
    folder = tmp_path / "videos"
    for name in ("jump", "run"):
        (folder / name).mkdir(parents=True)
    (folder / "jump" / "1.mp4").write_bytes(b"no video")
    changes = ("data.rendered=0", f"data.folder={folder}")
    done = run(tmp_path / "run", changes=changes)
    assert done.returncode == 2
    assert "class 'run' has no video" in done.stderr
    (folder / "run").rmdir()
    done = run(tmp_path / "run", changes=changes)
    assert done.returncode == 2
    assert "1.mp4" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("optim.lrr=1",), "optim: unknown key 'lrr'; allowed are"),
        (("data.rendered=0",), "the recipe names no data to train on; give --set data.pack"),
        (
            ("data.rendered=0", "data.pack=/nonexistent/pack"),
            "/nonexistent/pack: holds no finished pack",
        ),
        (("data.rendered=0", "data.folder=/nonexistent/videos"), "does not exist"),
        (("data.split='trian'",), "no video of split 'trian'; give one of ['test', 'train']"),
        (("data.rendered=20", "data.split='test'"), "class 'square circle' has no video"),
        (("validation.rendered=24", "validation.packs=[]", "data.folder='x'"), "give one of"),
        (("optim.batch=25",), "24 usable videos, fewer than optim.batch = 25"),
        (("validation.packs=['/nonexistent/pack']",), "/nonexistent/pack: holds no finished"),
        (("validation.rendered=8",), "no video of split 'test'"),
        (("data.resident_size_px=[32, 32]",), "but cache is 'none', so it would have no effect"),
        (("data.cache='gpu'",), "data.cache is 'gpu' but training runs on cpu"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(tmp_path, changes, message):
    done = run(tmp_path / "run", changes=changes)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(tmp_path / "file" / "run")
    assert done.returncode == 1
    assert "cannot be made" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_runs_do_not_share_a_folder(tmp_path):
    with only_run_in(tmp_path, read_recipe("smoke"), World()):
        done = run(tmp_path)
    assert done.returncode == 2
    assert "another run is writing here; wait for it" in done.stderr
    assert run(tmp_path, changes=("schedule.epochs=1", "schedule.warmup_epochs=0")).returncode == 0


def test_a_full_disk_is_one_clear_line_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    real, calls = checkpoints.write_atomically, []

    def filling(path, write):
        calls.append(path)
        if len(calls) < 3:
            return real(path, write)

        def full(file):
            file.write(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return real(path, full)

    monkeypatch.setattr(checkpoints, "write_atomically", filling)
    done = run(tmp_path)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.splitlines()[-1]
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert [read_checkpoint(path).state["step"] for path in kept] == [4, 6]
    monkeypatch.setattr(checkpoints, "write_atomically", real)
    assert run(tmp_path, "--resume", "auto").returncode == 0


def start_ranks(out, size, *extra, changes=(), last=None):
    """Start ``size`` processes as torchrun would; ``last``: another command for the last one."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    world = {**meeting, "WORLD_SIZE": str(size)}
    commands = [command(out, *extra, changes=changes) for _ in range(size)]
    if last is not None:
        commands[-1] = last
    return [
        subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(commands)
    ]


def finish_ranks(processes, code):
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), errors
    return errors


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(tmp_path):
    finish_ranks(start_ranks(tmp_path / "undisturbed", 2), 0)
    out = tmp_path / "disturbed"
    # One process is told to stop; both must stop after the same step.
    told = disturbed_command(out, "SIGTERM", "before the gradient", 5)
    finish_ranks(start_ranks(out, 2, last=told), 75)
    saved = read_checkpoint(list_checkpoints(out / "checkpoints")[-1])
    assert saved.state["step"] == 5
    finish_ranks(start_ranks(out, 2, "--resume", "auto"), 0)
    assert trained_steps(out) == trained_steps(tmp_path / "undisturbed")
    ours, theirs = final_tensors(out), final_tensors(tmp_path / "undisturbed")
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_a_world_that_does_not_divide_the_batch_is_refused(tmp_path):
    changes = ("optim.batch=5",)
    processes = start_ranks(tmp_path / "run", 2, changes=changes)
    errors = finish_ranks(processes, 2)
    assert all("batch is 5, which 2 processes cannot share equally" in text for text in errors)
    assert all("Traceback" not in text for text in errors)


def test_help_and_entry_point():
    done = subprocess.run(
        [sys.executable, "-m", "training.pretrain", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert "--resume" in done.stdout
    assert "Exit codes" in done.stdout


def test_curves_that_cannot_be_drawn_are_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run(tmp_path / "run", changes=("log.curves=true",))
    assert done.returncode == 2
    assert "matplotlib is not installed; pip install" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_a_gpu_with_resident_frames_stops_and_goes_on(tmp_path):
    changes = ("precision.device=cuda", "precision.autocast=bf16", "data.cache='gpu'")
    done = run(tmp_path, changes=(*changes, "budget.max_seconds=0.01"))
    assert done.returncode == 75, done.stderr
    done = run(tmp_path, "--resume", "auto", changes=(*changes, "validation.rendered=24"))
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in trained_steps(tmp_path)] == list(range(1, STEPS + 1))
    assert "random/cuda" in final_tensors(tmp_path)
