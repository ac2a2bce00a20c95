"""A training run of seconds, on rendered videos, in this process or another."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from training import pretrain
from training.run.checkpoints import list_checkpoints, read_checkpoint
from training.run.logs import read_log

# 24 videos in batches of 4: 6 steps an epoch, 24 steps in all.
TINY = (
    "data.rendered=24",
    "data.workers=0",
    "validation.rendered=0",
    "model.stage_channels=[4, 4, 8, 8]",
    "preprocessing.clip_frames=4",
    "preprocessing.resize_height_px=40",
    "preprocessing.resize_width_px=48",
    "preprocessing.crop_px=32",
    "augment.crop_px=32",
    "stages=[{until=0.5, crop_px=32}, {until=1.0, crop_px=36}]",
    "optim.batch=4",
    "schedule.epochs=4",
    "ema.decay=0.9",
    "precision.device=cpu",
    "precision.threads=1",
    "log.checkpoint_steps=4",
    "log.tensorboard=false",
    "log.curves=false",
    "log.line_seconds=0",
)
STEPS = 24


def arguments(out: Path, *extra: str, changes: tuple[str, ...] = ()) -> list[str]:
    """Arguments of the command for a tiny run."""
    sets = [text for change in (*TINY, *changes) for text in ("--set", change)]
    return ["smoke", "--out", str(out), *sets, *extra]


def command(out: Path, *extra: str, changes: tuple[str, ...] = ()) -> list[str]:
    """The command itself."""
    return [sys.executable, "-m", "training.pretrain", *arguments(out, *extra, changes=changes)]


# A run that sends itself a signal at the n-th call of a function: at an exact moment, however busy
# the machine is.
DISTURB = """
import os, signal, sys
from training import pretrain
from training.run import loop
from training.tasks import pretraining as trainer

number, moment, nth = getattr(signal, sys.argv[1]), sys.argv[2], int(sys.argv[3])
owner, name = {
    "before the gradient": (trainer, "backward_step"),
    "after the update": (trainer.EmaWeights, "update"),
    "after the log": (loop.RunLog, "write"),
}[moment]
original, calls = getattr(owner, name), 0

def disturbing(*arguments):
    global calls
    calls += 1
    if calls == nth and moment == "before the gradient":
        os.kill(os.getpid(), number)
    result = original(*arguments)
    if calls == nth:
        os.kill(os.getpid(), number)
    return result

setattr(owner, name, disturbing)
sys.exit(pretrain.main(sys.argv[4:]))
"""
MOMENTS = ("before the gradient", "after the update", "after the log")


def disturbed_command(out: Path, number: str, moment: str, nth: int, *extra: str) -> list[str]:
    """The command of a tiny run that gets signal ``number`` at the nth step it makes."""
    rest = arguments(out, *extra)
    return [sys.executable, "-c", DISTURB, number, moment, str(nth), *rest]


def run(out: Path, *extra: str, changes: tuple[str, ...] = ()) -> SimpleNamespace:
    """Run it to its end in this process; return exit code, stdout and stderr."""
    return call(pretrain.main, arguments(out, *extra, changes=changes))


def call(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> SimpleNamespace:
    """Run a command in this process, which saves the imports; return code, stdout and stderr."""
    output, errors = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(errors)
    root, threads = logging.getLogger(), torch.get_num_threads()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
            code = main(words)
    except SystemExit as stopped:  # argparse
        code = stopped.code
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        torch.set_num_threads(threads)
    return SimpleNamespace(returncode=code, stdout=output.getvalue(), stderr=errors.getvalue())


def final_tensors(out: Path) -> dict[str, torch.Tensor]:
    """Everything that the newest checkpoint holds."""
    return read_checkpoint(list_checkpoints(out / "checkpoints")[-1]).tensors


def trained_steps(out: Path) -> list[dict]:
    """Lines of the log, without what depends on the clock."""
    timed = ("clips_per_second", "data_wait_share", "seconds")
    lines = [line for line in read_log(out / "log.jsonl") if line["kind"] == "train"]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]
