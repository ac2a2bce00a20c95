"""How a library looks at videos: a frame every half second, without bars, flat frames left out.

A library is made by any model of this package, whose preprocessing is changed in three ways, so
that provenance and the settings of the batch job tell: frames lie ``frame_seconds`` apart, black
bars are cut off, and key frames may be taken alone. Clips follow each other without a gap, so each
frame goes through the network once and gives a frame vector and its share of a clip vector.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from ..network.frame_maps import ClipHead, FrameMaps
from ..network.stored import NetworkFacts, StoredNetwork
from ..sampling import Sampling

if TYPE_CHECKING:
    import torch

    from ..backends.engine import Engine, EngineInfo
    from ..config import Preprocessing
    from ..embed.embeddings import Embeddings
    from ..network.architecture import CCLNetwork
    from ..network.frame_maps import Array

FRAME_SECONDS = 0.5

FLAT_LEVELS, FLAT_SHARE = 10, 0.98
"""A frame is flat if so many of its pixels are so near its median in every channel."""

Vectors = npt.NDArray[np.float32]


class LibraryEngine:
    """An engine whose model looks at videos as a library does.

    Args:
        engine: Computes the frames.
        frame_seconds: Time between frames.
        key_frames_only: Take key frames alone.
        both_ways: Also embed each frame mirrored: vectors are then twice as long, those of the
            frame as it is in front. For queries.
    """

    def __init__(
        self,
        engine: Engine,
        frame_seconds: float = FRAME_SECONDS,
        key_frames_only: bool = False,
        both_ways: bool = False,
    ) -> None:
        self._engine, self._both_ways = engine, both_ways
        changed = replace(
            engine.model.preprocessing,
            frame_interval_seconds=frame_seconds,
            key_frames_only=key_frames_only,
            bars="cut",
        )
        self.model = _with_preprocessing(engine.model, changed)

    @property
    def info(self) -> EngineInfo:
        """See :class:`ccl_hub.backends.engine.Engine`, as all that follows."""
        return self._engine.info

    @property
    def batch_frames(self) -> int:
        """Frames at once that suit the device."""
        return self._engine.batch_frames

    @property
    def calls_at_once(self) -> int:
        """Calls that are computed side by side."""
        return self._engine.calls_at_once

    @property
    def clip_head(self) -> ClipHead:
        """What makes clip vectors of the parts, on their device."""
        return self._engine.clip_head

    @staticmethod
    def sampling_of(preprocessing: Preprocessing) -> Sampling:
        """Return clips that follow each other without a gap."""
        return Sampling(every_seconds=preprocessing.clip_seconds)

    def __call__(self, frames: npt.NDArray[np.uint8]) -> FrameMaps:
        """Compute (n, S, S, 3) frames; the vectors of flat ones are zeros."""
        maps = self._engine(frames)
        vectors = maps.vectors
        if self._both_ways:
            mirrored = self._engine(np.ascontiguousarray(frames[:, :, ::-1]))
            vectors = _beside(vectors, mirrored.vectors)  # (n,2D)
        return FrameMaps(_without(vectors, are_flat(frames)), maps.parts)


def _with_preprocessing(model: NetworkFacts, preprocessing: Preprocessing) -> NetworkFacts:
    """Return a model of the same weights that prepares its frames in another way."""
    config = replace(model.config, preprocessing=preprocessing)
    if isinstance(model, StoredNetwork):
        return replace(model, source=replace(model.source, config=config))
    changed = copy.copy(cast("CCLNetwork", model))
    changed.config = config
    return changed


def _beside(first: Array, second: Array) -> Array:
    """Return (n, 2D) of twice (n, D), of either library."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, cast("Vectors", second)], axis=1)
    import torch

    return torch.cat([first, cast("torch.Tensor", second)], dim=1)


def _without(vectors: Array, left_out: npt.NDArray[np.bool_]) -> Array:
    """Return vectors with zeros in some rows, of either library."""
    if isinstance(vectors, np.ndarray):
        return np.where(left_out[:, None], np.float32(0.0), vectors)
    import torch

    return vectors.masked_fill(torch.from_numpy(left_out).to(vectors.device)[:, None], 0.0)


def are_flat(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which of (n, h, w, 3) frames are of one colour, but for a few pixels.

    Example:
        >>> black, half = np.zeros((2, 8, 8, 3), np.uint8)
        >>> half[:4] = 90
        >>> are_flat(np.stack([black, half])).tolist()
        [True, False]
    """
    pixels = frames.reshape(len(frames), -1, 3).astype(np.int16)  # (n,h*w,3)
    middle = np.median(pixels, axis=1, keepdims=True)
    near = np.abs(pixels - middle).max(axis=2) <= FLAT_LEVELS  # (n,h*w)
    flat: npt.NDArray[np.bool_] = near.mean(axis=1) >= FLAT_SHARE
    return flat


@dataclass(frozen=True)
class Look:
    """What a library keeps of a video, or asks of a query; vectors as the network gives them.

    Args:
        seconds: (F,) times of frames, ascending, each once; flat frames are left out.
        frames: (F, D) vectors.
        clip_seconds: (W, 2) start and end of clips that are not flat throughout.
        clips: (W, D) vectors.
        duration_seconds: Length of the video; 0 for a picture.
    """

    seconds: npt.NDArray[np.float64]
    frames: Vectors
    clip_seconds: npt.NDArray[np.float64]
    clips: Vectors
    duration_seconds: float

    @classmethod
    def of(cls, embeddings: Embeddings) -> Look:
        """Take them from the embeddings that a :class:`LibraryEngine` gave."""
        dim = embeddings.frames.shape[2]
        seconds, first = np.unique(embeddings.frame_seconds, return_index=True)
        frames = embeddings.frames.reshape(-1, dim)[first]  # (F,D)
        seen = frames.any(axis=1)
        shown = embeddings.frames.any(axis=(1, 2))  # (W,)
        return cls(
            seconds[seen],
            frames[seen],
            embeddings.clip_seconds[shown],
            embeddings.clips[shown],
            embeddings.provenance.duration_seconds,
        )
