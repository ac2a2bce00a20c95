"""Recipes of fine-tuning: TOML files in ``recipes/finetune``, read strictly.

The sections that training with and without labels share are those of
:mod:`training.recipes.sections` and :mod:`training.clips.augment`; the others are here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccl_hub.config import Preprocessing, parse_dataclass
from ccl_hub.errors import ConfigError

from ..clips.augment import Augment
from .pretraining import RECIPES_FOLDER, read_values
from .sections import Budget, Log, Optim, Precision, Schedule, require

__all__ = [
    "ClipSize",
    "Evaluation",
    "FinetuneRecipe",
    "LabelledData",
    "Network",
    "finetune_recipe_from_dict",
    "read_finetune_recipe",
]

FINETUNE_RECIPES = RECIPES_FOLDER / "finetune"
PRETRAINING_KEYS = ("objective", "model", "validation", "stages", "ema")


@dataclass(frozen=True)
class LabelledData:
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
        require(
            self.cache in ("none", "ram", "gpu"), "cache", self.cache, "'none', 'ram' or 'gpu'"
        )
        good = len(self.resident_size_px) in (0, 2) and all(n >= 16 for n in self.resident_size_px)
        allowed = "height and width of at least 16, or left out"
        require(good, "resident_size_px", self.resident_size_px, allowed)
        if self.resident_size_px and self.cache == "none":
            raise ConfigError(
                f"resident_size_px is {list(self.resident_size_px)} but cache is 'none', so it "
                "would have no effect; set cache to 'ram' or 'gpu', or leave the size out."
            )
        require(0 <= self.workers <= 256, "workers", self.workers, "0 to 256")

    @property
    def views(self) -> int:
        """Clips per video and step."""
        return 1


@dataclass(frozen=True)
class ClipSize:
    """``[clip]``: size of the clips, in training and test alike.

    Args:
        crop_px: Side to which crops are shrunk; 0: the crop of the model's preprocessing.
    """

    crop_px: int = 0

    def __post_init__(self) -> None:
        ok = self.crop_px == 0 or 32 <= self.crop_px <= 512
        require(ok, "crop_px", self.crop_px, "32 to 512, or 0 for that of the model")


@dataclass(frozen=True)
class Network:
    """``[network]``: what is trained.

    Args:
        freeze_batchnorm: Keep the statistics of every BatchNorm as they came (its scale and shift
            are trained); then nothing depends on the number of processes.
    """

    freeze_batchnorm: bool = False


@dataclass(frozen=True)
class Evaluation:
    """``[test]``: uniform centre-crop clips, softmax averaged over each video (Section 4.1).

    Args:
        clips: Clips per video (paper: 10).
        batch_clips: Clips computed at once, about.
        metric: ``"accuracy"`` (Table 4) or ``"f-measure"`` (Table 6).
        average: Of the F-measure: ``"macro"``, the mean over classes, or ``"micro"``.
        every_epochs: Also test after so many epochs; 0: at the end alone. The figures reported
            are always those of the last epoch: nothing is chosen by them.
    """

    clips: int = 10
    batch_clips: int = 16
    metric: str = "accuracy"
    average: str = "macro"
    every_epochs: int = 0

    def __post_init__(self) -> None:
        for name in ("clips", "batch_clips"):
            value = getattr(self, name)
            require(value >= 1, name, value, "a whole number >= 1")
        known = ("accuracy", "f-measure")
        require(self.metric in known, "metric", self.metric, "'accuracy' or 'f-measure'")
        require(self.average in ("macro", "micro"), "average", self.average, "'macro' or 'micro'")
        require(self.every_epochs >= 0, "every_epochs", self.every_epochs, "0 or more")


@dataclass(frozen=True)
class FinetuneRecipe:
    """A whole recipe; each field but the last is a section of the TOML file.

    ``seed`` decides the weights of the new FC layer and every random draw. ``preprocessing`` is
    that of the model that is fine-tuned, and filled in from it.
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
                "give clip.crop_px, which holds in the test too."
            )

    @property
    def crop_px(self) -> int:
        """Side of the clips that the network sees."""
        return self.clip.crop_px or self.preprocessing.crop_px

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with every default filled in."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def read_finetune_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> FinetuneRecipe:
    """Read a recipe.

    Args:
        name_or_path: A TOML file, or the name of one in ``training/recipes/finetune``.
        changes: ``section.key=value`` texts, applied in order.

    Raises:
        ConfigError: No such recipe, one of pretraining, unknown keys, wrong types, values that
            are not allowed.
    """
    values, where = read_values(name_or_path, changes, FINETUNE_RECIPES)
    for key in PRETRAINING_KEYS:
        if key in values:
            known = ", ".join(sorted(path.stem for path in FINETUNE_RECIPES.glob("*.toml")))
            raise ConfigError(
                f"{where}: {key!r} belongs to a recipe of pretraining; give one of fine-tuning, "
                f"such as {known}."
            )
    if "preprocessing" in values:
        raise ConfigError(
            f"{where}: preprocessing is that of the model; leave it out (clip.crop_px shrinks "
            "the clips)."
        )
    return finetune_recipe_from_dict(values, where)


def finetune_recipe_from_dict(values: Mapping[str, Any], where: str) -> FinetuneRecipe:
    """Build a recipe from plain values, as :meth:`FinetuneRecipe.to_dict` gives them.

    Raises:
        ConfigError: As :func:`read_finetune_recipe`.
    """
    return parse_dataclass(FinetuneRecipe, values, where)
