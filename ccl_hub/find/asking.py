"""What a library may be asked for: a file, an array, a PIL image, or embeddings, as vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from ..embed.embeddings import Embeddings
from ..embed.in_memory import ImageLike, embed_frames, embed_image
from ..embed.stream import embed_if_short, embed_video
from ..errors import InputError
from .engine import LibraryEngine, Look
from .matching.match import Query
from .space import Space

if TYPE_CHECKING:
    from ..backends.engine import Engine
    from ..embed.stream import Progress

Asked: TypeAlias = "ImageLike | Embeddings"

SHORT_SECONDS = 60.0
"""Queries up to this length are looked at twice as densely, to find their place."""


@dataclass(frozen=True)
class Question:
    """A query in the space of a library.

    Args:
        name: The file, or words for what is no file.
        ways: The query as it is and, if it was seen both ways, mirrored.
        look: Its frames and clips in vectors of the network.
        clips: (W, D) unit vectors of its clips.
    """

    name: str
    ways: tuple[Query, ...]
    look: Look
    clips: np.ndarray


def question_of(
    asked: Asked,
    engine: Engine | None,
    space: Space,
    frame_seconds: float,
    seconds: np.ndarray | None = None,
    progress: Progress | None = None,
) -> Question:
    """Look at what is asked for.

    Args:
        asked: See :meth:`ccl_hub.find.library.Library.where`.
        engine: Computes frames; not needed for embeddings.
        space: The space of the library.
        frame_seconds: Time between the frames of the library.
        seconds: (N,) times, if ``asked`` is an array of N frames.
        progress: See :func:`ccl_hub.embed.embed_video`.

    Raises:
        InputError: It is none of the kinds that are allowed.
        MediaError: The file cannot be read.
    """
    both_ways = not isinstance(asked, Embeddings)
    if isinstance(asked, Embeddings):
        name, embeddings = asked.provenance.source or "embeddings", asked
    else:
        if engine is None:
            raise InputError("to ask for pixels, a library needs its model.")
        name = str(asked) if isinstance(asked, str | Path) else "pixels"
        embeddings = _embedded(asked, engine, frame_seconds, seconds, progress)
    look = Look.of(embeddings)
    dim = look.clips.shape[1]
    ways = [look.frames[:, :dim]]
    if both_ways:
        ways.append(look.frames[:, dim:])
    queries = tuple(
        Query(look.seconds, space.frames(vectors), look.duration_seconds) for vectors in ways
    )
    look = replace(look, frames=look.frames[:, :dim])
    return Question(name, queries, look, space.clips(look.clips))


def _embedded(
    asked: ImageLike,
    engine: Engine,
    frame_seconds: float,
    seconds: np.ndarray | None,
    progress: Progress | None,
) -> Embeddings:
    """Embed a query and its mirror image, densely if it is short."""
    usual, dense = (
        LibraryEngine(engine, step, both_ways=True) for step in (frame_seconds, frame_seconds / 2)
    )

    def every(engine: LibraryEngine) -> float:
        return engine.model.preprocessing.clip_seconds

    if isinstance(asked, str | Path):
        short = embed_if_short(
            dense, asked, SHORT_SECONDS, every_seconds=every(dense), progress=progress
        )
        if short is not None:
            return short
        return embed_video(usual, asked, every_seconds=every(usual), progress=progress)
    if getattr(asked, "ndim", 0) == 4:  # an array, or a tensor
        frames = cast("np.ndarray", asked)
        count = len(frames)
        times = np.arange(count) * frame_seconds if seconds is None else np.asarray(seconds)
        is_short = times.shape == (count,) and count > 0 and times[-1] - times[0] <= SHORT_SECONDS
        both = dense if is_short else usual
        return embed_frames(both, frames, times, every_seconds=every(both))
    return embed_image(usual, asked)
