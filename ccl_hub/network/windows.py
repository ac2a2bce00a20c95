"""Windows at the price of frames: clip vectors from what the network gives for single frames.

Only conv6 looks across time (paper, Table 1), so a frame is the same in every window it belongs
to. Let A, B, C be its feature map under conv6's taps for the frame after it, itself and the frame
before it. At frame t, with the neighbours p and n that t has in a window, conv6, BatchNorm and
ReLU give

    relu(A_p + B_t + C_n + shift)        without A_p in a window's first frame, C_n in its last,

and the window's vector is the mean of that over space and frames, through the map after pooling:
exactly what the network gives for the window alone. Each distinct (p, t, n) is computed once, so
windows that start every few frames cost little more than the frames themselves, at any frame
rate, constant or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import DecodeError
from .frame_maps import ClipHead, FrameMaps

if TYPE_CHECKING:
    from .frame_maps import Array

NEIGHBOURHOODS_AT_ONCE = 64
"""(p, t, n) computed at once; each takes 100 kB a tensor."""

WINDOWS_AT_ONCE = 256
"""Windows made at once; 100 000 can lie between two frames."""

Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class ClipVectors(NamedTuple):
    """Vectors of b neighbouring windows.

    ``clips``: (b, D) float32 video features. ``frames``: (b, T, D) float32 frame features, or
    (b, 0, D) where they are not needed.
    """

    clips: Vectors
    frames: Vectors


class ClipArrays:
    """The vectors of all windows of one video, in arrays that are made once for all of them.

    Many small arrays, made among others that come and go, would fragment the memory, and joining
    them would take as much again.

    Args:
        windows: Their number W.

    Example:
        >>> arrays = ClipArrays(2)
        >>> arrays.add(ClipVectors(np.ones((1, 4), np.float32), np.ones((1, 8, 4), np.float32)))
        >>> arrays.add(ClipVectors(np.zeros((1, 4), np.float32), np.ones((1, 8, 4), np.float32)))
        >>> arrays.vectors.clips.tolist(), arrays.vectors.frames.shape
        ([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], (2, 8, 4))
    """

    def __init__(self, windows: int) -> None:
        self._windows, self._kept = windows, 0
        self._vectors: ClipVectors | None = None

    @property
    def vectors(self) -> ClipVectors:
        """The vectors of every window.

        Raises:
            DecodeError: Some are missing.
        """
        if self._vectors is None or self._kept < self._windows:
            raise DecodeError(f"{self._kept} of {self._windows} windows were made.")
        return self._vectors

    def add(self, vectors: ClipVectors) -> None:
        """Keep the vectors of the next windows."""
        count = len(vectors.clips)
        if count == self._windows:
            self._vectors, self._kept = vectors, count  # all at once: kept as they are
        elif count:
            if self._vectors is None:
                shapes = ((self._windows, *array.shape[1:]) for array in vectors)
                self._vectors = ClipVectors(*(np.empty(shape, np.float32) for shape in shapes))
            for whole, array in zip(self._vectors, vectors, strict=True):
                whole[self._kept : self._kept + count] = array
            self._kept += count


class WindowAssembler:
    """Makes the vectors of windows from frames that come in ascending order.

    Memory is bounded by the frames that windows still to come share with those gone by.

    Args:
        indices: (W, T) frame indices of each window, in the order in which they are made.
        head: See :attr:`ccl_hub.backends.engine.Engine.clip_head`.
        with_frames: Also give the features of frames.

    Example:
        >>> windows = WindowAssembler(np.array([[0, 2], [1, 3]]), ClipHead(np.zeros(5)))
        >>> windows.frames.tolist()
        [0, 1, 2, 3]
        >>> maps = FrameMaps(np.ones((3, 5)), np.ones((3, 4, 3, 5)))
        >>> windows.add(maps).clips.tolist()  # two of three taps at each border
        [[2.0, 2.0, 2.0, 2.0, 2.0]]
        >>> maps = FrameMaps(np.ones((1, 5)), np.ones((1, 4, 3, 5)))
        >>> windows.add(maps).frames.shape, windows.finished
        ((1, 2, 5), True)
    """

    def __init__(self, indices: Indices, head: ClipHead, with_frames: bool = True) -> None:
        self.frames: Indices = np.unique(indices)  # ascending: what must be added
        self._indices, self._head, self._with_frames = indices, head, with_frames
        self._last = np.maximum.accumulate(indices.max(axis=1))  # (W,) needed up to this window
        later = np.minimum.accumulate(indices.min(axis=1)[::-1])[::-1]
        self._oldest = np.append(later, self._last[-1] + 1)  # (W+1,) needed from this window on
        self._added = self._done = 0
        self._held: Indices = np.empty(0, dtype=np.int64)
        self._maps: FrameMaps | None = None

    @property
    def finished(self) -> bool:
        """True once every window has been made."""
        return self._done == len(self._indices)

    def add(self, maps: FrameMaps) -> ClipVectors:
        """Take the next n of :attr:`frames`; return the windows that are whole now, b may be 0."""
        pieces = list(self.add_in_pieces(maps))
        return ClipVectors(*map(np.concatenate, zip(*pieces, strict=True)))

    def add_in_pieces(self, maps: FrameMaps) -> Iterator[ClipVectors]:
        """Like :meth:`add`, a few windows at a time; to be read to its end.

        A clock that jumps can put thousands of windows between two frames, and made all at once
        they would be in memory twice.
        """
        count = len(maps.vectors)
        self._held = np.concatenate([self._held, self.frames[self._added : self._added + count]])
        self._added += count
        if self._maps is not None:
            pairs = zip(self._maps, maps, strict=True)
            maps = FrameMaps(*map(_joined, pairs))
        newest = self.frames[self._added - 1]
        end = int(np.searchsorted(self._last, newest, side="right"))
        rows = self._indices[self._done : end]
        positions = np.searchsorted(self._held, rows)  # (b,T)
        for begin in range(0, max(1, len(positions)), WINDOWS_AT_ONCE):
            yield self._windows(positions[begin : begin + WINDOWS_AT_ONCE], maps)
        self._done = end
        keep = self._held >= self._oldest[end]
        self._held = self._held[keep]
        self._maps = FrameMaps(*(array[keep] for array in maps)) if keep.any() else None

    def _windows(self, positions: Indices, maps: FrameMaps) -> ClipVectors:
        """Return the vectors of windows, (b,T) positions among the held frames."""
        b, t = positions.shape
        border = np.full((b, 1), -1)
        neighbours = np.stack(
            [
                np.hstack([border, positions[:, :-1]]),
                positions,
                np.hstack([positions[:, 1:], border]),
            ],
            axis=-1,
        ).reshape(-1, 3)  # (b*T,3)
        distinct, inverse = np.unique(neighbours, axis=0, return_inverse=True)  # (u,3), (b*T,)
        means = [
            self._neighbourhoods(rows, maps.parts)
            for rows in np.split(
                distinct, range(NEIGHBOURHOODS_AT_ONCE, len(distinct), NEIGHBOURHOODS_AT_ONCE)
            )
        ]
        clips = self._head.output(_joined(means)[inverse.reshape(b, t)].mean(1))  # (b,T,D), (b,D)
        frames = maps.vectors[positions if self._with_frames else positions[:, :0]]  # (b,T,D)
        return ClipVectors(_as_numpy(clips), _as_numpy(frames))

    def _neighbourhoods(self, distinct: Indices, parts: Any) -> Any:
        """Mean over space of conv6's output for (u,3) positions; -1 for no neighbour -> (u,D)."""
        total = parts[distinct[:, 1], :, 1] + self._head.shift  # (u,P,D) float32
        for tap, side in ((0, distinct[:, 0]), (2, distinct[:, 2])):
            exists = side >= 0
            total[exists] += parts[side[exists], :, tap]
        return total.clip(min=0).mean(1)


def _joined(arrays: Sequence[Any]) -> Any:
    """Join arrays of numpy or of torch at their first axis."""
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    import torch

    return torch.cat(tuple(arrays))


def _as_numpy(array: Array) -> Vectors:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()
