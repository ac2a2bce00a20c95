"""Which stamps are believed, and what becomes of clocks that break."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from ccl_hub.video.times import NO_TIME, ClockRules, FrameTimes, Stamps, frame_times, merged

MS = Fraction(1, 1000)
PAUSES = ClockRules(max_gap_seconds=30 * 3600)
RESTARTS = ClockRules(max_gap_seconds=10)
MAD = 2_147_483_647

Ticks = Sequence[int | None]


def times(
    pts: Ticks,
    dts: Ticks | None = None,
    durations: Sequence[int] | None = None,
    rules: ClockRules = PAUSES,
) -> FrameTimes:
    columns = [
        np.array([NO_TIME if tick is None else tick for tick in column], dtype=np.int64)
        for column in (pts, dts or [None] * len(pts))
    ]
    lengths = np.array(durations or [0] * len(pts), dtype=np.int64)
    return frame_times(Stamps(*columns, lengths, MS, 0.04), rules)


def seconds(pts: Ticks, *rest: Sequence[int], rules: ClockRules = PAUSES) -> list[float]:
    durations = rest[0] if rest else None
    return times(pts, durations=durations, rules=rules).seconds.round(6).tolist()


def regular(count: int) -> list[float]:
    return [round(0.04 * i, 6) for i in range(count)]


def test_times_count_from_the_first_frame() -> None:
    assert seconds([500, 540, 600]) == [0, 0.04, 0.1]
    assert seconds([7]) == [0]
    assert seconds([]) == []
    assert times([500, 540, 600]).mends == ()


def test_a_missing_time_follows_the_frame_before() -> None:
    assert seconds([0, 40, None, 120, 160], [40, 40, 20, 40, 40]) == [0, 0.04, 0.08, 0.12, 0.16]
    assert seconds([None, 0, 40, 80, 120]) == regular(5)
    assert seconds([0, 40, 80, None, None, None, 90, 130, 170]) == [
        *(0, 0.04, 0.08, 0.0825, 0.085, 0.0875, 0.09, 0.13, 0.17)
    ]
    assert seconds([None] * 3) == [0, 0.04, 0.08]


def test_a_clock_that_jumps_back_goes_on() -> None:
    result = times([1000, 1040, 1080, 0, 40, 80])
    assert result.seconds.round(6).tolist() == regular(6)
    assert result.mends == (
        "the clock breaks once, and times are counted on from the frame before",
    )


def test_a_clock_that_stands_still_counts_durations() -> None:
    assert seconds([9, 9, 9, 9], [80, 80, 80, 80]) == [0, 0.08, 0.16, 0.24]
    assert seconds([9, 9, 9, 9]) == regular(4)
    assert "durations are counted" in times([9, 9, 9, 9]).mends[0]
    assert times([None] * 4).mends == ()  # there is no clock to mend


def test_two_frames_at_one_time_stay_there() -> None:
    assert seconds([0, 40, 40, 80, 120]) == [0, 0.04, 0.04, 0.08, 0.12]


def test_decode_times_are_taken_where_only_they_ascend() -> None:
    """AVI with B-frames: PTS made of the order of decoding; no DTS for what is left at the end."""
    pts = [1, 4, 3, 5, 2, 8, 7, 9, 6, 10]
    dts = [2, 3, 4, 5, 6, 7, 8, 9, None, None]
    result = times([40 * t for t in pts], [t and 40 * t for t in dts])
    assert result.seconds.round(6).tolist() == regular(10)
    assert result.source == "dts"
    assert result.mends == ("presentation times go back 4 times, so decode times are used",)


def test_decode_times_may_be_irregular() -> None:
    result = times([0, 300, 100, 400], [100, 200, 300, 900])
    assert result.seconds.round(6).tolist() == [0, 0.1, 0.2, 0.8]


def test_presentation_times_win_a_tie() -> None:
    result = times([0, 40, 120], [40, 80, 120])
    assert (result.source, result.seconds.round(6).tolist()) == ("pts", [0, 0.04, 0.12])


def test_a_stamp_that_is_missing_is_better_than_one_that_stands_still() -> None:
    result = times([0, 40, 80, 80], [40, 80, 120, None])
    assert (result.source, result.seconds.round(6).tolist()) == ("dts", regular(4))


def test_durations_that_do_not_fit_the_times_are_not_counted() -> None:
    result = times([None] * 6, [0, 40, 80, 120, None, None], [20] * 6)
    assert (result.seconds.round(6).tolist(), result.durations_fit) == (regular(6), False)


def test_many_gaps_and_many_sounds_take_no_time() -> None:
    starts = 100 * np.arange(20_000)
    rules = ClockRules(10, merged((start, start + 20) for start in starts.tolist()))
    assert not any(rules.is_gap(start + 20, start + 100) for start in starts.tolist())
    assert all(rules.is_gap(start + 1, start + 19) for start in starts.tolist())


def test_missing_presentation_times_are_no_mend() -> None:
    result = times([None, None, None, 120], [0, 40, 80, 120])
    assert (result.source, result.mends) == ("dts", ())


@pytest.mark.parametrize("stamp", [MAD, -MAD, 0, 3_600_000, -1])
@pytest.mark.parametrize("position", [1, 5, 8])
def test_one_impossible_stamp_moves_one_frame(stamp: int, position: int) -> None:
    stamps = [1000 + 40 * i for i in range(10)]
    stamps[position] = stamp
    result = times(stamps)
    assert result.seconds.round(6).tolist() == regular(10)
    assert result.mends == ("impossible time stamps are replaced (1)",)


@pytest.mark.parametrize("many", [2, 3])
@pytest.mark.parametrize("stamp", [MAD, 0])
def test_a_few_impossible_stamps_in_a_row(many: int, stamp: int) -> None:
    stamps = [1000 + 40 * i for i in range(12)]
    stamps[4 : 4 + many] = [stamp + i for i in range(many)]
    assert seconds(stamps) == regular(12)


@pytest.mark.parametrize("ahead", [65_000, 5 * 3_600_000, MAD, -900, -100_000])
@pytest.mark.parametrize("many", [4, 10, 100])
def test_a_clock_that_returns_was_never_gone(many: int, ahead: int) -> None:
    """Such as in one cluster of Matroska whose time is damaged."""
    stamps = [1000 + 40 * i for i in range(300)]
    for i in range(50, 50 + many):
        stamps[i] += ahead
    result = times(stamps)
    if abs(ahead) < 1000:  # nobody can tell it from irregular frames and a joint
        assert np.all(np.diff(result.seconds) >= 0)
        assert result.seconds[-1] == pytest.approx(299 * 0.04, abs=1.0)
        return
    np.testing.assert_allclose(result.seconds, np.arange(300) / 25, atol=1e-9)
    assert result.mends == (f"impossible time stamps are replaced ({many})",)


def test_a_pause_before_a_joint_stays_a_pause() -> None:
    """The second recording begins before the pause of the first: it does not return to it."""
    stamps = [*range(0, 240, 40), *range(60_000, 60_200, 40), *range(0, 400, 40)]
    result = times(stamps)
    expected = [*regular(6), *(60 + np.arange(15) / 25)]
    np.testing.assert_allclose(result.seconds, expected, atol=1e-9)


@pytest.mark.parametrize("position", [0, 9])
def test_an_impossible_stamp_at_either_end(position: int) -> None:
    stamps = [1000 + 40 * i for i in range(10)]
    stamps[position] = MAD
    assert seconds(stamps) == regular(10)


def test_an_impossible_stamp_among_slides() -> None:
    assert seconds([0, 10_000, MAD, 30_000, 40_000]) == [0, 10, 20, 30, 40]


def test_a_pause_stays_a_pause() -> None:
    assert seconds([0, 40, 60_040, 60_080]) == [0, 0.04, 60.04, 60.08]
    assert seconds([0, 40, 60_040, 60_080], rules=PAUSES) == [0, 0.04, 60.04, 60.08]
    day = 24 * 3600
    assert seconds([0, 40, 1000 * day]) == [0, 0.04, day]


def test_a_jump_of_days_is_no_pause() -> None:
    stamps = [*range(0, 1000, 40), *range(864_001_000, 864_002_000, 40)]
    assert seconds(stamps) == regular(50)
    durations = [40] * 50
    durations[24] = 864_000_040  # as MP4 states it: until the next frame
    assert seconds(stamps, durations) == regular(50)


def test_a_clock_that_may_restart_has_short_pauses() -> None:
    stamps = [0, 40, 80, 600_000, 600_040]
    assert seconds(stamps, rules=RESTARTS) == regular(5)
    assert seconds([0, 40, 9_000, 9_040], rules=RESTARTS) == [0, 0.04, 9, 9.04]
    heard = ClockRules(10, heard=merged([(0.0, 20.0), (0.5, 599.5)]))
    assert seconds(stamps, rules=heard) == [0, 0.04, 0.08, 600, 600.04]


def test_pieces_joined_are_as_long_as_what_they_show() -> None:
    pieces = [range(start, start + 400, 40) for start in (126_000, 500_000, 0, 95_443_000, 3_000)]
    result = times([tick for piece in pieces for tick in piece], rules=RESTARTS)
    assert result.seconds.round(6).tolist() == regular(50)
    assert result.mends[-1].startswith("the clock breaks 4 times")


def test_a_missing_time_where_the_clock_breaks() -> None:
    assert seconds([1000, 1040, 1080, 1120, None, 0, 40, 80, 120]) == regular(9)


def test_the_end_is_that_of_a_stamp_that_is_believed() -> None:
    assert times([0, 40, 80, MAD, 160]).end_tick == 160
    assert times([0, 40, 80]).end_tick == 80


def test_mending_takes_time_linear_in_the_frames() -> None:
    generator = np.random.default_rng(0)
    stamps = np.arange(200_000) * 40
    stamps[generator.random(len(stamps)) < 0.1] = MAD
    result = frame_times(
        Stamps(stamps, np.full_like(stamps, NO_TIME), np.zeros_like(stamps), MS, 0.04), PAUSES
    )
    assert np.all(np.diff(result.seconds) >= 0)
    assert result.seconds[-1] == pytest.approx(8000, rel=0.05)
