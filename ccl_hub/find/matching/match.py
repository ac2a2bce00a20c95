"""From the vectors of a query to hits: nearest frames, evidence, segments, E-values."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..store import INDEX_FROM_ROWS, Frames, Store
from .chance import (
    LEAST_SCORE,
    LENGTHS,
    MOST_STRETCHES,
    Chance,
    Chanced,
    as_near_as_a_copy,
    calibrated,
)
from .evidence import MOST_AGAINST, Background, Nearest, Tails, novelty
from .segments import (
    LEAST_VOTES,
    Along,
    Line,
    Points,
    Reach,
    Segment,
    segments_of,
)

Vectors = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Keys = npt.NDArray[np.int64]

NEAREST = 50
NEAREST_TELL = 1000
"""Frames of a library from which on the nearest of a frame are few of all, and tell its tail."""

MOST_VIDEOS = 64
"""Videos of which lines are looked for, those with most evidence first."""

CHANCE_VIDEOS, MOST_COPIES = 4, 4
"""Videos that a stretch is looked for in, to learn what chance does, and how often its copies are
taken away before."""

LEAST_VIDEOS = 8
"""Videos of a library that can be calibrated on itself."""

STILL_COSINE = 0.99
"""Of each frame of a scene in which nothing moves with its middle one."""

USUAL_GAPS = 0.9
"""Share of the gaps between frames of a video that are at most what counts as usual."""

PICTURE_DROP = 3.0
"""Evidence by which a frame beside the best may be less, and still look as the picture does."""


@dataclass(frozen=True)
class Query:
    """What is asked for, in the space of the library.

    Args:
        seconds: (n,) times, ascending.
        vectors: (n, D) unit vectors; zeros for what is flat.
        duration_seconds: Its length; 0 for a picture.
    """

    seconds: Numbers
    vectors: Vectors
    duration_seconds: float

    @property
    def is_picture(self) -> bool:
        """Whether it has one frame."""
        return len(self.seconds) <= 1

    def as_picture_if_still(self, still_cosine: float) -> Query:
        """Return its middle frame if all look like it, as a slide does, or itself.

        A still scene fits a longer one anywhere; its picture has one place, as long as it stays.

        Args:
            still_cosine: Least cosine of frames that look alike.
        """
        if self.is_picture:
            return self
        middle = len(self.seconds) // 2
        if (self.vectors @ self.vectors[middle]).min() < still_cosine:
            return self
        return Query(np.zeros(1), self.vectors[[middle]], 0.0)


@dataclass(frozen=True)
class Match:
    """A hit before it has names and an E-value; times as in :class:`ccl_hub.find.results.Hit`."""

    key: int
    query_start: float
    query_end: float
    start: float
    end: float
    speed: float
    similarity: float
    score: float


class _Asked:
    """A query, and how surprising it is that its frames are near others.

    Args:
        query: What is asked for.
        background: A sample of the library.
        step_seconds: Time between the frames of the library.
        without: Videos that are left out.
        near: The nearest rows of each frame, nearest first.
        rows: Frames of the library.
    """

    def __init__(
        self,
        query: Query,
        background: Background,
        step_seconds: float,
        without: Collection[int],
        near: Frames,
        rows: int,
    ) -> None:
        self.query, self.without = query, without
        self.by_nearest = rows >= NEAREST_TELL
        if self.by_nearest:
            self._nearest = Nearest(near, len(query.seconds), rows)
        else:
            self._compared = background.compared(query.vectors)
        moved = background.moved_cosine
        self.weights = novelty(query.vectors, query.seconds, step_seconds, moved)

    def points(self, found: Frames, key: int) -> Points:
        """Return the matches with a video, as surprising as they are for the query's frames."""
        evidence = self.tails(key).evidence(found.cosines.astype(np.float64), found.queries)
        return Points(found.queries, found.seconds, evidence)

    def tails(self, key: int) -> Tails:
        """Return how the cosines of the query's frames with other videos than one fall off."""
        if self.by_nearest:
            return self._nearest.without(key)
        return self._compared.tails(key, *self.without)

    def bound(self, points: Points) -> float:
        """Return what the evidence of points sums up to at most, along any line."""
        best = np.zeros(len(self.weights))
        np.maximum.at(best, points.frames, points.evidence)
        return float(best @ self.weights)


