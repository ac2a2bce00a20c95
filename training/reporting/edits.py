"""A contact sheet: what each edit of a training makes of a few pictures, to look at."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields

import numpy as np
import torch

from ccl_hub.errors import ConfigError

from ..clips.edits import edited
from ..frames.packed import FrameSource
from ..recipes.edits import Edits
from .gallery import Thumbnail, thumbnail_of

SIDE_PX = 112
AMOUNTS = ("_area", "_degrees", "_share", "_px", "_quality")


@dataclass(frozen=True)
class EditRow:
    """One edit; ``views`` are the pictures that it made, in the order of the videos."""

    name: str
    views: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class EditSheet:
    """What was done to frames of which videos."""

    text: str
    rows: tuple[EditRow, ...]


def edit_sheet(source: FrameSource, videos: int, config: Edits, seed: int = 0) -> EditSheet:
    """Draw a frame of a few videos and make each edit of it, alone, then all as in training.

    Args:
        source: The videos.
        videos: How many of them.
        config: Strengths, and how often each edit is made in the last rows.
        seed: Of the draw.

    Raises:
        ConfigError: There are no videos to draw from.
        TrainingError: A frame is damaged.
    """
    if not 1 <= videos <= len(source):
        raise ConfigError(f"--edit-videos is {videos}; allowed: 1 to {len(source)}.")
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(source))[:videos]
    frames = [source.read(v, draw.integers(source.frames_of(v), size=1)) for v in chosen]
    names = [source.names[video] for video in chosen]

    def row(title: str, edits: Edits, first_seed: int) -> EditRow:
        views = []
        for i, frame in enumerate(frames):
            other = frames[(i + 1) % videos]  # for the picture in picture
            clips = [squashed(one) for one in (frame, other)]
            seeds = (first_seed + i, first_seed + i + videos)
            picture = edited(torch.stack(clips), edits, seeds, SIDE_PX)[0, 0]  # (3,S,S)
            pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
            views.append(thumbnail_of(pixels[None], f"{names[i]}: {title}", names[i]))
        return EditRow(title, tuple(views))

    kinds = [field.name for field in fields(Edits) if not field.name.endswith(AMOUNTS)]
    off = dataclasses.replace(config, **dict.fromkeys(kinds, 0.0))
    rows = [row("as it is", off, 0)]
    for i, kind in enumerate(kinds):
        alone = dataclasses.replace(off, **{kind: 1.0})
        rows.append(row(kind.replace("_", " "), alone, 1000 * (i + 1)))
    rows += [row(f"as in training, {n}", config, 100_000 * n) for n in (1, 2, 3)]
    count = f"{videos} of {len(source)} videos, drawn by chance (seed {seed})"
    return EditSheet(f"{count}; every edit alone, then several as in training.", tuple(rows))


def squashed(frames: np.ndarray) -> torch.Tensor:
    """Return (T, h, w, 3) uint8 frames as (T, S, S, 3): those of a batch have one size."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    size = (SIDE_PX, SIDE_PX)
    small = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
    return small.permute(0, 2, 3, 1)
