"""From frames that match to segments: votes for lines, then the best stretch of each line.

A line says that second t of the query shows what second ``offset + speed * t`` of a video shows.
Matched frames vote for (offset, speed); along the line with most votes every frame of the query is
compared with the frame that the video shows then, and the stretch whose evidence sums up highest
is a segment (the maximum-sum interval, by dynamic programming). Its frames vote no more, and the
next line is looked for, so that one video may give several segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

SLOWEST, FASTEST = 0.5, 2.0
SPEED_STEP = 0.05
"""Least distance between speeds that are tried; a fit turns the line that is best."""

MOST_VOTES = 1 << 18
"""Votes that are counted at once."""

PREFER_NORMAL = 0.02
"""Share of votes by which a line at half or double speed must be better than one at speed 1."""

LEAST_VOTES = 1 / 3
"""Share of the score of a segment that matches among the nearest frames must make up."""

MOST_SEGMENTS, MOST_MISSES = 32, 3
"""Segments of one video, and lines that give none, after which no more are looked for."""


@dataclass(frozen=True)
class Reach:
    """How far things may be apart in time, in seconds; frames half a second apart by default.

    Args:
        bin: Offsets so near vote for the same line.
        near: How far from a line a frame may be, and belong to it.
        merged: Between two frames of one segment no more lies in which nothing speaks for it.
        span: Shorter stretches tell too little of the speed to fit it.
        shown: Frames of a video that look like a picture, so near, are one place.
    """

    bin: float = 1.0
    near: float = 0.75
    merged: float = 3.0
    span: float = 4.0
    shown: float = 2.0

    @classmethod
    def of(cls, step_seconds: float, gap_seconds: float = 0.0) -> Reach:
        """Return what suits a library.

        Args:
            step_seconds: Time between its frames.
            gap_seconds: Time between frames of this video that is rarely exceeded: key frames
                may be further apart.
        """
        gap = max(step_seconds, gap_seconds)
        return cls(
            bin=max(cls.bin, step_seconds),
            near=max(cls.near, 0.75 * step_seconds),
            merged=max(cls.merged, 1.5 * gap),
            span=max(cls.span, 8 * step_seconds),
            shown=max(cls.shown, 1.5 * gap),
        )


USUAL_REACH = Reach()


@dataclass(frozen=True)
class Points:
    """Frames of the query that match frames of one video.

    Args:
        frames: (P,) numbers of the query's frames.
        seconds: (P,) times in the video.
        evidence: (P,) above 0.
    """

    frames: Places
    seconds: Numbers
    evidence: Numbers

    def __getitem__(self, chosen: npt.NDArray[np.bool_]) -> Points:
        return Points(self.frames[chosen], self.seconds[chosen], self.evidence[chosen])


@dataclass(frozen=True)
class Line:
    """Where the query is in a video, and how many votes say so."""

    offset: float
    speed: float
    votes: float

    def at(self, seconds: Numbers) -> Numbers:
        """Return the times in the video at which it shows what the query shows then."""
        return self.offset + self.speed * seconds


@dataclass(frozen=True)
class Segment:
    """A stretch of a line; ``first`` to ``last`` are frames of the query, both in it."""

    line: Line
    first: int
    last: int
    score: float
    similarity: float


def best_line(
    seconds: Numbers, weights: Numbers, points: Points, reach: Reach = USUAL_REACH
) -> Line | None:
    """Return the line with most votes.

    Args:
        seconds: (n,) times of the query's frames.
        weights: (n,) how much each counts.
        points: What matches.
        reach: How far things may be apart.
    """
    if not len(points.frames):
        return None
    votes = points.evidence * weights[points.frames]
    times = seconds[points.frames]
    # Two speeds are apart if the ends of the query are, by half a bin.
    apart = reach.bin / 2 / max(float(np.ptp(seconds)), 1e-9)
    speeds = [1.0] if len(seconds) < 2 else _speeds(apart)
    best = Line(0.0, 1.0, 0.0)
    for begin in range(0, len(speeds), max(1, MOST_VOTES // len(votes))):
        some = np.array(speeds[begin : begin + max(1, MOST_VOTES // len(votes))])
        line = _elected(some, points, times, votes, reach.bin)
        best = max(best, line, key=lambda line: line.votes)
    return _fitted(best, times, points.seconds, votes, reach)


def _speeds(apart: float) -> list[float]:
    """Return the speeds that are tried, 1 among them, at least so far apart."""
    near = min(max(apart, SPEED_STEP), 0.5)
    slow = np.arange(1.0, SLOWEST - 1e-9, -near / 2)
    fast = np.arange(1.0, FASTEST + 1e-9, near)
    return sorted({*np.round(slow, 6).tolist(), *np.round(fast, 6).tolist(), SLOWEST, FASTEST})


def _elected(
    speeds: Numbers, points: Points, times: Numbers, votes: Numbers, bin_seconds: float
) -> Line:
    """Return the line with most votes among those of some speeds."""
    offsets = points.seconds - speeds[:, None] * times  # (s,P)
    shifts = np.array([0.0, bin_seconds / 2])  # two rows of bins, one between the other
    bins = np.floor((offsets[:, None] + shifts[:, None]) / bin_seconds).astype(np.int64)  # (s,2,P)
    low = int(bins.min())
    wide = int(bins.max()) - low + 1
    row = np.arange(2 * len(speeds)).reshape(-1, 2, 1)
    ballots = (row * wide + (bins - low)).reshape(-1)  # one number for each speed, shift and bin
    frames = np.broadcast_to(points.frames, bins.shape).reshape(-1)
    values = np.broadcast_to(votes, bins.shape).reshape(-1)
    # A frame votes once on a ballot, by its best match there.
    order = np.lexsort((-values, frames, ballots))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(ballots[order]) != 0) | (np.diff(frames[order]) != 0)
    numbers, places = np.unique(ballots[order][new], return_inverse=True)
    sums = np.bincount(places, values[order][new])
    chosen = speeds[numbers // wide // 2]
    sums *= 1 - PREFER_NORMAL * np.abs(np.log2(chosen))
    top = int(sums.argmax())
    shift = float(shifts[numbers[top] // wide % 2])
    middle = (int(numbers[top]) % wide + low + 0.5) * bin_seconds
    return Line(middle - shift, float(chosen[top]), float(sums[top]))


def _fitted(line: Line, times: Numbers, seconds: Numbers, votes: Numbers, reach: Reach) -> Line:
    """Move a line to the middle of what is near it, and turn it if the stretch is long enough."""
    for _ in range(3):
        near = np.abs(seconds - line.at(times)) <= reach.near
        if not near.any():
            return line
        t, s, w = times[near], seconds[near], votes[near]
        speed = line.speed
        span = float(t.max() - t.min())
        middle = float(np.average(t, weights=w))
        variance = float(np.average((t - middle) ** 2, weights=w))
        if span >= reach.span and variance > 0:
            mean = float(np.average(s, weights=w))
            speed = float(np.average((t - middle) * (s - mean), weights=w)) / variance
            speed = min(max(speed, SLOWEST), FASTEST)
            if abs(speed - 1) * span < reach.near:
                speed = 1.0
        offset = float(np.average(s - speed * t, weights=w))
        line = replace(line, offset=offset, speed=speed)
    return line


Along = Callable[[Line], tuple[Numbers, Numbers]]
"""Line -> evidence and cosine of each of n frames, nan where the video has no frame to compare."""


def segments_of(
    seconds: Numbers,
    weights: Numbers,
    points: Points,
    along: Along,
    least_score: float,
    reach: Reach = USUAL_REACH,
) -> list[Segment]:
    """Return the segments of a query in one video.

    Args:
        seconds: (n,) times of the query's frames, ascending.
        weights: (n,) how much each counts.
        points: What matches.
        along: Compares the whole query with the video along a line.
        least_score: Segments below are left out.
        reach: How far things may be apart.
    """
    found: list[Segment] = []
    misses = 0
    while len(found) < MOST_SEGMENTS and misses < MOST_MISSES:
        line = best_line(seconds, weights, points, reach)
        if line is None or line.votes < LEAST_VOTES * least_score:
            break
        evidence, cosines = along(line)
        for segment in found:  # each frame speaks once for about the same line
            inside = slice(segment.first, segment.last + 1)
            apart = np.abs(segment.line.at(seconds[inside]) - line.at(seconds[inside]))
            evidence[inside][apart <= 2 * reach.near] = np.nan
        between = _in_query(reach.merged, line)
        stretch = best_stretch(np.nan_to_num(evidence * weights), seconds, between)
        near = np.abs(points.seconds - line.at(seconds[points.frames])) <= 2 * reach.near
        if stretch is None:
            points, misses = points[~near], misses + 1
            continue
        first, last, score = stretch
        inside = slice(first, last + 1)
        shares = weights[inside] * (evidence[inside] > 0)
        similarity = float(np.average(np.nan_to_num(cosines[inside]), weights=shares))
        if score >= least_score:
            found.append(Segment(line, first, last, score, similarity))
        else:
            misses += 1
        used = near & (points.frames >= first) & (points.frames <= last)
        points = points[~(used if used.any() and score >= least_score else near)]
    return merged(found, seconds, reach)


def _in_query(seconds: float, line: Line) -> float:
    """Return how long a time of the video is in the query: longer if that is slowed down."""
    return seconds / min(1.0, line.speed)


def best_stretch(
    evidence: Numbers, seconds: Numbers, most_between: float = Reach.merged
) -> tuple[int, int, float] | None:
    """Return first, last and sum of the interval whose evidence sums up highest, if above 0.

    Within it no more than ``most_between`` seconds lie between frames that speak for it.

    Example:
        >>> best_stretch(np.array([-1.0, 2.0, -0.5, 3.0, -4.0, 1.0]), np.arange(6) / 2)
        (1, 3, 4.5)
    """
    best: tuple[int, int, float] | None = None
    begin, total, latest = 0, 0.0, -math.inf
    for number, (value, time) in enumerate(zip(evidence.tolist(), seconds.tolist(), strict=True)):
        if total <= 0 or time - latest > most_between:
            begin, total = number, 0.0
        total += value
        if value > 0:
            latest = time
        if total > 0 and (best is None or total > best[2]):
            best = begin, number, total
    return best


def merged(found: list[Segment], seconds: Numbers, reach: Reach = USUAL_REACH) -> list[Segment]:
    """Join segments that lie on about the same line with little between them; best first."""
    joined: list[Segment] = []
    for segment in sorted(found, key=lambda segment: segment.first):
        before = joined[-1] if joined else None
        if before is not None and segment.first > before.last:
            gap = seconds[segment.first] - seconds[before.last]
            begin = seconds[segment.first : segment.first + 1]
            apart = abs(float((before.line.at(begin) - segment.line.at(begin))[0]))
            if gap <= _in_query(reach.merged, before.line) and apart <= 2 * reach.near:
                better = max(before, segment, key=lambda one: one.score)
                score = before.score + segment.score
                joined[-1] = replace(better, first=before.first, last=segment.last, score=score)
                continue
        joined.append(segment)
    return sorted(joined, key=lambda segment: -segment.score)
