"""Training recipes: TOML files read strictly into frozen dataclasses.

Everything that decides the weights of a run stands in its recipe. ``--set section.key=value``
changes one value; a value is read as TOML, and as plain text where it is not TOML.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccl_hub.config import Architecture, CCLConfig, Preprocessing, parse_dataclass
from ccl_hub.errors import ConfigError

from ..clips.augment import Augment
from ..objective import Objective
from .sections import (
    Budget,
    Data,
    Ema,
    Log,
    Optim,
    Precision,
    Schedule,
    Stage,
    Validation,
    require,
)

__all__ = [
    "Budget",
    "Data",
    "Ema",
    "Log",
    "Optim",
    "Precision",
    "Recipe",
    "Schedule",
    "Stage",
    "Validation",
    "add_change_argument",
    "apply_changes",
    "as_begun",
    "differing_keys",
    "frame_choice_of",
    "read_recipe",
    "read_values",
    "recipe_from_dict",
]

logger = logging.getLogger(__name__)

RECIPES_FOLDER = Path(__file__).parent

# Keys that do not decide the weights (but for rounding: another device or number of threads adds
# in another order), so that a resumed run may change them.
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
class Recipe:
    """A whole recipe; each field is a section of the TOML file.

    ``seed`` decides the initial weights and every random draw. ``temporal_init`` is how conv6
    starts (the paper is silent): ``"random"``; ``"identity"``, by which video features start as
    the mean of frame features and share their space; or ``"calibrated"``, identity with a
    BatchNorm set by a first batch so that this holds in training mode too.

    A recipe file that does not choose trains with ``preprocessing.frame_choice`` ``"on_screen"``;
    a run that is resumed keeps the choice that it began with (:func:`as_begun`).
    """

    name: str
    description: str = ""
    seed: int = 0
    temporal_init: str = "random"
    model: Architecture = field(default_factory=Architecture)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
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
        require(
            self.temporal_init in ("random", "identity", "calibrated"),
            "temporal_init",
            self.temporal_init,
            "'random', 'identity' or 'calibrated'",
        )
        ends = [stage.until for stage in self.stages]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise ConfigError(f"stages end at {ends}; allowed: rising, the last at 1.")

    @property
    def model_config(self) -> CCLConfig:
        """Architecture and preprocessing of the model this recipe trains."""
        return CCLConfig(self.model, self.preprocessing)

    def crop_px(self, progress: float) -> int:
        """Return the crop side at a share of the run in [0, 1]."""
        for stage in self.stages:
            if progress < stage.until:
                return stage.crop_px
        return self.stages[-1].crop_px if self.stages else self.augment.crop_px

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values with every default filled in."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def read_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: A TOML file, or the name of one in ``training/recipes``.
        changes: ``section.key=value`` texts, applied in order.

    Raises:
        ConfigError: No such recipe, unknown keys, wrong types, values that are not allowed.
    """
    values, where = read_values(name_or_path, changes, RECIPES_FOLDER)
    section = values.setdefault("preprocessing", {})
    if isinstance(section, dict):
        section.setdefault("frame_choice", "on_screen")
    return recipe_from_dict(values, where)


def read_values(
    name_or_path: str | Path, changes: Sequence[str], folder: Path
) -> tuple[dict[str, Any], str]:
    """Read the plain values of a recipe of any kind.

    Args:
        name_or_path: A TOML file, or the name of one in ``folder``.
        changes: ``section.key=value`` texts, applied in order.
        folder: Where recipes of that kind are.

    Returns:
        Sections and keys, with a name; and the file, for errors.

    Raises:
        ConfigError: No such recipe, not TOML, or a change that names no key.
    """
    path = Path(name_or_path)
    if not path.is_file():
        known = {p.stem: p for p in sorted(folder.glob("*.toml"))}
        if str(name_or_path) not in known:
            raise ConfigError(
                f"{name_or_path}: no such recipe; give a TOML file or one of {', '.join(known)}."
            )
        path = known[str(name_or_path)]
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error}); correct the file.") from error
    apply_changes(values, changes)
    return {"name": path.stem, **values}, str(path)


def recipe_from_dict(values: Mapping[str, Any], where: str) -> Recipe:
    """Build a recipe from plain values, as TOML or :meth:`Recipe.to_dict` give them.

    Args:
        values: Sections and keys.
        where: File named in errors.

    Raises:
        ConfigError: As :func:`read_recipe`.
    """
    return parse_dataclass(Recipe, values, where)


def frame_choice_of(values: Mapping[str, Any]) -> str:
    """Return ``preprocessing.frame_choice`` of a run, which older ones do not state.

    Args:
        values: Its recipe, as a checkpoint or ``recipe.json`` has it.
    """
    return str(values.get("preprocessing", {}).get("frame_choice", "nearest"))


def as_begun(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe for going on with a run, with the run's ``preprocessing.frame_choice``.

    A run keeps the rule that it began with: the recipe's own default came later than many runs.

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


def apply_changes(values: dict[str, Any], changes: Sequence[str]) -> None:
    """Apply ``section.key=value`` texts in order, in place.

    Raises:
        ConfigError: One has no ``=``, or its section is none.
    """
    for change in changes:
        _apply(values, change)


def add_change_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, whose texts are the ``changes`` of :func:`read_recipe`."""
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one value of the recipe, such as optim.lr=0.03; may be repeated",
    )


def _apply(values: dict[str, Any], change: str) -> None:
    """Apply one ``section.key=value`` in place."""
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {change}: expected section.key=value, such as optim.lr=0.03.")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.strip().split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {change}: {section} is not a section.")
    table[key] = value


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the keys in which two recipes differ, leaving out those that do not decide weights.

    Args:
        old: From :meth:`Recipe.to_dict`.
        new: From :meth:`Recipe.to_dict`.

    Returns:
        Texts such as ``optim.lr (0.03 there, 0.01 here)``, sorted by key.
    """
    flat_old, flat_new = _flatten(old), _flatten(new)
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
