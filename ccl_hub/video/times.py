"""When each decoded frame is shown: which stamps are believed, and how broken clocks are mended.

Pure functions on the stamps of frames in the order in which a decoder gives them. The rules are
those of FFmpeg's own programs where they have one:

* **Which stamps.** A container gives presentation times, decode times or both, and either may be
  wrong: AVI, and files copied from it, hand out decode times as if they were presentation times.
  Frames come out in the order in which they are shown, so the right stamps ascend. Those are taken
  that have fewer faults, a fault being a stamp that is missing or not above the one before it; if
  both have as many, those of which more are missing, and else the presentation times. If most of
  either are faults, the durations of the frames are counted instead.
* **Impossible stamps.** Up to three stamps in a row that do not fit, between neighbours that fit
  each other, are left out, and so is any number of them from which the clock returns to where it
  would be without them; their frames are spread between these neighbours.
* **Breaks.** Any other step back is a clock that starts over, and so is a step ahead that is too
  long to be a pause (:class:`ccl_hub.video.open.MediaLimits` says which is), unless another stream
  fills the gap. From there on times are counted from the end of the frame before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from operator import itemgetter

import numpy as np
import numpy.typing as npt

Ticks = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]

NO_TIME = -(2**63)
"""Stands for an unknown time among ticks."""

SHORTEST_FRAME_SECONDS = 0.001
"""A stated duration below this counts as none."""

MOST_IMPOSSIBLE = 3
"""Stamps in a row that may be impossible; more are another clock."""

_NEAR_STEPS = 4
_NEAR_SECONDS = 1.0
_FITS = 1.5


@dataclass(frozen=True)
class ClockRules:
    """What counts as a gap, and what as a clock that broke.

    Args:
        max_gap_seconds: Longest time from a frame to the next.
        heard: (start, end) in seconds of the container's clock over which another stream, such as
            sound, goes on: a gap in there is real, however long. Ascending and apart, as
            :func:`merged` makes them.
    """

    max_gap_seconds: float
    heard: tuple[tuple[float, float], ...] = ()

    def is_gap(self, begin: float, end: float) -> bool:
        """Whether a frame at ``begin`` may be followed by one at ``end``, which is later."""
        if end - begin <= self.max_gap_seconds:
            return True
        latest = bisect_right(self.heard, begin + _NEAR_SECONDS, key=itemgetter(0)) - 1
        return latest >= 0 and end - _NEAR_SECONDS <= self.heard[latest][1]


def merged(runs: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return (start, end) ascending, those that overlap as one.

    Example:
        >>> merged([(5.0, 9.0), (0.0, 2.0), (1.0, 3.0)])
        ((0.0, 3.0), (5.0, 9.0))
    """
    apart: list[tuple[float, float]] = []
    for start, end in sorted(runs):
        if apart and start <= apart[-1][1]:
            start, end = apart[-1][0], max(end, apart.pop()[1])
        apart.append((start, end))
    return tuple(apart)


@dataclass(frozen=True)
class Stamps:
    """The stamps of N frames in the order in which a decoder gives them.

    Args:
        pts: (N,) int64 presentation times in ticks, NO_TIME where unknown.
        dts: (N,) int64 decode times likewise.
        durations: (N,) int64 durations in ticks, 0 where unknown.
        unit: Seconds per tick.
        step_seconds: Duration of a frame where none is known.
    """

    pts: Ticks
    dts: Ticks
    durations: Ticks
    unit: Fraction
    step_seconds: float

    def steps(self, rules: ClockRules) -> Seconds:
        """(N,) duration of each frame in seconds, as stated or else as frames usually last."""
        stated = self.durations * float(self.unit)
        sane = (stated >= SHORTEST_FRAME_SECONDS) & (stated <= rules.max_gap_seconds)
        return np.where(sane, stated, self.step_seconds)


@dataclass(frozen=True)
class FrameTimes:
    """When frames are shown.

    Args:
        seconds: (N,) float64, ascending, the first 0.
        source: Where they are from: "pts", "dts", or "durations".
        end_tick: Stamp of the latest frame whose stamp was believed; NO_TIME without one.
        durations_fit: The durations that frames state are about the distances between them.
        mends: What was mended, in words.
    """

    seconds: Seconds
    source: str = "pts"
    end_tick: int = NO_TIME
    durations_fit: bool = True
    mends: tuple[str, ...] = ()


