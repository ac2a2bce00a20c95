"""What a checkpoint is: its architecture, its preprocessing and where it came from.

All three travel as one ``config.json`` beside the weights. Reading is strict: an unknown key, a
missing key or a wrong type is an error, never a guess, because a silently ignored setting changes
every embedding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ._util.checks import require
from .errors import ConfigError

__all__ = [
    "FRAME_CHOICES",
    "SCHEMA_VERSION",
    "Architecture",
    "CCLConfig",
    "Preprocessing",
    "Provenance",
]

SCHEMA_VERSION = 1

FRAME_CHOICES = {
    "nearest": "the nearest in time",
    "on_screen": "the one that a player shows then",
}
"""``Preprocessing.frame_choice`` in words; :mod:`ccl_hub.frame_choice` has the rules."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrunkShape:
    """What a trunk is like to what uses it.

    Args:
        channels: Output channels of its stages; the last is the dimension D of embeddings.
        blocks: Blocks in each stage that has any.
        stride: Side of a frame over the side of its feature map.
        smallest_side_px: Smallest height and width of a frame.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    stride: int
    smallest_side_px: int = 32


TRUNK_SHAPES = {
    # res2..res5 of ResNet-18 without max-pool (paper, Table 1); conv1 has the first's channels.
    "resnet18": TrunkShape((64, 128, 256, 512), (2, 2, 2, 2), stride=16),
    # Seven stages, the 1x1 convolution after them, and the features; the stem has twice the first.
    "efficientnet_lite0": TrunkShape(
        (16, 24, 40, 80, 112, 192, 320, 1280, 512),
        (1, 2, 2, 3, 3, 4, 1),
        stride=32,
        smallest_side_px=64,
    ),
}
"""The trunks by name; :mod:`ccl_hub.network.architecture` has their modules."""

OUTPUTS = ("pooled", "whitened")


@dataclass(frozen=True)
class Architecture:
    """The network: trunk (paper, Table 1), conv6, projection head (paper, Sections 3.1 and 4.1).

    Args:
        stage_channels: Output channels of the trunk's stages, see :data:`TRUNK_SHAPES`; the
            trunk's own if empty.
        stage_blocks: Blocks in each stage that has any; the trunk's own if empty.
        projection_hidden: Hidden width of the projection; 256 is inferred from the paper's 12.1 M.
        projection_dim: Dimension of the space in which the loss acts (paper: 128).
        projection_norm: BatchNorm after the hidden layer of the projection (paper: none).
        projection_shared: One projection for frames and videos (paper) or one each.
        trunk: ``"resnet18"`` (paper) or ``"efficientnet_lite0"``.
        output: What a vector is: ``"pooled"``, the mean over space (and time) alone (paper), or
            ``"whitened"``, that through a linear map fitted to the training corpus.
    """

    stage_channels: tuple[int, ...] = ()
    stage_blocks: tuple[int, ...] = ()
    projection_hidden: int = 256
    projection_dim: int = 128
    projection_norm: bool = False
    projection_shared: bool = True
    trunk: str = "resnet18"
    output: str = "pooled"

    def __post_init__(self) -> None:
        for name, allowed in (("trunk", TRUNK_SHAPES), ("output", OUTPUTS)):
            value = getattr(self, name)
            require(value in allowed, name, value, " or ".join(map(repr, allowed)))
        shape = self.trunk_shape
        for name, usual, what in (
            ("stage_channels", shape.channels, "widths"),
            ("stage_blocks", shape.blocks, "depths"),
        ):
            value = getattr(self, name) or usual
            require(len(value) == len(usual), name, value, f"{len(usual)} {what}")
            require(all(n >= 1 for n in value), name, value, "whole numbers >= 1")
            object.__setattr__(self, name, value)
        for name in ("projection_hidden", "projection_dim"):
            value = getattr(self, name)
            require(value >= 1, name, value, "a whole number >= 1")

    @property
    def trunk_shape(self) -> TrunkShape:
        """The trunk's usual widths and depths, its stride and its smallest frame."""
        return TRUNK_SHAPES[self.trunk]

    def identity(self) -> dict[str, Any]:
        """Return what hashes are made of; see :meth:`Preprocessing.identity`."""
        values = dataclasses.asdict(self)
        for name, before in (("trunk", "resnet18"), ("output", "pooled")):
            if values[name] == before:
                del values[name]
        return values

    @property
    def feature_dim(self) -> int:
        """Dimension D of frame and video embeddings (512 for every published checkpoint)."""
        return self.stage_channels[-1]


