"""Votes and segments, from points whose line is known."""

from __future__ import annotations

import numpy as np
import pytest

from ccl_hub.find.matching.segments import (
    Line,
    Points,
    Reach,
    best_line,
    best_stretch,
    segments_of,
)

STEP = 0.5


def points_on(lines, seconds, noise=40, seed=0, evidence=5.0) -> Points:
    """Points of query frames on lines (offset, speed, from, to), and chance matches."""
    generator = np.random.default_rng(seed)
    frames, times, values = [], [], []
    for offset, speed, begin, end in lines:
        inside = np.flatnonzero((seconds >= begin) & (seconds <= end))
        shown = offset + speed * seconds[inside]
        frames += inside.tolist()
        times += (np.round(shown / STEP) * STEP).tolist()  # the library has a frame every STEP
        values += [evidence] * len(inside)
    frames += generator.integers(0, len(seconds), noise).tolist()
    times += generator.uniform(0, 200, noise).tolist()
    values += generator.uniform(0, 2, noise).tolist()
    return Points(np.array(frames), np.array(times), np.array(values))


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.25, 2.0])
def test_offset_and_speed_are_found(speed: float) -> None:
    seconds = np.arange(0, 20, 0.5)
    line = best_line(seconds, np.ones(40), points_on([(60.0, speed, 0, 20)], seconds))
    assert line is not None
    assert line.speed == pytest.approx(speed, rel=0.03)
    assert np.abs(line.at(seconds) - (60 + speed * seconds)).max() < 0.5


def test_a_short_stretch_is_at_normal_speed() -> None:
    seconds = np.arange(0, 3, 0.25)
    line = best_line(seconds, np.ones(12), points_on([(30.0, 1.0, 0, 3)], seconds, noise=10))
    assert line is not None and line.speed == pytest.approx(1.0, abs=0.2)
    assert abs(line.at(np.array([1.5]))[0] - 31.5) < 0.5


def along_of(lines, seconds):
    """Compare as if the video showed the query on these lines, and nothing like it elsewhere."""

    def along(line: Line):
        evidence = np.full(len(seconds), -2.0)
        for offset, speed, begin, end in lines:
            on = np.abs(line.at(seconds) - (offset + speed * seconds)) <= 0.75
            evidence[on & (seconds >= begin) & (seconds <= end)] = 5.0
        return evidence, np.where(evidence > 0, 0.9, 0.1)

    return along


def test_one_video_gives_several_segments_trimmed_to_a_frame() -> None:
    seconds = np.arange(0, 60, 0.5)
    lines = [(100.0, 1.0, 5, 15), (20.0, 1.0, 30, 42), (80.0, 1.25, 48, 56)]
    points, along = points_on(lines, seconds), along_of(lines, seconds)
    found = segments_of(seconds, np.ones(len(seconds)), points, along, 10.0)
    spans = sorted((seconds[one.first], seconds[one.last]) for one in found)
    assert len(spans) == 3
    for (first, last), (_, _, begin, end) in zip(spans, lines, strict=True):
        assert abs(first - begin) <= 0.5 and abs(last - end) <= 0.5
    assert all(one.similarity == pytest.approx(0.9) for one in found)


def test_a_stretch_that_comes_twice_is_found_twice() -> None:
    seconds = np.arange(0, 10, 0.5)
    lines = [(10.0, 1.0, 0, 10), (70.0, 1.0, 0, 10)]
    found = segments_of(
        seconds, np.ones(20), points_on(lines, seconds, noise=0), along_of(lines, seconds), 10.0
    )
    assert sorted(round(one.line.at(seconds[:1])[0]) for one in found) == [10, 70]


def test_a_short_gap_is_bridged_and_a_long_one_is_not() -> None:
    seconds = np.arange(0, 40, 0.5)
    near = [(50.0, 1.0, 0, 10), (50.0, 1.0, 12, 20)]
    far = [(50.0, 1.0, 0, 10), (50.0, 1.0, 30, 40)]
    for lines, count in ((near, 1), (far, 2)):
        found = segments_of(
            *(seconds, np.ones(80), points_on(lines, seconds), along_of(lines, seconds), 10.0)
        )
        assert len(found) == count


@pytest.mark.parametrize("step", [3.0, 5.0, 10.0])
def test_frames_far_apart_still_make_a_segment(step: float) -> None:
    """A library of a frame every ``step`` seconds is asked with twice as many."""
    seconds = np.arange(0, 40 * step, step / 2)
    begin, end, offset = 5 * step, 25 * step, 31.7 * step
    inside = np.flatnonzero((seconds >= begin) & (seconds <= end))
    shown = np.round((offset + seconds[inside]) / step) * step
    points = Points(inside, shown, np.full(len(inside), 5.0))

    def along(line: Line):
        on = np.abs(line.at(seconds) - (offset + seconds)) <= 0.75 * step
        evidence = np.where(on & (seconds >= begin) & (seconds <= end), 5.0, -2.0)
        return evidence, np.full(len(seconds), 0.9)

    found = segments_of(seconds, np.ones(len(seconds)), points, along, 10.0, Reach.of(step))
    assert len(found) == 1 and found[0].line.speed == 1.0
    assert seconds[found[0].first] == begin and seconds[found[0].last] == end
    assert abs(found[0].line.offset - offset) <= step / 2


def test_key_frames_far_apart_are_one_segment() -> None:
    seconds = np.arange(0, 40, 0.5)
    evidence = np.full(80, np.nan)
    evidence[::16] = 4.0  # a key frame every 8 seconds
    assert best_stretch(np.nan_to_num(evidence), seconds) == (0, 0, 4.0)
    reach = Reach.of(0.5, 8.0)
    assert best_stretch(np.nan_to_num(evidence), seconds, reach.merged) == (0, 64, 20.0)
    assert Reach.of(0.5) == Reach()


def test_what_nothing_bears_out_is_no_segment() -> None:
    seconds = np.arange(0, 10, 0.5)
    points = points_on([(10.0, 1.0, 0, 10)], seconds)
    nothing = along_of([], seconds)
    assert segments_of(seconds, np.ones(20), points, nothing, 10.0) == []
    assert best_line(seconds, np.ones(20), points[np.zeros(len(points.frames), bool)]) is None
    assert best_stretch(np.full(5, -1.0), np.arange(5.0)) is None
