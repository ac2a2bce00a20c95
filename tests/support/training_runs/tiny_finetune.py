"""A fine-tuning of seconds: a tiny model and rendered videos, in this process or another."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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
    """Run the command in this process; give exit code, stdout and stderr."""
    output, errors = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(errors)
    root, threads = logging.getLogger(), torch.get_num_threads()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
            code = finetune.main(words)
    except SystemExit as stopped:  # argparse
        code = stopped.code
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        torch.set_num_threads(threads)
    return SimpleNamespace(returncode=code, stdout=output.getvalue(), stderr=errors.getvalue())


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


class TintedVideos:
    """Rendered videos in which each class has a colour of its own: a tiny network can tell them.

    Everything but the pixels is that of :class:`RenderedVideos`.
    """

    def __init__(self, count: int, preprocessing: Preprocessing) -> None:
        self._rendered = RenderedVideos(count, preprocessing)
        self.videos, self.names = self._rendered.videos, self._rendered.names
        self.frames_of, self.seconds = self._rendered.frames_of, self._rendered.seconds
        self.duration, self.frame_size = self._rendered.duration, self._rendered.frame_size
        self.fingerprint = self._rendered.fingerprint

    def __len__(self) -> int:
        return len(self._rendered)

    def read(self, video, indices, out=None):
        """Return frames, uint8 RGB (k, h, w, 3)."""
        frames = self._rendered.read(video, indices)
        place = self.videos.targets()[video]
        colour = np.array([255 * (place >> bit & 1) for bit in range(3)])
        tinted = (0.25 * frames + 0.75 * colour).astype(np.uint8)
        if out is None:
            return tinted
        out[...] = tinted
        return out
