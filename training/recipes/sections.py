"""The sections of a training recipe, as frozen dataclasses that check their own values."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ccl_hub._util.checks import require
from ccl_hub.config import Preprocessing
from ccl_hub.errors import ConfigError

from .augmentation import Augment


class PlainRecipe:
    """A recipe of any kind: a frozen dataclass with these sections and others beside them."""

    name: str
    seed: int
    preprocessing: Preprocessing
    data: Reading
    augment: Augment
    optim: Optim
    schedule: Schedule
    budget: Budget
    log: Log
    precision: Precision

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with every default filled in."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def one_of(section: object, name: str, *allowed: str | int) -> None:
    """Raise ConfigError unless a field has one of the allowed values."""
    value = getattr(section, name)
    *first, last = map(repr, allowed)
    require(value in allowed, name, value, f"{', '.join(first)} or {last}")


def from_one(section: object, *names: str) -> None:
    """Raise ConfigError unless each named field is at least 1."""
    for name in names:
        value = getattr(section, name)
        require(value >= 1, name, value, "a whole number >= 1")


class Reading:
    """The keys that ``[data]`` has in recipes of any kind: how frames are read."""

    views: int
    clip_frames: int
    cache: str
    resident_size_px: tuple[int, ...]
    workers: int

    def check_reading(self) -> None:
        """Raise ConfigError unless frames can be read ahead and kept as the keys say."""
        one_of(self, "cache", "none", "ram", "gpu")
        size_px = self.resident_size_px
        good = len(size_px) in (0, 2) and all(side >= 16 for side in size_px)
        allowed = "height and width of at least 16, or left out"
        require(good, "resident_size_px", size_px, allowed)
        if size_px and self.cache == "none":
            raise ConfigError(
                f"resident_size_px is {list(size_px)} but cache is 'none', so it would have no "
                "effect; set cache to 'ram' or 'gpu', or leave the size out."
            )
        require(0 <= self.workers <= 256, "workers", self.workers, "0 to 256")


@dataclass(frozen=True)
class Data(Reading):
    """``[data]``: what to train on; one of ``pack``, ``folder`` and ``rendered``.

    Args:
        pack: Folder made by ``python -m training.pack``.
        folder: Folder of videos, or a manifest (csv, parquet); decoded while training.
        rendered: Number of videos computed on the spot, to try the loop without data.
        allow_problems: Leave out videos of ``folder`` that cannot be used, and log them, instead
            of refusing to start.
        split: Use the videos of this split alone; all videos if empty.
        views: Clips per video and step: 1 (paper), or 2: the video vector from one and the frame
            vectors from the other, and the reverse.
        clip_frames: Frames drawn of each clip's time span; those of the preprocessing if 0.
        every_seconds: Use a frame every so often, so that fewer need be resident; all if 0.
        cache: Keep decoded frames resident in ``"ram"`` or on the ``"gpu"``; ``"none"`` reads
            them as needed.
        resident_size_px: Height and width to which resident frames are shrunk; they keep their
            size if empty.
        workers: Threads that read ahead; 0 reads when asked. At least 2 fill the cache.
    """

    pack: str = ""
    folder: str = ""
    rendered: int = 0
    allow_problems: bool = False
    split: str = ""
    views: int = 1
    clip_frames: int = 0
    every_seconds: float = 0.0
    cache: str = "none"
    resident_size_px: tuple[int, ...] = ()
    workers: int = 2

    def __post_init__(self) -> None:
        sources = [name for name in ("pack", "folder", "rendered") if getattr(self, name)]
        if len(sources) > 1:
            raise ConfigError(f"{' and '.join(sources)} are given; give one of them.")
        require(self.rendered >= 0, "rendered", self.rendered, "0 or more")
        one_of(self, "views", 1, 2)
        require(0 <= self.clip_frames <= 1024, "clip_frames", self.clip_frames, "0 to 1024")
        require(0 <= self.every_seconds, "every_seconds", self.every_seconds, "0 or more")
        self.check_reading()


@dataclass(frozen=True)
class Optim:
    """``[optim]``: one update of the weights.

    Args:
        kind: ``"sgd"`` (paper) or ``"adamw"``.
        lr: Peak learning rate for the whole global batch.
        momentum: Of SGD (the paper is silent).
        betas: Of AdamW.
        weight_decay: Decay of the weights.
        decay_norm_and_bias: Decay BatchNorm and biases too, as plain SGD does.
        batch: Videos per update over all processes together (paper: 48).
        chunks: Pieces in which each process runs its share through the network: less memory, and
            the negatives are still those of the global batch.
        clip_norm: Largest gradient norm; left out: any norm.
        sync_batchnorm: BatchNorm statistics over all processes.
        trunk_lr: Learning rate of the trunk, as a share of that of the rest.
        frozen: Modules that stay as they start, BatchNorm's statistics too, such as
            ``trunk.stem``.
    """

    kind: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, ...] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    batch: int = 48
    chunks: int = 1
    clip_norm: float | None = None
    sync_batchnorm: bool = False
    trunk_lr: float = 1.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of(self, "kind", "sgd", "adamw")
        require(self.lr > 0, "lr", self.lr, "more than 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "0 to below 1")
        ok = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(ok, "betas", self.betas, "2 numbers from 0 to below 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        from_one(self, "batch")
        require(1 <= self.chunks <= self.batch, "chunks", self.chunks, "1 to batch")
        ok = self.clip_norm is None or self.clip_norm > 0
        require(ok, "clip_norm", self.clip_norm, "more than 0, or left out")


@dataclass(frozen=True)
class Teacher:
    """``[teacher]``: an image encoder whose vectors of untouched frames must stay readable.

    The loss grows by ``weight`` times one minus the cosine between a linear map of each frame
    feature and what the teacher says of the frame before it was edited.

    Args:
        network: ``"efficientnet_lite0"``, or empty for none.
        onnx: Instead, a file: an image encoder exported to ONNX.
        weight: Of the term.
        size_px: Side of the square to which frames are squashed for the teacher.
        mean: Per-channel mean of RGB in [0, 1] that the ``onnx`` teacher wants.
        std: Per-channel standard deviation.
        whitened: Compare with the leading principal components of its vectors, as many as features
            have dimensions, damped and scaled as :class:`ccl_hub.network.architecture.Whitening`
            does: fine differences between frames then count as much as coarse ones.
        damping: Of that whitening: this times the mean eigenvalue is added to each. A network that
            begins at random learns the leading components first, and 10 leaves them the lead.
        cache: Folder for a file of its vectors, so that it is asked once for each frame, however
            often runs begin or go on; in memory if empty.
    """

    network: str = ""
    onnx: str = ""
    weight: float = 0.5
    size_px: int = 160
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    whitened: bool = False
    damping: float = 0.1
    cache: str = ""

    def __post_init__(self) -> None:
        one_of(self, "network", "", "efficientnet_lite0")
        if self.network and self.onnx:
            raise ConfigError("network and onnx are given; give one teacher.")
        require(0 <= self.weight <= 100, "weight", self.weight, "0 to 100")
        require(1e-3 <= self.damping <= 1e3, "damping", self.damping, "0.001 to 1000")
        require(32 <= self.size_px <= 1024, "size_px", self.size_px, "32 to 1024")
        for name in ("mean", "std"):
            value = getattr(self, name)
            require(len(value) == 3, name, value, "3 numbers, one for each of R, G, B")

    @property
    def there(self) -> bool:
        """Whether there is one."""
        return bool(self.network or self.onnx) and self.weight > 0


@dataclass(frozen=True)
class Schedule:
    """``[schedule]``: learning rate over the run.

    Args:
        kind: ``"step"`` (paper) or ``"cosine"``.
        epochs: Passes over the data.
        warmup_epochs: Epochs of a linear rise from 0 at the start.
        step_epochs: Epochs between drops of ``"step"`` (paper: 20).
        step_factor: Factor of each drop (paper: 0.1).
        final_factor: Share of the peak at the end of ``"cosine"``.
    """

    kind: str = "cosine"
    epochs: int = 100
    warmup_epochs: float = 0.0
    step_epochs: float = 20.0
    step_factor: float = 0.1
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        one_of(self, "kind", "step", "cosine")
        from_one(self, "epochs")
        ok = 0 <= self.warmup_epochs < self.epochs
        require(ok, "warmup_epochs", self.warmup_epochs, f"0 to below epochs ({self.epochs})")
        require(self.step_epochs > 0, "step_epochs", self.step_epochs, "more than 0")
        require(0 < self.step_factor <= 1, "step_factor", self.step_factor, "above 0, at most 1")
        require(0 <= self.final_factor <= 1, "final_factor", self.final_factor, "0 to 1")


@dataclass(frozen=True)
class Stage:
    """One of ``[[stages]]``: the crop side up to a share of the run (progressive resolution).

    Args:
        until: Share of the run at which the stage ends; the last stage must end at 1.
        crop_px: Side of the augmented crop.
    """

    until: float
    crop_px: int

    def __post_init__(self) -> None:
        require(0 < self.until <= 1, "until", self.until, "above 0, at most 1")
        require(32 <= self.crop_px <= 512, "crop_px", self.crop_px, "32 to 512")


@dataclass(frozen=True)
class Budget:
    """``[budget]``: wall time of training (validation included, pauses between runs not).

    Args:
        max_seconds: Stop after this time; left out: train every epoch.
        paces_schedule: Let the share of time used, where it is ahead of the share of steps, drive
            learning rate and stages, so that a run on a machine of unknown speed still ends with
            its learning rate annealed. Two such runs differ in their weights. Without it the run
            saves and exits as on SIGTERM.
    """

    max_seconds: float | None = None
    paces_schedule: bool = False

    def __post_init__(self) -> None:
        ok = self.max_seconds is None or self.max_seconds > 0
        require(ok, "max_seconds", self.max_seconds, "more than 0, or left out")
        if self.paces_schedule and self.max_seconds is None:
            raise ConfigError("paces_schedule is true but max_seconds is missing; give both.")


@dataclass(frozen=True)
class Ema:
    """``[ema]``: a slow average of the weights.

    Args:
        decay: Per step, 0 to below 1; left out: no average is kept. Early in a run the average
            follows faster: decay at step n is at most (1 + n) / (10 + n).
    """

    decay: float | None = None

    def __post_init__(self) -> None:
        ok = self.decay is None or 0 <= self.decay < 1
        require(ok, "decay", self.decay, "0 to below 1, or left out")


@dataclass(frozen=True)
class Validation:
    """``[validation]``: retrieval on labelled videos while training.

    Args:
        packs: Packed labelled sets, with classes and the splits ``train`` and ``test``.
        rendered: Number of videos of a set computed on the spot; 0 for none. Without any set
            nothing is measured.
        every_epochs: Measure after so many epochs, and at the end of the run.
        clips: Clips per video (paper: 10).
        batch_clips: Clips embedded at once.
        random_init: Measure the untrained network too, once.
    """

    packs: tuple[str, ...] = ()
    rendered: int = 0
    every_epochs: int = 5
    clips: int = 10
    batch_clips: int = 16
    random_init: bool = True

    def __post_init__(self) -> None:
        from_one(self, "every_epochs", "clips", "batch_clips")


@dataclass(frozen=True)
class Log:
    """``[log]``: what is written while training.

    Args:
        every_steps: Steps between lines of ``log.jsonl``.
        line_seconds: Time between progress lines where stderr is a file or a pipe.
        tensorboard: Write TensorBoard files.
        curves: Draw ``curves.png`` at the end.
        checkpoint_steps: Steps between checkpoints within an epoch; 0: at the end of each alone.
        keep_checkpoints: Newest checkpoints kept.
    """

    every_steps: int = 1
    line_seconds: float = 10.0
    tensorboard: bool = True
    curves: bool = True
    checkpoint_steps: int = 0
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        from_one(self, "every_steps", "keep_checkpoints")
        require(self.line_seconds >= 0, "line_seconds", self.line_seconds, "0 or more")
        require(self.checkpoint_steps >= 0, "checkpoint_steps", self.checkpoint_steps, "0 or more")


@dataclass(frozen=True)
class Precision:
    """``[precision]``: how the network is computed.

    Args:
        device: ``"auto"`` (CUDA where there is one), ``"cpu"`` or ``"cuda"``.
        autocast: ``"bf16"``, or ``"none"`` for float32 throughout.
        frozen: How the modules of ``optim.frozen`` compute: ``"float32"``, or ``"bf16"`` with
            BatchNorm within convolutions, which is far faster on CPUs.
        compile: Use ``torch.compile``.
        threads: CPU threads of each process; 0 leaves the choice to PyTorch.
        deterministic: On a GPU, allow only operations that give the same bits every time.
    """

    device: str = "auto"
    autocast: str = "none"
    frozen: str = "float32"
    compile: bool = False
    threads: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        one_of(self, "device", "auto", "cpu", "cuda")
        one_of(self, "autocast", "none", "bf16")
        one_of(self, "frozen", "float32", "bf16")
        require(0 <= self.threads <= 1024, "threads", self.threads, "0 to 1024")