def frame_times(stamps: Stamps, rules: ClockRules) -> FrameTimes:
    """Turn the stamps of decoded frames into ascending seconds from the first frame.

    A missing time follows the frame before it by that frame's duration.

    Args:
        stamps: In the order in which the frames come out.
        rules: What is a gap.

    Example:
        >>> pts, dts = np.array([1, 4, 3, 5, 2]), np.array([2, 3, 4, 5, NO_TIME])
        >>> frames = Stamps(pts, dts, np.zeros(5, np.int64), Fraction(1, 25), 0.04)
        >>> frame_times(frames, ClockRules(60.0)).seconds.round(6).tolist()
        [0.0, 0.04, 0.08, 0.12, 0.16]
    """
    count = len(stamps.pts)
    if not count:
        return FrameTimes(np.zeros(0))
    faults = {"pts": _faults(stamps.pts), "dts": _faults(stamps.dts)}
    source = min(faults, key=lambda name: faults[name])  # the first of equals
    back = int(np.sum(np.diff(stamps.pts[stamps.pts != NO_TIME]) < 0))
    ticks = stamps.pts if source == "pts" else stamps.dts
    known, steps = ticks != NO_TIME, stamps.steps(rules)
    if 2 * faults[source][0] > count - 1:
        counted = np.concatenate(([0.0], np.cumsum(steps[:-1])))
        words = "most time stamps stand still or are missing, so durations are counted"
        return FrameTimes(counted, "durations", mends=(words,) if known.any() else ())
    mends: tuple[str, ...] = ()
    if source == "dts" and back:
        words = f"presentation times go back {_times(back)}, so decode times are used"
        mends = (words,)
    unit = float(stamps.unit)
    clock = np.asarray(ticks * unit, dtype=np.float64)
    if known.all() and _is_sound(clock, rules):
        return FrameTimes((ticks - ticks[0]) * unit, source, int(ticks[-1]), mends=mends)
    mended = _Mended(np.where(known, clock, np.nan), steps, rules)
    latest = int(ticks[mended.believed[-1]])
    mends = (*mends, *mended.words())
    return FrameTimes(mended.seconds(), source, latest, mended.durations_fit, mends)


def _faults(ticks: Ticks) -> tuple[int, int]:
    """Return how many stamps are missing or not above the last one known; how many the latter."""
    known = ticks[ticks != NO_TIME]
    backs = int(np.sum(known[1:] <= known[:-1]))
    return len(ticks) - len(known) + backs, backs


def _is_sound(seconds: Seconds, rules: ClockRules) -> bool:
    steps = np.diff(seconds)
    if np.any(steps < 0):
        return False
    wide = np.flatnonzero(steps > rules.max_gap_seconds)
    return all(rules.is_gap(seconds[i], seconds[i + 1]) for i in wide)


