"""Recipes of fine-tuning: TOML files in ``recipes/finetune``, read strictly.

:mod:`training.recipes.sections` and :mod:`training.recipes.augmentation` have the sections that
training with and without labels share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ccl_hub._util.checks import require
from ccl_hub.config import Preprocessing, parse_dataclass
from ccl_hub.errors import ConfigError

from .augmentation import Augment
from .sections import (
    Budget,
    Log,
    Optim,
    PlainRecipe,
    Precision,
    Reading,
    Schedule,
    from_one,
    one_of,
)
from .toml import RECIPES_FOLDER, read_values

FINETUNE_RECIPES = RECIPES_FOLDER / "finetune"
PRETRAINING_KEYS = ("objective", "model", "validation", "stages", "ema")


@dataclass(frozen=True)
class LabelledData(Reading):
    """``[data]``: how the labelled set of ``--data`` is read.

    Args:
        test_share: Share of test videos where the data come without splits.
        cache: As in pretraining: ``"none"``, ``"ram"`` or ``"gpu"``; for the train split.
        resident_size_px: As in pretraining.
        workers: Threads that read ahead, in training and test.
    """

    test_share: float = 0.3
    cache: str = "none"
    resident_size_px: tuple[int, ...] = ()
    workers: int = 2

    def __post_init__(self) -> None:
        require(0 < self.test_share < 1, "test_share", self.test_share, "between 0 and 1")
        self.check_reading()

    @property
    def views(self) -> int:
        """Clips per video and step."""
        return 1

    @property
    def clip_frames(self) -> int:
        """Those of the preprocessing."""
        return 0


@dataclass(frozen=True)
class ClipSize:
    """``[clip]``: size of the clips, in training and test alike.

    Args:
        crop_px: Side to which crops are shrunk; 0: the crop of the model's preprocessing.
    """

    crop_px: int = 0

    def __post_init__(self) -> None:
        good = self.crop_px == 0 or 32 <= self.crop_px <= 512
        require(good, "crop_px", self.crop_px, "32 to 512, or 0 for that of the model")


@dataclass(frozen=True)
class Network:
    """``[network]``: what is trained.

    Args:
        freeze_batchnorm: Keep the statistics of every BatchNorm as the model has them, and train
            its scale and shift; the result is then the same for any number of processes.
    """

    freeze_batchnorm: bool = False


@dataclass(frozen=True)
class Evaluation:
    """``[test]``: uniform centre-crop clips, softmax averaged over each video (Section 4.1).

    Args:
        clips: Clips per video (paper: 10).
        batch_clips: About how many clips are computed at once: those of whole videos.
        metric: ``"accuracy"`` (Table 4) or ``"f-measure"`` (Table 6).
        average: Of the F-measure: ``"macro"``, the mean over classes, or ``"micro"``.
        every_epochs: Also test after so many epochs; 0: at the end alone. The reported figures
            are always those of the last epoch: no epoch is chosen by its figures.
    """

    clips: int = 10
    batch_clips: int = 16
    metric: str = "accuracy"
    average: str = "macro"
    every_epochs: int = 0

    def __post_init__(self) -> None:
        from_one(self, "clips", "batch_clips")
        one_of(self, "metric", "accuracy", "f-measure")
        one_of(self, "average", "macro", "micro")
        require(self.every_epochs >= 0, "every_epochs", self.every_epochs, "0 or more")


@dataclass(frozen=True)
class FinetuneRecipe(PlainRecipe):
    """A whole recipe; each field but the last stands in the TOML file.

    ``seed`` decides the weights of the new FC layer and every random draw. ``preprocessing`` is
    filled in from the model that is fine-tuned.
    """

    name: str
    description: str = ""
    seed: int = 0
    data: LabelledData = field(default_factory=LabelledData)
    augment: Augment = field(default_factory=Augment)
    clip: ClipSize = field(default_factory=ClipSize)
    network: Network = field(default_factory=Network)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    test: Evaluation = field(default_factory=Evaluation)
    budget: Budget = field(default_factory=Budget)
    log: Log = field(default_factory=Log)
    precision: Precision = field(default_factory=Precision)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        if self.augment.crop_px != Augment.crop_px:
            raise ConfigError(
                f"augment.crop_px is {self.augment.crop_px}, which has no effect here; "
                "give clip.crop_px, which is the size in the test too."
            )

    @property
    def crop_px(self) -> int:
        """Side of the clips that the network sees."""
        return self.clip.crop_px or self.preprocessing.crop_px


def read_finetune_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> FinetuneRecipe:
    """Read a recipe.

    Args:
        name_or_path: A TOML file, or the name of one in ``training/recipes/finetune``.
        changes: ``section.key=value`` texts, applied in order.

    Raises:
        ConfigError: The recipe is missing or of pretraining, or has unknown keys, wrong types or
            values that are not allowed.
    """
    values, path = read_values(name_or_path, changes, FINETUNE_RECIPES)
    for key in PRETRAINING_KEYS:
        if key in values:
            known = ", ".join(sorted(recipe.stem for recipe in FINETUNE_RECIPES.glob("*.toml")))
            raise ConfigError(
                f"{path}: {key!r} belongs to a recipe of pretraining; give one of fine-tuning, "
                f"such as {known}."
            )
    if "preprocessing" in values:
        raise ConfigError(
            f"{path}: preprocessing is that of the model; leave it out (clip.crop_px shrinks "
            "the clips)."
        )
    return parse_dataclass(FinetuneRecipe, values, path)
