"""What a library may be asked for: a file, an array, a PIL image, or embeddings, as vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from ..embed.embeddings import Embeddings
from ..embed.in_memory import embed_frames, embed_image
from ..embed.stream import embed_video
from ..errors import InputError
from .engine import LibraryEngine, Look
from .matching.match import Query
from .space import Space

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..backends.engine import Engine
    from ..embed.stream import Progress

Asked: TypeAlias = "str | Path | np.ndarray | Image | Embeddings"

SHORT_SECONDS = 60.0
"""Queries up to this length are seen twice as densely as the library, to find their place."""


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
    if isinstance(asked, Embeddings):
        look, both_ways = Look.of(asked), False
        name = asked.provenance.source or "embeddings"
    else:
        if engine is None:
            raise InputError("to ask for pixels, a library needs its model.")
        both_ways, name = True, "an array"
        both = LibraryEngine(engine, frame_seconds, both_ways=True)
        if isinstance(asked, str | Path):
            name = str(asked)
            embeddings = _of_file(both, Path(asked), progress)
        elif isinstance(asked, np.ndarray | torch.Tensor) and asked.ndim == 4:
            times = np.arange(len(asked)) * frame_seconds if seconds is None else seconds
            every = frame_seconds / 2
            embeddings = embed_frames(both, np.asarray(asked), times, every_seconds=every)
        else:
            embeddings = embed_image(both, asked)
            name = "a picture"
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


def _of_file(engine: LibraryEngine, path: Path, progress: Progress | None) -> Embeddings:
    """Embed a file: a short one densely, as its length is known only once it is open."""
    every = engine.model.preprocessing.frame_interval_seconds / 2
    from ..video.reader import VideoReader

    with VideoReader(path, resize=engine.model.preprocessing) as reader:
        if reader.info.duration_seconds > SHORT_SECONDS:
            every = engine.model.preprocessing.clip_seconds
    return embed_video(engine, path, every_seconds=every, progress=progress)
