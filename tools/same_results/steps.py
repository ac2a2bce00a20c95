"""The steps that run on each tree: commands, each in a new process, and :mod:`.probe`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .inputs import Inputs

PROBE = Path(__file__).with_name("probe.py")
BACKENDS = {  # name -> the package it needs
    "torch": "torch",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
}
ENTRY = (
    "import sys; from importlib.metadata import EntryPoint; "
    "name, value = sys.argv[1:3]; sys.argv[:3] = [name]; "
    "sys.exit(EntryPoint(name, value, 'console_scripts').load()())"
)
# A training of seconds: 24 videos in batches of 4, 6 steps an epoch.
TINY = (
    "data.workers=0",
    "validation.rendered=0",
    "model.stage_channels=[4, 4, 8, 8]",
    "augment.crop_px=32",
    "stages=[{until=0.5, crop_px=32}, {until=1.0, crop_px=36}]",
    "optim.batch=4",
    "schedule.epochs=4",
    "ema.decay=0.9",
)
SMALL_FRAMES = (
    "preprocessing.clip_frames=4",
    "preprocessing.resize_height_px=40",
    "preprocessing.resize_width_px=48",
    "preprocessing.crop_px=32",
)
QUIET = (
    "precision.device=cpu",
    "precision.threads=1",
    "log.checkpoint_steps=4",
    "log.tensorboard=false",
    "log.curves=false",
    "log.line_seconds=0",
)
ONE_OF_EACH = ("--workers", "1", "--threads", "1", "--json")  # in batches that are always alike
STOP_AFTER_STEPS = 7
STEP_TIMEOUT_SECONDS = 1200
EXIT_SAVED = 75


@dataclass
class Tree:
    """A tree of the project and the folder in which its commands run.

    Args:
        path: Its root.
        work: The working folder.
        failures: A line for each step that did not end as it must.
    """

    path: Path
    work: Path
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        project = tomllib.loads((self.path / "pyproject.toml").read_text(encoding="utf-8"))
        self._scripts: dict[str, str] = project["project"]["scripts"]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self.path),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "CCL_CACHE": str(self.work / "cache"),
        }
        (self.work / "logs").mkdir()

    def python(self, step: str, *words: object, exits: Sequence[int] = (0,)) -> None:
        """Run the interpreter; stdout goes to ``step.out``, stderr to ``logs/step``."""
        out, log = self.work / f"{step}.out", self.work / "logs" / step
        with out.open("wb") as stdout, log.open("wb") as stderr:
            code = subprocess.call(
                self._command(words),
                stdout=stdout,
                stderr=stderr,
                cwd=self.work,
                env=self._environment,
                timeout=STEP_TIMEOUT_SECONDS,
            )
        self._check(step, code, exits)

    def script(self, step: str, name: str, *words: object, exits: Sequence[int] = (0,)) -> None:
        """Run a command that pyproject.toml of this tree names: ccl-embed or ccl-hub."""
        self.python(step, "-c", ENTRY, name, self._scripts[name], *words, exits=exits)

    def module(self, step: str, name: str, *words: object) -> None:
        """Run ``python -m NAME``."""
        self.python(step, "-m", name, *words)

    def stopped(self, step: str, log: Path, name: str, *words: object) -> None:
        """Run ``python -m NAME`` and send it SIGTERM once ``log`` has some lines of training."""
        with (self.work / "logs" / step).open("wb") as stderr:
            process = subprocess.Popen(
                self._command(("-m", name, *words)),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=self.work,
                env=self._environment,
            )
        while process.poll() is None:
            if log.is_file() and log.read_text().count('"train"') >= STOP_AFTER_STEPS:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.005)
        self._check(step, process.wait(STEP_TIMEOUT_SECONDS), (EXIT_SAVED,))

    def _command(self, words: Sequence[object]) -> list[str]:
        return [sys.executable, "-P", *map(str, words)]

    def _check(self, step: str, code: int, exits: Sequence[int]) -> None:
        if code not in exits:
            log = (self.work / "logs" / step).read_text(errors="replace").strip()
            last_line = log.rpartition("\n")[2]
            self.failures.append(f"{step}: exit code {code}: {last_line}")


def run_all(tree: Tree, inputs: Inputs, earlier: Path) -> list[str]:
    """Run every step in ``tree.work``; return the failures.

    Args:
        tree: The tree to run.
        inputs: The videos to run it on.
        earlier: The finished folder of the old tree, whose job, trainings and ablation this tree
            goes on with; the old tree goes on with those of ``tree.work``.
    """
    tree.python("probe", PROBE, tree.path, inputs.every, inputs.example, inputs.image)
    _single_videos(tree, inputs)
    _jobs(tree, inputs, earlier)
    _training(tree, inputs, earlier)
    _evaluation(tree, inputs, earlier)
    return tree.failures


def _single_videos(tree: Tree, inputs: Inputs) -> None:
    tree.script("verify", "ccl-hub", "verify")
    (tree.work / "single").mkdir()
    uneven = inputs.every / "odd" / "uneven.mkv"
    for name, words in {
        "clips.npy": (inputs.example,),
        "frames.npy": (inputs.example, "--level", "frame"),
        "video.npy": (uneven, "--level", "video"),
        "every.safetensors": (uneven, "--every", "0.3"),
    }.items():
        tree.script(f"single-{name}", "ccl-embed", *words, "--out", f"single/{name}")
    for backend, package in BACKENDS.items():
        if find_spec(package):
            words = ("--backend", backend, "--out", f"single/{backend}.npz")
            tree.script(f"backend-{backend}", "ccl-embed", inputs.example, *words)


def _jobs(tree: Tree, inputs: Inputs, earlier: Path) -> None:
    some_fail = (2,)
    for step, words in {
        "job-folder": (inputs.every, "--out", "job"),
        "job-dataset": (inputs.every, "--out", "clips.parquet"),
        "job-frames": (inputs.classes, "--level", "frame", "--out", "frames.parquet"),
        "job-dense": (inputs.classes, "--every", "0.04", "--format", "npy", "--out", "dense"),
    }.items():
        exits = some_fail if inputs.every in words else (0,)
        tree.script(step, "ccl-embed", *words, *ONE_OF_EACH, exits=exits)
    shutil.copytree(earlier / "job", tree.work / "job-of-old", symlinks=True)
    words = (inputs.every, "--out", "job-of-old", *ONE_OF_EACH)
    tree.script("job-goes-on", "ccl-embed", *words, exits=some_fail)


def _settings(*changes: str) -> list[str]:
    return [word for change in (*changes, *QUIET) for word in ("--set", change)]


def _training(tree: Tree, inputs: Inputs, earlier: Path) -> None:
    tree.module("pack", "training.pack", inputs.classes, "--format", "classes", "--out", "packed")
    raw = ("--codec", "raw", "--keep-incomplete", "--workers", "1", "--out", "packed-raw")
    tree.python("pack-raw", "-m", "training.pack", inputs.every / "odd", *raw, exits=(2,))
    rendered = ("smoke", *_settings(*TINY, *SMALL_FRAMES, "data.rendered=24"))
    tree.module("pretrain", "training.pretrain", *rendered, "--out", "run")
    packed = _settings(*TINY, "data.rendered=0", "data.pack=packed", "preprocessing.clip_frames=4")
    tree.module("pretrain-packed", "training.pretrain", "smoke", *packed, "--out", "run-packed")
    log = tree.work / "stopped" / "log.jsonl"
    tree.stopped("stopped", log, "training.pretrain", *rendered, "--out", "stopped")
    for source, out in ((tree.work, "resumed"), (earlier, "resumed-from-old")):
        shutil.copytree(source / "stopped", tree.work / out)
        tree.module(out, "training.pretrain", *rendered, "--resume", "auto", "--out", out)
    for run, dtype in (("run", "fp32"), ("run-packed", "fp16")):
        words = (run, "--dtype", dtype, "--name", "tiny", "--out", f"model-of-{run}")
        tree.module(f"export-{run}", "training.export", *words)


def _evaluation(tree: Tree, inputs: Inputs, earlier: Path) -> None:
    tune = ("optim.batch=8", "schedule.epochs=2", "clip.crop_px=32")
    words = ("smoke", "--model", "model-of-run", "--data", "rendered:48", *_settings(*tune))
    tree.module("finetune", "training.finetune", *words, "--out", "tuned")
    checkpoint = earlier / "tuned" / "checkpoints" / "step-00000004.safetensors"
    words += ("--resume", checkpoint, "--out", "tuned-from-old")
    tree.module("finetune-from-old", "training.finetune", *words)
    for program in ("linear_probe", "retrieval"):
        words = ("--model", "model-of-run-packed", "--model", "random-init", "--threads", "1")
        words += ("--data", "rendered:24", "--data", "packed", "--clips", "2")
        words += ("--device", "cpu", "--cache", "features", "--out", f"results-{program}")
        tree.module(program, f"training.{program}", *words)
    settings = _settings(*TINY, *SMALL_FRAMES, "data.rendered=24", "schedule.epochs=2")
    ablation = ("smoke", *settings, "--data", "rendered:24", "--rows", "random,lv", "--seeds", "0")
    tree.module("ablation", "training.ablation", *ablation, "--out", "ablation")
    # Its steps are known by their commands, --out included, so it goes on in the same folder.
    (tree.work / "ablation").rename(tree.work / "ablation-new")
    shutil.copytree(earlier / "ablation-new", tree.work / "ablation")
    tree.module("ablation-goes-on", "training.ablation", *ablation, "--out", "ablation")
    if find_spec("nncf"):
        words = ("--model", "model-of-run-packed", "--backend", "openvino-int8", "--out", "int8")
        tree.script("int8", "ccl-embed", inputs.classes, *words, *ONE_OF_EACH)
