"""Recipes of pretraining: TOML files in ``training/recipes``, read strictly.

Everything that decides the weights of a run is in its recipe.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccl_hub._util.checks import require
from ccl_hub.config import Architecture, CCLConfig, Preprocessing, parse_dataclass
from ccl_hub.errors import ConfigError

from ..objective import Objective
from .augmentation import Augment
from .edits import Edits
from .sections import (
    Budget,
    Data,
    Ema,
    Log,
    Optim,
    PlainRecipe,
    Precision,
    Schedule,
    Stage,
    Teacher,
    Validation,
    one_of,
)
from .toml import RECIPES_FOLDER, read_values

logger = logging.getLogger(__name__)

# A resumed run may change these keys, as the weights do not depend on them, except by rounding:
# another device or number of threads adds in another order.
FREE_KEYS = (
    "name",
    "description",
    "log.",
    "validation.",
    "data.workers",
    "data.cache",
    "data.pack",
    "data.folder",
    "budget.max_seconds",
    "precision.device",
    "precision.threads",
    "precision.compile",
)


@dataclass(frozen=True)
class Recipe(PlainRecipe):
    """A whole recipe; each field stands in the TOML file.

    ``seed`` decides the initial weights and every random draw. ``temporal_init`` is how conv6
    starts (the paper is silent): ``"random"``; ``"identity"``, by which video features start as
    the mean of frame features and share their space; or ``"calibrated"``, identity with a
    BatchNorm set by a first batch so that this holds in training mode too. ``start`` is what the
    trunk starts from: nothing; ``"efficientnet_lite0"``, its published weights; or the folder of a
    model of this architecture, which then starts whole. ``features_weight`` is the weight of the
    same objective on the 512-d features themselves (ours; the paper compares projections alone).

    A recipe file trains with ``preprocessing.frame_choice`` ``"on_screen"`` unless it says
    otherwise; a run that is resumed keeps the choice that it began with (:func:`as_begun`).
    """

    name: str
    description: str = ""
    seed: int = 0
    temporal_init: str = "random"
    start: str = ""
    features_weight: float = 0.0
    model: Architecture = field(default_factory=Architecture)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    edits: Edits = field(default_factory=Edits)
    teacher: Teacher = field(default_factory=Teacher)
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    stages: tuple[Stage, ...] = ()
    budget: Budget = field(default_factory=Budget)
    ema: Ema = field(default_factory=Ema)
    validation: Validation = field(default_factory=Validation)
    log: Log = field(default_factory=Log)
    precision: Precision = field(default_factory=Precision)

    def __post_init__(self) -> None:
        one_of(self, "temporal_init", "random", "identity", "calibrated")
        weight = self.features_weight
        require(0 <= weight <= 100, "features_weight", weight, "0 to 100")
        ends = [stage.until for stage in self.stages]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise ConfigError(f"stages end at {ends}; allowed: rising, the last at 1.")

    @property
    def model_config(self) -> CCLConfig:
        """Architecture and preprocessing of the model this recipe trains."""
        return CCLConfig(self.model, self.preprocessing)

    def crop_px(self, progress: float) -> int:
        """Return the crop side at ``progress``, the share of the run that is done, in [0, 1]."""
        for stage in self.stages:
            if progress < stage.until:
                return stage.crop_px
        return self.stages[-1].crop_px if self.stages else self.augment.crop_px


def read_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: A TOML file, or the name of one in ``training/recipes``.
        changes: ``section.key=value`` texts, applied in order.

    Raises:
        ConfigError: The recipe is missing, or has unknown keys, wrong types or values that are
            not allowed.
    """
    values, path = read_values(name_or_path, changes, RECIPES_FOLDER)
    section = values.setdefault("preprocessing", {})
    if isinstance(section, dict):
        section.setdefault("frame_choice", "on_screen")
    return parse_dataclass(Recipe, values, path)


def frame_choice_of(values: Mapping[str, Any]) -> str:
    """Return ``preprocessing.frame_choice`` of a run; older runs leave it out.

    Args:
        values: Its recipe, as a checkpoint or ``recipe.json`` has it.
    """
    return str(values.get("preprocessing", {}).get("frame_choice", "nearest"))


def as_begun(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe to go on with a run by, with the run's ``preprocessing.frame_choice``.

    A run keeps the rule that it began with, as many runs are older than the default of recipes.

    Args:
        recipe: As it is read now.
        values: The recipe of the run, as its checkpoint has it.
    """
    now, begun = recipe.preprocessing.frame_choice, frame_choice_of(values)
    if now == begun:
        return recipe
    logger.warning("goes on with preprocessing.frame_choice %r, as it began, not %r", begun, now)
    kept = dataclasses.replace(recipe.preprocessing, frame_choice=begun)
    return dataclasses.replace(recipe, preprocessing=kept)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the keys in which two recipes differ, but for those that leave the weights as they are.

    Args:
        old: From :meth:`Recipe.to_dict`.
        new: From :meth:`Recipe.to_dict`.

    Returns:
        Texts such as ``optim.lr (0.03 there, 0.01 here)``, sorted by key.
    """
    usual = _flatten(Recipe("").to_dict())  # what a key meant before it was there
    flat_old, flat_new = usual | _flatten(old), usual | _flatten(new)
    texts = []
    for key in sorted(flat_old.keys() | flat_new.keys()):
        before, now = flat_old.get(key), flat_new.get(key)
        if before != now and not key.startswith(FREE_KEYS):
            texts.append(f"{key} ({before!r} there, {now!r} here)")
    return texts


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