def without_later_fields(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a preprocessing without those that mean what was done before they were."""
    before = {"frame_choice": "nearest", "bars": "keep", "key_frames_only": False}
    return {name: value for name, value in preprocessing.items() if before.get(name, ()) != value}


@dataclass(frozen=True)
class Preprocessing:
    """How raw video becomes the network's input (paper, Section 4.1).

    Args:
        clip_frames: Frames T in a clip (paper: L = 8).
        frame_interval_seconds: Time between neighbouring frames of a clip; 0.16 s is the paper's
            stride of 4 frames (M = 32, L = 8) at 25 frames per second.
        resize: ``"stretch"`` makes every frame ``resize_height_px`` x ``resize_width_px`` as the
            paper does; ``"short_side"`` keeps the aspect ratio and makes the shorter side
            ``resize_height_px``.
        resize_height_px: Height after the resize, or the short side (paper: 128).
        resize_width_px: Width after the resize; unused by ``"short_side"`` (paper: 171).
        crop_px: Side of the square crop; in the centre at inference (paper: 112).
        mean: Per-channel mean of RGB in [0, 1], subtracted.
        std: Per-channel standard deviation of RGB in [0, 1], divided by.
        frame_choice: Which frame an instant takes. ``"on_screen"``: the one that a player shows
            then, the last whose time has come, as in every checkpoint trained from now on.
            ``"nearest"``: the nearest in time, even one yet to come, as in every checkpoint whose
            ``config.json`` says nothing, so that its embeddings stay as they were.
        bars: ``"keep"`` black bars beside the picture, as every checkpoint is trained, or
            ``"cut"`` them off first, so that a copy with bars is as one without
            (:mod:`ccl_hub.video.bars`).
        key_frames_only: Take key frames of files alone, which is much faster to decode.
    """

    clip_frames: int = 8
    frame_interval_seconds: float = 0.16
    resize: str = "stretch"
    resize_height_px: int = 128
    resize_width_px: int = 171
    crop_px: int = 112
    mean: tuple[float, ...] = (0.43216, 0.394666, 0.37645)
    std: tuple[float, ...] = (0.22803, 0.22145, 0.216989)
    frame_choice: str = "nearest"
    bars: str = "keep"
    key_frames_only: bool = False

    def __post_init__(self) -> None:
        sides = (self.resize_height_px, self.resize_width_px)
        smallest = sides[0] if self.resize == "short_side" else min(sides)
        interval, choices = self.frame_interval_seconds, tuple(FRAME_CHOICES)
        for name, ok, allowed in (
            ("clip_frames", self.clip_frames >= 1, "a whole number >= 1"),
            ("frame_interval_seconds", 0 < interval <= 3600, "more than 0 and at most 3600"),
            ("resize", self.resize in ("stretch", "short_side"), "'stretch' or 'short_side'"),
            ("crop_px", 32 <= self.crop_px <= smallest, f"32 to {smallest} (the resized side)"),
            ("frame_choice", self.frame_choice in choices, " or ".join(map(repr, choices))),
            ("bars", self.bars in ("keep", "cut"), "'keep' or 'cut'"),
        ):
            require(ok, name, getattr(self, name), allowed)
        for name in ("mean", "std"):
            value = getattr(self, name)
            require(len(value) == 3, name, value, "3 numbers, one for each of R, G, B")
            require(all(map(math.isfinite, value)), name, value, "finite numbers")
        require(all(s > 0 for s in self.std), "std", self.std, "3 numbers above 0")

    @property
    def clip_seconds(self) -> float:
        """Length of the time span a clip covers: ``clip_frames`` segments (1.28 s by default)."""
        return self.clip_frames * self.frame_interval_seconds

    def identity(self) -> dict[str, Any]:
        """Return what hashes are made of.

        A field younger than the first hashes is left out where its value means what was done
        before it existed, so that old hashes stay valid.
        """
        values = dataclasses.asdict(self)
        return without_later_fields(values)


@dataclass(frozen=True)
class Provenance:
    """Where a checkpoint came from; informative, never used to compute an embedding.

    Args:
        name: Registry name, or "" for an unnamed model.
        trained_on: Data set in one line.
        details: Whatever the exporter recorded: recipe, manifest hash, commit, metrics.
    """

    name: str = ""
    trained_on: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CCLConfig:
    """Everything needed to rebuild a model and to feed it as in training.

    Example:
        >>> config = CCLConfig()
        >>> CCLConfig.from_json(config.to_json()) == config
        True
    """

    architecture: Architecture = field(default_factory=Architecture)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: Provenance = field(default_factory=Provenance)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-ready values with the schema version."""
        return {
            "model_type": "ccl",
            "schema_version": SCHEMA_VERSION,
            **dataclasses.asdict(self),
        }

    def to_json(self) -> str:
        """Return the text of ``config.json``, indented and ending in a newline."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> CCLConfig:
        """Rebuild from :meth:`to_dict`.

        Args:
            values: The mapping, as read from JSON.
            where: What errors name: the file.

        Raises:
            ConfigError: On an unknown or missing key, a wrong type, or a newer schema.
        """
        rest = dict(values)
        kind, version = rest.pop("model_type", None), rest.pop("schema_version", None)
        if kind != "ccl":
            raise ConfigError(f"{where}: model_type is {kind!r}, expected 'ccl'; not a CCL model.")
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{where}: schema_version is {version!r}, this version of ccl_hub reads "
                f"{SCHEMA_VERSION}; upgrade with 'pip install --upgrade ccl-hub'."
            )
        return parse_dataclass(cls, rest, where)

    @classmethod
    def from_json(cls, text: str, where: str = "config.json") -> CCLConfig:
        """Rebuild from the text of ``config.json``; see :meth:`from_dict`."""
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{where}: not JSON ({error}); fetch or export it again.") from error
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise ConfigError(f"{where}: holds a JSON {kind}, expected an object.")
        return cls.from_dict(values, where)

    @classmethod
    def from_file(cls, path: str | Path) -> CCLConfig:
        """Read ``config.json`` at ``path``; see :meth:`from_dict`."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text ({error}); fetch it again.") from error
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror or error}); check the permissions."
            ) from error
        return cls.from_json(text, str(path))

    def fingerprint(self) -> str:
        """Return a 16-digit hash of what decides an embedding: architecture and preprocessing."""
        values = self.to_dict()
        del values["provenance"], values["schema_version"]
        values["architecture"] = self.architecture.identity()
        values["preprocessing"] = self.preprocessing.identity()
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_dataclass(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a (nested) frozen dataclass from plain JSON or TOML values, strictly.

    Args:
        kind: The dataclass to build; its fields may be dataclasses, str, bool, int, float, dict,
            optional values, or tuples of these.
        values: A mapping with exactly known keys; fields with defaults may be left out.
        where: What errors name, such as a file.

    Raises:
        ConfigError: On an unknown or missing key or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {unknown[0]!r}; allowed are {', '.join(sorted(fields))}."
        )
    hints = typing.get_type_hints(kind)
    parsed: dict[str, Any] = {}
    for name, spec in fields.items():
        if name in values:
            parsed[name] = _parse(hints[name], values[name], f"{where}: {name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: {name} is missing; add it.")
    try:
        return kind(**parsed)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _parse(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotated type ``hint``, or raise ConfigError."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) or origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}, expected a table of keys.")
        if origin is dict:
            return dict(value)
        return parse_dataclass(typing.cast("type[Any]", hint), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}, expected a list.")
        item = typing.get_args(hint)[0]
        return tuple(_parse(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (inner,) = [a for a in typing.get_args(hint) if a is not type(None)]
        return _parse(inner, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {hint.__name__}.")
    return value
