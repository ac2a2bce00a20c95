"""A fine-tuning of seconds: a tiny model and rendered videos, in this process or another."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tiny_run
import torch

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from training import finetune
from training.frames.rendered import RenderedVideos

SMALL = Preprocessing(clip_frames=4, resize_height_px=40, resize_width_px=48, crop_px=32)
# 48 videos, 32 of them train, in batches of 8: 4 steps an epoch, 12 steps in all.
TINY = (
    "optim.batch=8",
    "schedule.epochs=3",
    "clip.crop_px=32",
    "precision.device=cpu",
    "precision.threads=1",
    "log.checkpoint_steps=3",
    "log.tensorboard=false",
    "log.curves=false",
    "log.line_seconds=0",
)
STEPS = 12
DATA = ("--data", "rendered:48")


def save_tiny_model(folder: Path, seed: int = 0, preprocessing: Preprocessing = SMALL) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(seed)
    shape = Architecture(stage_channels=(4, 4, 8, 8), stage_blocks=(1, 1, 1, 1))
    return CCLModel(CCLConfig(shape, preprocessing)).save_pretrained(folder)


def arguments(model: Path, out: Path, *extra: str, changes: tuple[str, ...] = ()) -> list[str]:
    """Arguments of the command for a tiny run."""
    sets = [text for change in (*TINY, *changes) for text in ("--set", change)]
    return ["smoke", "--model", str(model), "--out", str(out), *DATA, *sets, *extra]


def call(*words: str) -> SimpleNamespace:
    """Run the command in this process; return exit code, stdout and stderr."""
    return tiny_run.call(finetune.main, words)


# A run that sends itself a signal at the n-th gradient.
DISTURB = """
import os, signal, sys
from training import finetune
from training.tasks import finetuning as finetune_task

number, nth = getattr(signal, sys.argv[1]), int(sys.argv[2])
step, calls = finetune_task.supervised_step, 0

def disturbing(*arguments):
    global calls
    calls += 1
    if calls == nth:
        os.kill(os.getpid(), number)
    return step(*arguments)

finetune_task.supervised_step = disturbing
sys.exit(finetune.main(sys.argv[3:]))
"""


def disturbed_command(number: str, nth: int, words: list[str]) -> list[str]:
    """The command of a run that gets signal ``number`` at its nth step."""
    return [sys.executable, "-c", DISTURB, number, str(nth), *words]


class TintedVideos(RenderedVideos):
    """Rendered videos in which each class has another colour: a tiny network can tell them."""

    def read(self, video, indices):
        """Return frames, uint8 RGB (k, h, w, 3)."""
        frames = super().read(video, indices)
        target = self.videos.targets()[video]
        colour = np.array([255 * (target >> bit & 1) for bit in range(3)])
        return (0.25 * frames + 0.75 * colour).astype(np.uint8)