class _Candidate:
    """A video that a query is looked for in; its frames are compared with the background once.

    Args:
        frames: All its frames, in order of time.
        background: A sample of the library.
        step_seconds: Time between the frames of the library.
        without: Videos whose frames in the sample do not count.
    """

    def __init__(
        self,
        frames: Frames,
        background: Background,
        step_seconds: float,
        without: tuple[int, ...],
    ) -> None:
        self.frames, self._background, self._without = frames, background, without
        self._starts, self._scales = (np.full(len(frames.keys), np.nan) for _ in range(2))
        gaps = np.diff(frames.seconds)
        usual = float(np.quantile(gaps, USUAL_GAPS, method="lower")) if len(gaps) else 0.0
        self.reach = Reach.of(step_seconds, usual)

    def evidence(self, rows: Keys, cosines: Numbers) -> Numbers:
        """Return how surprising (P,) cosines are, each for one of its frames."""
        new = np.unique(rows[np.isnan(self._starts[rows])])
        tails = self._background.compared(self.frames.vectors[new]).tails(*self._without)
        self._starts[new], self._scales[new] = tails.start, tails.scale
        return Tails(self._starts, self._scales, tails.more).evidence(cosines, rows)


class Matcher:
    """Finds queries in a library.

    Args:
        store: The library's database.
        background: A sample of its frames.
        frame_seconds: Time between its frames.
    """

    def __init__(self, store: Store, background: Background, frame_seconds: float) -> None:
        self._store, self._background, self._step = store, background, frame_seconds

    @property
    def still_cosine(self) -> float:
        """Least cosine of frames between which nothing moves; raw features are all alike."""
        return max(STILL_COSINE, self._background.moved_cosine)

    def matches(
        self,
        query: Query,
        without: Collection[int] = (),
        least_score: float = LEAST_SCORE,
        most_videos: int = MOST_VIDEOS,
    ) -> list[Match]:
        """Return where a query is, best first.

        Args:
            query: What is asked for.
            without: Videos that are left out: the query's own, and its copies.
            least_score: What scores less is left out.
            most_videos: Videos that are looked at closely.
        """
        if not len(query.seconds):
            return []
        # Votes need no vectors, and a query of hours finds hundreds of thousands of rows.
        near = self._store.nearest(query.vectors, NEAREST, without, with_vectors=False)
        if not len(near.keys):
            return []
        rows = self._store.frame_count
        asked = _Asked(query, self._background, self._step, without, near, rows)
        candidates = []
        for key in self._likely(near, asked.weights, 2 * most_videos):
            found = near[near.keys == key]
            points = asked.points(found, key)
            candidates.append((asked.bound(points), key, found, points))
        candidates.sort(key=lambda candidate: -candidate[0])
        matches: list[Match] = []
        for bound, key, found, points in candidates[:most_videos]:
            if bound < LEAST_VOTES * least_score:
                break
            sample = self._background, self._step, (key, *without)
            candidate = _Candidate(self._store.of(key), *sample)
            points = self._answered(points, found, candidate, asked)
            if query.is_picture:
                matches += self._of_picture(key, points, found, candidate.reach)
            else:
                along, reach = self._along(asked, key, candidate), candidate.reach
                segments = segments_of(
                    query.seconds, asked.weights, points, along, least_score, reach
                )
                matches += [self._match(query, key, segment) for segment in segments]
        matches = [match for match in matches if match.score >= least_score]
        return sorted(matches, key=lambda match: -match.score)

    @staticmethod
    def _likely(near: Frames, weights: Numbers, most: int) -> list[int]:
        """Return the videos that stand out most among the nearest.

        Each frame of the query counts once for each video, by how far its best match there is
        above the last of its nearest; what that is worth is asked later.
        """
        queries, inverse = np.unique(near.queries, return_inverse=True)
        last = np.full(len(queries), np.inf)
        np.minimum.at(last, inverse, near.cosines)
        gain = (near.cosines - last[inverse]) / np.maximum(1 - last[inverse], 1e-3)
        gain *= weights[near.queries]
        order = np.lexsort((-gain, near.queries, near.keys))
        keys, asked = near.keys[order], near.queries[order]
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(keys) != 0) | (np.diff(asked) != 0)
        videos, places = np.unique(keys[new], return_inverse=True)
        sums = np.bincount(places, gain[order][new])
        return [int(key) for key in videos[np.argsort(-sums, kind="stable")[:most]]]

    def _answered(
        self, points: Points, found: Frames, candidate: _Candidate, asked: _Asked
    ) -> Points:
        """Return the points that are surprising for both of their frames."""
        evidence = points.evidence
        if not asked.by_nearest:
            rows = np.searchsorted(candidate.frames.seconds, found.seconds)
            answered = candidate.evidence(rows, found.cosines.astype(np.float64))
            evidence = np.minimum(evidence, answered)
        return Points(points.frames, points.seconds, evidence)[evidence > 0]

    def _of_picture(self, key: int, points: Points, found: Frames, reach: Reach) -> list[Match]:
        """Return the places of a video that show a picture: frames that follow each other."""
        order = np.argsort(points.seconds)
        seconds, evidence = points.seconds[order], points.evidence[order]
        groups = np.split(
            np.arange(len(seconds)), np.flatnonzero(np.diff(seconds) > reach.shown) + 1
        )
        matches = []
        for group in groups:
            if not len(group):
                continue
            top = group[int(evidence[group].argmax())]
            alike = group[evidence[group] >= evidence[top] - PICTURE_DROP]
            cosine = found.cosines[found.seconds == seconds[top]].max()
            start, end = float(seconds[alike[0]]), float(seconds[alike[-1]])
            score = float(evidence[top])
            matches.append(Match(key, 0.0, 0.0, start, end, 1.0, float(cosine), score))
        return matches

    def _along(self, asked: _Asked, key: int, candidate: _Candidate) -> Along:
        """Return what compares the query with a video along a line."""
        video, query = candidate.frames, asked.query
        tails = asked.tails(key)
        everyone, near_enough = np.arange(len(query.seconds)), candidate.reach.near

        def along(line: Line) -> tuple[Numbers, Numbers]:
            wanted = line.at(query.seconds)
            after = np.searchsorted(video.seconds, wanted)
            cosines, rows = np.full(len(wanted), np.nan), np.zeros(len(wanted), np.int64)
            for row in (np.maximum(after - 1, 0), np.minimum(after, len(video.seconds) - 1)):
                values = np.einsum("nd,nd->n", query.vectors, video.vectors[row])
                near = np.abs(video.seconds[row] - wanted) <= near_enough
                better = near & ~(values <= cosines)  # also where there is none yet
                cosines = np.where(better, values, cosines)
                rows = np.where(better, row, rows)
            evidence = tails.evidence(cosines, everyone)
            if not asked.by_nearest:
                evidence = np.minimum(evidence, candidate.evidence(rows, cosines))
            return np.maximum(evidence, -MOST_AGAINST), cosines

        return along

    def _match(self, query: Query, key: int, segment: Segment) -> Match:
        """Return a segment in seconds, half a step beyond its first and last frame."""
        times, line = query.seconds, segment.line
        half = float(np.median(np.diff(times))) / 2
        begin = max(0.0, float(times[segment.first]) - half)
        end = min(query.duration_seconds, float(times[segment.last]) + half)
        duration = self._store.videos[key].duration_seconds
        start, stop = np.clip(line.at(np.array([begin, max(begin, end)])), 0.0, duration).tolist()
        # Takes of one scene are alike again and again, but less than what is the same.
        score = segment.score * max(0.0, segment.similarity)
        return Match(
            *(key, begin, max(begin, end), start, stop, line.speed),
            *(segment.similarity, score),
        )


