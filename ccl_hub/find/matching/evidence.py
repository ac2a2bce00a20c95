"""How surprising a cosine is: evidence that two frames show the same, against a background.

Some frames, dark or empty ones above all, are near very many others, so that a cosine says little
by itself. The largest cosines of a frame with frames of other videos fall off about exponentially:
their start and their scale turn any other cosine into

    evidence = (cosine - start) / scale + ln(1 / share above the start) - ln(50)

which is 0 where one frame in 50 is as near by chance, and grows by 1 whenever chance falls by a
factor e. The others are the nearest of the whole library (:class:`Nearest`), so that one room seen
by one camera all day has to be surprising among its own. A small library has too few: there a
sample of its frames (:class:`Background`) is asked, of both frames; the smaller answer counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..store import Frames, Store

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Keys = npt.NDArray[np.int64]

MOST_FRAMES = 4096
LEAST_FRAMES = 1024
LEAST_OF_VIDEO = 4
TAIL_SHARE, LEAST_TAIL = 0.02, 16
LEAST_SCALE = 1e-3
USUAL_SCALE, USUAL_WEIGHT = 1 / 8, 4
"""Scale where nothing is known, as a share of what is between the start and 1."""

NEAREST_WEIGHT = 16
"""Likewise beside the nearest, of which a median alone varies much from frame to frame."""

USUAL_START, USUAL_START_UNSIGNED = 0.85, 0.98
"""Cosines that strangers of one kind of footage reach, of features with and without a sign."""

AT_ONCE = 2048
MOVED_SHARE = 0.3
ZERO = math.log(1 / TAIL_SHARE)
MOST_AGAINST = 2.0
"""How much one frame may speak against a match: it may be a cut, an insert, a damaged picture."""


class Tails(NamedTuple):
    """How the cosines of n frames with a sample fall off.

    ``start`` and ``scale`` are (n,), in cosine; ``more`` is added: one number, or (n,).
    """

    start: Numbers
    scale: Numbers
    more: float | Numbers

    def evidence(self, cosines: Numbers, frames: Keys) -> Numbers:
        """Return the evidence of (P,) cosines, each of one of the frames."""
        excess = (cosines - self.start[frames]) / self.scale[frames]
        more = self.more if isinstance(self.more, float) else self.more[frames]
        return np.asarray(excess + more, np.float64)


@dataclass(frozen=True)
class Background:
    """A sample of frames.

    Args:
        keys: (b,) their videos.
        vectors: (b, D) unit vectors.
    """

    keys: Keys
    vectors: Vectors

    @classmethod
    def of(cls, store: Store) -> Background:
        """Take a sample of a library, about the same number of frames of each video."""
        each = max(LEAST_OF_VIDEO, math.ceil(LEAST_FRAMES / max(1, len(store.videos))))
        frames = store.sample(16 * MOST_FRAMES)
        order = np.argsort(frames.keys, kind="stable")  # at random within a video
        _, first, counts = np.unique(frames.keys[order], return_index=True, return_counts=True)
        position = np.arange(len(order)) - np.repeat(first, counts)
        chosen = order[position < each]
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:MOST_FRAMES])
        return cls(frames.keys[chosen], frames.vectors[chosen])

    @cached_property
    def moved_cosine(self) -> float:
        """Cosine of two frames of one scene below which they count as different.

        A part of the way from equal frames to such as are near each other by chance: raw features
        have cosines of 0.9 and more throughout, whitened ones of 0.
        """
        cosines = np.sort(self.cosines(self.vectors), axis=1)
        tail = _tail(len(self.keys))
        start = float(np.median(cosines[:, -tail])) if tail else 0.0
        return 1 - MOVED_SHARE * (1 - start)

    @property
    def _usual_start(self) -> float:
        """Where the cosines of strangers end, if there are none in the library to show it."""
        # Features without a sign, as after ReLU, are all alike.
        is_signed = bool((self.vectors < -1e-3).any())
        return USUAL_START if is_signed else USUAL_START_UNSIGNED

    def cosines(self, vectors: Vectors) -> Vectors:
        """Return (n, b) cosines with the sample."""
        return vectors @ self.vectors.T

    def compared(self, vectors: Vectors) -> Compared:
        """Compare (n, D) unit vectors with the sample, some at a time."""
        _, counts = np.unique(self.keys, return_counts=True)
        size = len(self.keys)
        # So many that the tail is among them, whichever two videos are left out.
        kept = min(size, _tail(size) + 2 * int(counts.max(initial=0)))
        top = np.empty((len(vectors), kept), np.float32)
        keys = np.empty((len(vectors), kept), np.int64)
        for begin in range(0, len(vectors) if kept else 0, AT_ONCE):
            cosines = self.cosines(vectors[begin : begin + AT_ONCE])
            rows = np.argpartition(cosines, size - kept, axis=1)[:, size - kept :]
            top[begin : begin + AT_ONCE] = np.take_along_axis(cosines, rows, axis=1)
            keys[begin : begin + AT_ONCE] = self.keys[rows]
        return Compared(self.keys, top, keys, self._usual_start)


@dataclass(frozen=True)
class Compared:
    """The largest cosines of n frames with a sample.

    Args:
        sample: (b,) videos of the sample.
        top: (n, k) cosines, in no order.
        keys: (n, k) videos of the sample's frames that they are with.
        usual_start: Where a tail begins if nothing of the sample is left to tell.
    """

    sample: Keys
    top: Vectors
    keys: Keys
    usual_start: float

    def tails(self, *without: int) -> Tails:
        """Return how the cosines of each frame fall off.

        Args:
            without: Videos whose frames in the sample do not count: those that are compared.
        """
        gone = list(without)
        left = len(self.sample) - int(np.isin(self.sample, gone).sum())
        tail, frames = _tail(left), len(self.top)
        if tail < 2:  # a library of one video, or of two that are compared
            start = np.full(frames, self.usual_start)
            return Tails(start, np.maximum(USUAL_SCALE * (1 - start), LEAST_SCALE), 0.0)
        kept = np.where(np.isin(self.keys, gone), -np.inf, self.top)
        largest = np.partition(kept, -tail, axis=1)[:, -tail:]  # (n,tail)
        start = largest.min(axis=1).astype(np.float64)
        # By the median: a few frames of the sample may be copies. Few cosines say little of the
        # scale, so that what is usual counts as some more.
        scale = (np.median(largest, axis=1) - start) / math.log(2)
        scale = (tail * scale + USUAL_WEIGHT * USUAL_SCALE * (1 - start)) / (tail + USUAL_WEIGHT)
        return Tails(start, np.maximum(scale, LEAST_SCALE), math.log(left / tail) - ZERO)


class Nearest:
    """How the cosines of a query's frames with the nearest of the whole library fall off.

    Where much of a library shows one place, a sample tells how near frames of that place are to
    each other among all others, and little of which is the one: the nearest do.

    Args:
        near: The nearest rows of each frame, by frame and then nearest first.
        frames: Frames n of the query.
        rows: Frames of the library.
    """

    def __init__(self, near: Frames, frames: int, rows: int) -> None:
        self._near, self._frames, self._rows = near, frames, rows
        last = np.flatnonzero(np.diff(near.queries, append=-1))
        self._start = np.full(frames, np.nan)
        self._start[near.queries[last]] = near.cosines[last]

    def without(self, key: int) -> Tails:
        """Return the tails of the n frames, not counting a video; nan for flat frames."""
        left = self._near.keys != key
        queries, cosines = self._near.queries[left], self._near.cosines[left].astype(np.float64)
        count = np.bincount(queries, minlength=self._frames)
        first = np.cumsum(count) - count
        some = count > 0
        middle = self._start.copy()
        middle[some] = cosines[(first + count // 2)[some]]  # the median: some may be copies
        scale = (middle - self._start) / math.log(2)
        usual = USUAL_SCALE * (1 - self._start)
        scale = (count * scale + NEAREST_WEIGHT * usual) / (count + NEAREST_WEIGHT)
        more = np.log(self._rows / (count + 1)) - ZERO
        return Tails(self._start, np.maximum(scale, LEAST_SCALE), more)


def _tail(size: int) -> int:
    """Return how many of the largest cosines with a sample of a size are its tail."""
    return min(size, max(2, min(LEAST_TAIL, size // 4), round(TAIL_SHARE * size)))


def novelty(
    vectors: Vectors, seconds: Numbers, step_seconds: float, moved_cosine: float
) -> Numbers:
    """Return how much each frame of a query counts, so that a still scene is not many witnesses.

    A frame counts whole if it has moved away from the last one that did, and a tenth if not;
    frames that are nearer in time than ``step_seconds`` count in proportion.

    Args:
        vectors: (n, D) unit vectors in order of time.
        seconds: (n,) their times.
        step_seconds: Time between the frames of the library.
        moved_cosine: Of two frames that show something else; see
            :attr:`Background.moved_cosine`.
    """
    weights, anchor = np.full(len(vectors), 0.1), -1
    for number, vector in enumerate(vectors):
        if anchor < 0 or vector @ vectors[anchor] < moved_cosine:
            weights[number], anchor = 1.0, number
    if len(seconds) > 1:
        gaps = np.diff(seconds, prepend=seconds[0] - step_seconds)
        weights *= np.clip(gaps / step_seconds, 0.1, 1.0)
    return weights
