"""What chance does: E-values, calibrated on the library itself.

Stretches of videos of the library are asked for as queries, without their own videos, so that all
that is found is found by chance. For each length of a stretch, the number of hits of score S or
more falls off exponentially:

    E(S) = exp(-decay * (S - start))        hits expected for one query

as the statistics of sequence alignment have it (Karlin and Altschul, 1990). Libraries hold real
copies, too: what is about as near as the next frame of the same video, or is found far beyond what
the lower half of the scores predicts, is one and is left out, as are other hits between the same
two videos. E grows in proportion to the frames of
the library, and beyond the longest stretch to the length of the query.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...config import parse_dataclass

Numbers = npt.NDArray[np.float64]

LENGTHS = (1, 8, 32)
"""Frames of the stretches; the first stands for pictures."""

MOST_STRETCHES = 300
TAIL_RATE = 0.4
"""Hits for each query, from whose excess the decay is taken."""

LEAST_SCORE = 2.0
"""Hits of less are not looked at."""

LEAST_HITS = 20
GUESSED_DECAY = 0.5
COPY_E = 1e-6
"""What is so unlikely by chance is a copy."""

COPIES_LEFT = 0.2
"""Share of the excesses of which the decay is taken that may be copies still."""

TRIMMED_MEAN = (1 - COPIES_LEFT * (1 - math.log(COPIES_LEFT))) / (1 - COPIES_LEFT)
"""Mean of an exponential of scale 1 without its largest values."""

COPY_SLACK = 0.05
"""What compression and resizing do to a cosine."""


class Chanced(NamedTuple):
    """A hit found by chance: the video asked for, the one found, and the score."""

    asked: int
    found: int
    score: float


@dataclass(frozen=True)
class Tail:
    """The tail of the scores of stretches of one length.

    Args:
        frames: Mean length of the stretches, in frames.
        start: Score of which one hit is expected for a query.
        decay: By how much ln E falls with the score.
        queries: Stretches asked for; 0 if it is a guess.
    """

    frames: float
    start: float
    decay: float
    queries: int = 0


@dataclass(frozen=True)
class Chance:
    """E-values of a library.

    Args:
        rows: Frames of the library when it was calibrated.
        tails: One for each length, shortest first.
    """

    rows: int
    tails: tuple[Tail, ...]

    def e_value(self, score: float, frames: float, rows: int, ways: int = 1) -> float:
        """Return the number of hits expected by chance for one query.

        Args:
            score: Score of a hit.
            frames: Length of the query, in steps of the library, 1 for a picture.
            rows: Frames of the library now.
            ways: 2 if the query was also searched mirrored.
        """
        logs = [tail.decay * (tail.start - score) for tail in self.tails]
        lengths = [math.log(max(1.0, tail.frames)) for tail in self.tails]
        log_e = float(np.interp(math.log(max(1.0, frames)), lengths, logs))
        beyond = max(1.0, frames / max(1.0, self.tails[-1].frames))
        growth = max(1, rows) / max(1, self.rows)
        return math.exp(min(log_e, 50.0)) * beyond * growth * ways

    def score(self, e_value: float, frames: float, rows: int) -> float:
        """Return the least score with at most this E-value, 0 at least."""
        low, high = 0.0, 1e4
        while high - low > 0.01:
            middle = (low + high) / 2
            if self.e_value(middle, frames, rows) > e_value:
                low = middle
            else:
                high = middle
        return low

    def to_json(self) -> str:
        """Return the text of a file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Chance:
        """Read what :meth:`to_json` wrote.

        Raises:
            ConfigError: It is something else.
        """
        return parse_dataclass(cls, json.loads(text), where)

    @classmethod
    def guessed(cls, rows: int) -> Chance:
        """Return careful E-values for a library with too few videos to be asked."""
        start = math.log(max(2, rows))
        starts = ((float(n), start * (1 + math.log(n))) for n in LENGTHS)
        return cls(rows, tuple(Tail(n, begin, GUESSED_DECAY) for n, begin in starts))


Ask = Callable[[int], Iterator[tuple[int, list[Chanced]]]]
"""Length -> for each stretch: its true length, and the hits that are not of its own video."""


def as_near_as_a_copy(next_cosine: float) -> float:
    """Return the cosine from which on frames of another video are taken for copies.

    A copy at another speed, compressed anew, is nearly as near as what comes next in the same
    video; another take of one scene is not.

    Args:
        next_cosine: Mean cosine of the frames with those next to them in their own video.

    Example:
        >>> round(as_near_as_a_copy(0.95), 2)
        0.9
    """
    return next_cosine - COPY_SLACK


def calibrated(ask: Ask, rows: int) -> Chance:
    """Return the E-values of a library.

    Args:
        ask: Asks for stretches of a length.
        rows: Frames of the library.
    """
    copies: set[tuple[int, int]] = set()
    tails: dict[int, Tail] = {}
    guesses = {round(tail.frames): tail for tail in Chance.guessed(rows).tails}
    for length in sorted(LENGTHS, reverse=True):  # copies show best in long stretches
        asked = list(ask(length))
        hits = [hit for _, some in asked for hit in some if hit[:2] not in copies]
        frames = float(np.mean([count for count, _ in asked])) if asked else float(length)
        tail = _tail(hits, len(asked), frames, copies)
        if tail is None and len(asked) >= MOST_STRETCHES // 3:
            # So few are found that one for each query at the least score is already too many.
            tail = Tail(frames, LEAST_SCORE, GUESSED_DECAY, len(asked))
        tails[length] = tail or guesses[length]
    return Chance(rows, tuple(tails[length] for length in LENGTHS))


def _copy_score(scores: list[float], queries: int) -> float:
    """Return the score that chance reaches once in 1 / COPY_E queries.

    By the lower scores of all, which are chance's even where every query has a copy. If all hits
    of chance are there, they fall off evenly; if only the best few of each query, less slowly.
    """
    low, middle = np.quantile(scores, (0.1, 0.4))
    each = len(scores) / queries
    # Of the 4 best points of a Poisson process, 3.6 and 2.4 lie above where 5.3 and 2.6 do.
    span = math.log(5.3 / 2.6) if each > 3 else math.log(0.9 / 0.6)
    decay = span / max(float(middle - low), 1e-3)
    return float(middle) + math.log(0.6 * each / COPY_E) / decay


def _tail(
    hits: Sequence[Chanced], queries: int, frames: float, copies: set[tuple[int, int]]
) -> Tail | None:
    """Fit a tail, and add the pairs of videos that are copies to ``copies``."""
    best: dict[tuple[int, int], float] = {}
    for hit in hits:
        best[hit[:2]] = max(best.get(hit[:2], 0.0), hit.score)
    if queries < LEAST_HITS:
        return None
    while True:  # without copies the law is clearer, and tells further ones
        left = [hit.score for hit in hits if hit[:2] not in copies]
        if len(left) < LEAST_HITS:
            return None
        limit = _copy_score(left, queries)
        more = {pair for pair, score in best.items() if score > limit} - copies
        if not more:
            break
        copies |= more
    scores = np.sort([hit.score for hit in hits if hit[:2] not in copies])[::-1]
    count = min(len(scores) - 1, max(LEAST_HITS, round(TAIL_RATE * queries)))
    if count < LEAST_HITS:
        return None
    threshold = float(scores[count])
    # By the mean excess without the largest, which may be copies that are left.
    lower = float(np.mean(scores[round(COPIES_LEFT * count) : count])) - threshold
    decay = TRIMMED_MEAN / max(lower, 1e-3)
    return Tail(frames, threshold + math.log(count / queries) / decay, decay, queries)