@dataclass
class _Mended:
    """The walk over stamps that are not sound.

    Args:
        stamps: (N,) in seconds, NaN where unknown.
        steps: (N,) how long each frame lasts if nothing else tells.
        rules: What is a gap.
    """

    stamps: Seconds
    steps: Seconds
    rules: ClockRules
    believed: list[int] = field(default_factory=list)
    breaks: set[int] = field(default_factory=set)
    impossible: int = 0
    durations_fit: bool = True

    def __post_init__(self) -> None:
        self._known = np.flatnonzero(~np.isnan(self.stamps)).tolist()
        ahead = np.diff(self.stamps[self._known])
        next_frames = np.diff(self._known) == 1
        usual = next_frames & (ahead > 0) & (ahead <= self.rules.max_gap_seconds)
        step = float(self.steps[0])
        if usual.any():
            step = float(np.median(ahead[usual]))
            stated = float(np.median(self.steps[self._known][:-1][usual]))
            self.durations_fit = 1 / _FITS < stated / step < _FITS
        if not self.durations_fit:  # such as one tick in AVI, whatever the distance
            self.steps = np.full_like(self.steps, step)
        self._near_seconds = max(_NEAR_SECONDS, _NEAR_STEPS * step)
        self._ends = np.cumsum(self.steps)
        self._runs: list[int] = []  # where in ``believed`` the clock was last gone on from
        self._walk()

    def _walk(self) -> None:
        """Decide which stamps are believed, and where the clock breaks."""
        position = 0
        while position < len(self._known):
            frame = self._known[position]
            if self._returns(frame):
                self._forget(len(self.believed) - self._runs[-1], frame)
            if not self.believed or self._follows(self.believed[-1], frame):
                self._believe(frame)
                position += 1
                continue
            for count in range(1, MOST_IMPOSSIBLE + 1):
                beyond = position + count
                if beyond < len(self._known) and self._fits(
                    self.believed[-1], self._known[beyond], count
                ):
                    self.impossible += count
                    position = beyond
                    break
                if count < len(self.believed) and self._fits(
                    self.believed[-1 - count], frame, count
                ):
                    self._forget(count, frame)
                    break
            else:
                self.breaks.add(frame)
                self._believe(frame)
                position += 1

    def _believe(self, frame: int) -> None:
        if not self.believed or not self._goes_on(frame):
            self._runs.append(len(self.believed))
        self.believed.append(frame)

    def _forget(self, count: int, frame: int) -> None:
        """Cease to believe the last ``count`` stamps before ``frame``."""
        del self.believed[-count:]
        self.impossible += count
        self.breaks.difference_update(range(self.believed[-1] + 1, frame))
        while self._runs[-1] >= len(self.believed):
            self._runs.pop()

    def _goes_on(self, frame: int) -> bool:
        step = self.stamps[frame] - self.stamps[self.believed[-1]]
        return bool(0 <= step <= self._near_seconds)

    def _returns(self, frame: int) -> bool:
        """Whether a frame has the time that it would have if the clock had never left it.

        Then all stamps since it did are impossible, and not the clock of another recording.
        """
        if len(self._runs) < 2 or self._goes_on(frame):
            return False
        before = self.believed[self._runs[-1] - 1]
        passed = self.stamps[frame] - self.stamps[before]
        expected = self._ends[frame] - self._ends[before]
        return bool(passed >= 0 and abs(passed - expected) <= self._near_seconds)

    def _follows(self, before: int, frame: int) -> bool:
        begin, end = self.stamps[before], self.stamps[frame]
        return bool(begin <= end and self.rules.is_gap(begin, end))

    def _fits(self, before: int, after: int, left_out: int) -> bool:
        """Whether two frames fit each other closely if so many between them are left out."""
        step = self.stamps[after] - self.stamps[before]
        return bool(0 <= step <= (left_out + 1) * self._near_seconds)

    def seconds(self) -> Seconds:
        """(N,) times of all frames."""
        times = np.zeros(len(self.stamps))
        first = self.believed[0]
        times[1 : first + 1] = np.cumsum(self.steps[:first])
        offset = times[first] - self.stamps[first]  # from the clock of the file to ours
        for before, frame in pairwise(self.believed):
            counted = times[before] + np.cumsum(self.steps[before:frame])
            if frame in self.breaks:
                offset = counted[-1] - self.stamps[frame]
            times[frame] = max(self.stamps[frame] + offset, times[before])
            if frame - before > 1:
                replaced = not np.isnan(self.stamps[before + 1 : frame]).all()
                if replaced or counted[-2] > times[frame]:
                    counted = np.linspace(times[before], times[frame], frame - before + 1)[1:]
                times[before + 1 : frame] = counted[:-1]
        last = self.believed[-1]
        times[last + 1 :] = times[last] + np.cumsum(self.steps[last:-1])
        return times

    def words(self) -> tuple[str, ...]:
        """What was mended."""
        words = []
        if self.impossible:
            words.append(f"impossible time stamps are replaced ({self.impossible})")
        if self.breaks:
            words.append(
                f"the clock breaks {_times(len(self.breaks))}, and times are counted on from the "
                "frame before"
            )
        return tuple(words)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
