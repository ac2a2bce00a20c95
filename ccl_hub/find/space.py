"""The space in which the vectors of a library are compared: by cosine, as they are or whitened.

Whitening is learnt on the library itself: frames are centred and, along the directions in which
they vary, scaled to vary alike, so that what all frames share no longer makes them alike. Frames
and clips have a mean of their own and the scaling of the frames. It helps models whose vectors
come as they are; one whose vectors are whitened already needs none.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .._util.files import write_atomically

Vectors = npt.NDArray[np.float32]

SHRINKAGE = 0.1
"""Share of the mean variance that every direction gets, so that noise is not scaled up."""


@dataclass(frozen=True)
class Space:
    """A linear map in front of the cosine; the default leaves vectors as they are.

    Args:
        frame_mean: (D,) subtracted from frames, or None.
        clip_mean: (D,) subtracted from clips, or None.
        scaling: (D, D) map of what is left, or None.
    """

    frame_mean: Vectors | None = None
    clip_mean: Vectors | None = None
    scaling: Vectors | None = None

    @property
    def is_whitened(self) -> bool:
        """Whether it changes vectors."""
        return self.scaling is not None

    def frames(self, vectors: Vectors) -> Vectors:
        """Return (n, D) frame vectors as unit vectors; zeros stay zeros."""
        return self._units(vectors, self.frame_mean)

    def clips(self, vectors: Vectors) -> Vectors:
        """Return (n, D) clip vectors as unit vectors; zeros stay zeros."""
        return self._units(vectors, self.clip_mean)

    def _units(self, vectors: Vectors, mean: Vectors | None) -> Vectors:
        vectors = _units(np.asarray(vectors, np.float32))
        if mean is None or self.scaling is None:
            return vectors
        seen = vectors.any(axis=1, keepdims=True)
        return _units(np.where(seen, (vectors - mean) @ self.scaling, 0.0).astype(np.float32))

    @classmethod
    def learnt(cls, frames: Iterable[Vectors], clips: Iterable[Vectors]) -> Space:
        """Learn from blocks of frame vectors and of clip vectors, unit vectors (n, D)."""
        count, total, squares = 0, np.zeros(0), np.zeros((0, 0))
        for block in frames:
            wide = block.astype(np.float64)
            if not count:
                total, squares = np.zeros(wide.shape[1]), np.zeros((wide.shape[1],) * 2)
            count, total = count + len(wide), total + wide.sum(axis=0)
            squares += wide.T @ wide
        mean = total / max(1, count)
        covariance = squares / max(1, count) - np.outer(mean, mean)
        values, directions = np.linalg.eigh(covariance)
        values = np.maximum(values, 0.0) + SHRINKAGE * values.mean()
        scaling = directions / np.sqrt(values)  # (D,D), one direction a column
        sums = [(len(block), block.sum(axis=0, dtype=np.float64)) for block in clips]
        clip_count = sum(count for count, _ in sums)
        clip_mean = np.sum([total for _, total in sums], axis=0) / clip_count if sums else mean
        return cls(mean.astype("f4"), clip_mean.astype("f4"), scaling.astype("f4"))

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        data = io.BytesIO()
        assert self.frame_mean is not None and self.scaling is not None  # noqa: S101 (for mypy)
        arrays = {"frame_mean": self.frame_mean, "scaling": self.scaling}
        np.savez(data, clip_mean=self.clip_mean, **arrays)  # type: ignore[arg-type]
        write_atomically(path, data.getvalue())

    @classmethod
    def load(cls, path: Path) -> Space:
        """Read what :meth:`save` wrote."""
        with path.open("rb") as binary, np.load(binary, allow_pickle=False) as file:
            return cls(file["frame_mean"], file["clip_mean"], file["scaling"])


def _units(vectors: Vectors) -> Vectors:
    """Return vectors of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0, 1.0, lengths)).astype(np.float32)