def _next_to(vectors: Vectors) -> Vectors:
    """Return (n,) cosines of the frames of a video with the nearer of those beside them.

    A frame that has none beside it gets 2, which no cosine reaches.
    """
    if len(vectors) < 2:
        return np.full(len(vectors), 2.0, np.float32)
    steps = np.einsum("nd,nd->n", vectors[1:], vectors[:-1])
    least = np.full(1, -1.0, np.float32)
    nearer: Vectors = np.maximum(np.concatenate([steps, least]), np.concatenate([least, steps]))
    return nearer


def calibrate(matcher: Matcher, store: Store, seed: int = 0) -> Chance:
    """Ask a library for stretches of its own videos, and return its E-values."""
    generator = np.random.default_rng(seed)
    keys = np.array(sorted(store.videos), np.int64)
    if len(keys) < LEAST_VIDEOS:
        return Chance.guessed(store.frame_count)
    turns = np.concatenate(
        [generator.permutation(keys) for _ in range(1 + MOST_STRETCHES // len(keys))]
    )[:MOST_STRETCHES]
    held: dict[int, Frames] = {}
    starts = generator.random(len(turns))

    def of(key: int) -> Frames:
        frames = held.get(key) or store.of(key)
        if sum(len(some.keys) for some in held.values()) + len(frames.keys) < INDEX_FROM_ROWS:
            held[key] = frames
        return frames

    # A stretch that has copies is nearer to them than to all else; one that is not in the library
    # has none, and is what is imitated.
    gone: dict[int, set[int]] = {}

    def ask(length: int) -> Iterator[tuple[int, list[Chanced]]]:
        for key, share in zip(turns.tolist(), starts.tolist(), strict=True):
            frames = of(key)
            if not len(frames.keys):
                continue
            count = min(length, len(frames.keys))
            begin = round(share * (len(frames.keys) - count))
            some = slice(begin, begin + count)
            seconds = frames.seconds[some] - frames.seconds[begin]
            duration = float(seconds[-1]) if count > 1 else 0.0
            query = Query(seconds, frames.vectors[some], duration)
            alike = as_near_as_a_copy(float(_next_to(frames.vectors)[some].mean()))
            without = gone.setdefault(key, {key})
            for _ in range(MOST_COPIES):
                matches = matcher.matches(query, without, most_videos=CHANCE_VIDEOS)
                copies = {match.key for match in matches if match.similarity >= alike}
                if not copies:
                    break
                without |= copies
            yield count, [Chanced(key, match.key, match.score) for match in matches]

    assert LENGTHS[0] == 1  # noqa: S101 - pictures
    return calibrated(ask, store.frame_count)
