"""Sampling is pure arithmetic on presentation times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_hub import sampling
from ccl_hub.config import FRAME_CHOICES, Preprocessing
from ccl_hub.errors import InputError, MediaLimitError
from ccl_hub.frame_choice import CHOOSERS

PAPER = Preprocessing()

gaps = st.lists(st.floats(0.001, 2.0), min_size=0, max_size=60)
durations = st.floats(0.0, 10_000.0)
lengths = st.floats(0.01, 100.0)


def times_of(steps: list[float]) -> tuple[np.ndarray, float]:
    """Return presentation times and the end of the last frame."""
    times = np.concatenate(([0.0], np.cumsum(steps)))
    return times, float(times[-1]) + (steps[-1] if steps else 0.04)


def test_clips_at_chosen_seconds_come_in_the_order_asked_for():
    """Those behind the last frame start with it."""
    pre = Preprocessing(clip_frames=1, frame_interval_seconds=0.001, frame_choice="on_screen")
    times = np.arange(100) / 25
    plan = sampling.Sampling(at_seconds=(2.0, 0.5, 99.0)).plan(times, 4.0, pre)
    assert plan.indices.tolist() == [[50], [12], [99]]
    for wrong in ((), (-1.0,), (float("nan"),)):
        with pytest.raises(InputError, match="at_seconds"):
            sampling.Sampling(at_seconds=wrong)
    with pytest.raises(InputError, match="give one"):
        sampling.Sampling(clips=2, at_seconds=(1.0,))


def test_instants_are_segment_centres() -> None:
    instants = sampling.clip_instants(2.0, 8, 0.16)
    np.testing.assert_allclose(instants, 2.0 + 0.08 + 0.16 * np.arange(8), atol=1e-12)


@given(durations, st.integers(1, 50), lengths)
def test_uniform_clips_have_evenly_spaced_centres(duration: float, clips: int, m: float) -> None:
    starts = sampling.uniform_clip_starts(duration, clips, m)
    assert starts.shape == (clips,)
    if duration < m:
        np.testing.assert_array_equal(starts, 0)
    elif clips > 1:
        centres = np.linspace(m / 2, duration - m / 2, clips)
        np.testing.assert_allclose(starts + m / 2, centres, atol=1e-9 * max(1, duration))
    else:
        assert starts[0] == pytest.approx((duration - m) / 2)


@given(st.floats(0.0, 500.0), st.floats(0.05, 50.0), lengths)
def test_windows_cover_the_video_and_keep_the_tail(
    duration: float, every: float, m: float
) -> None:
    starts = sampling.window_starts(duration, every, m)
    assert starts[0] == 0 and np.all(np.diff(starts) > 0)
    np.testing.assert_allclose(starts[:-1], np.arange(len(starts) - 1) * every, atol=1e-9)
    if duration >= m:
        assert starts[-1] + m == pytest.approx(duration, abs=1e-5)
    else:
        assert starts.tolist() == [0.0]
    assert np.all(np.diff(starts) <= every + 1e-9)


def test_a_window_that_ends_exactly_at_the_end_has_no_twin() -> None:
    assert sampling.window_starts(1.28 * 5, 1.28, 1.28).tolist() == [0, 1.28, 2.56, 3.84, 5.12]
    assert sampling.window_starts(0.3, 0.1, 0.1).size == 3


@given(gaps, st.lists(st.floats(0.0, 500.0), min_size=1, max_size=30))
def test_nearest_frames_are_nearest(steps: list[float], instants: list[float]) -> None:
    times, duration = times_of(steps)
    got = sampling.nearest_frames(times, np.array(instants), duration)
    for instant, index in zip(instants, got, strict=True):
        past = instant >= duration - 1e-6
        looped = max((instant + 1e-6) % duration - 1e-6, 0.0) if past else instant
        distance = np.abs(times - looped)
        assert distance[index] <= distance.min() + 2e-6
        assert not np.any(distance[:index] < distance[index] - 2e-6)


def test_of_two_equally_near_frames_the_earlier_is_taken() -> None:
    times = np.array([0.0, 0.16, 0.32, 0.48])
    instants = sampling.clip_instants(0.0, 3, 0.16)
    assert sampling.nearest_frames(times, instants, 0.64).tolist() == [0, 1, 2]


def test_short_videos_loop() -> None:
    times = np.arange(10) / 25  # 0.4 s for a clip of 1.28 s
    plan = sampling.sample_eval(times, 0.4, PAPER, clips=3)
    assert plan.indices.tolist() == [[2, 6, 0, 4, 8, 2, 6, 0]] * 3
    assert plan.clip_seconds.tolist() == [[0.0, 0.4]] * 3


@pytest.mark.parametrize("duration", [0.0, 0.04, 5.0])
def test_one_frame_fills_every_clip(duration: float) -> None:
    plan = sampling.sample_eval(np.zeros(1), duration, PAPER, clips=2)
    assert plan.indices.shape == (2, 8) and not plan.indices.any()
    assert not plan.frame_seconds.any()


@given(gaps, st.integers(1, 12), st.one_of(st.none(), st.floats(0.1, 5.0)))
def test_plans_are_consistent(steps: list[float], clips: int, every: float | None) -> None:
    times, duration = times_of(steps)
    plan = sampling.sample_eval(times, duration, PAPER, clips=clips, every_seconds=every)
    assert plan.indices.dtype == np.int64 and plan.indices.shape[1] == 8
    assert every is not None or len(plan.indices) == clips
    np.testing.assert_array_equal(plan.frame_seconds, times[plan.indices])
    assert np.all(plan.clip_seconds[:, 0] >= 0)
    assert np.all(plan.clip_seconds[:, 1] <= duration + 1e-9)
    if duration >= PAPER.clip_seconds:
        assert np.all(np.diff(plan.indices, axis=1) >= 0)


@given(st.integers(2, 6))
def test_frame_rate_does_not_move_the_sampled_instants(factor: int) -> None:
    """A video with each frame repeated at a multiple of the rate samples the same moments."""
    slow, fast = np.arange(100) / 12.5, np.arange(100 * factor) / (12.5 * factor)
    a = sampling.sample_eval(slow, 8.0, PAPER, clips=5)
    b = sampling.sample_eval(fast, 8.0, PAPER, clips=5)
    np.testing.assert_allclose(a.clip_seconds, b.clip_seconds, atol=1e-12)
    assert np.abs(a.frame_seconds - b.frame_seconds).max() <= 0.5 / 12.5 + 1e-6


@given(gaps, st.integers(0, 2**32), st.integers(1, 4))
def test_training_draws_one_frame_of_each_segment(
    steps: list[float], seed: int, views: int
) -> None:
    times, duration = times_of(steps)
    got = sampling.sample_train(times, duration, 8, 0.16, np.random.default_rng(seed), views)
    assert got.shape == (views, 8) and got.dtype == np.int64
    assert np.all((got >= 0) & (got < len(times)))
    again = sampling.sample_train(times, duration, 8, 0.16, np.random.default_rng(seed), views)
    np.testing.assert_array_equal(got, again)
    if duration >= 1.28:
        assert np.all(np.diff(got, axis=1) >= 0)


def test_training_jitter_fills_start_and_segments() -> None:
    times = np.arange(10_000) / 1000  # one frame a millisecond
    draws = np.concatenate(
        [
            sampling.sample_train(times, 10.0, 8, 0.16, np.random.default_rng(i), views=4)
            for i in range(500)
        ]
    )
    assert draws[:, 0].min() < 60 and draws[:, 0].max() > 8700
    steps = np.diff(draws, axis=1)  # two offsets, each uniform in its own 160 ms segment
    assert steps.min() < 15 and steps.max() > 305 and abs(steps.mean() - 160) < 2
    assert len({tuple(row) for row in draws}) == 2000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sampling.clip_instants(0, 0, 0.1), "clip_frames is 0; allowed: 1 or more"),
        (lambda: sampling.clip_instants(0, 8, 0.0), "frame_interval_seconds is 0"),
        (lambda: sampling.uniform_clip_starts(-1, 3, 1), "duration_seconds is -1; allowed: 0"),
        (lambda: sampling.uniform_clip_starts(float("nan"), 3, 1), "duration_seconds is nan"),
        (
            lambda: sampling.uniform_clip_starts(1, 0, 1),
            "clips is 0; allowed: a whole number 1 to 10",
        ),
        (lambda: sampling.Sampling("3"), "clips is '3'; allowed: a whole number"),
        (lambda: sampling.Sampling(2.5), r"clips is 2\.5; allowed: a whole number"),
        (lambda: sampling.Sampling(None, "1"), "every_seconds is '1'; allowed: more than 0"),
        (lambda: sampling.window_starts(1, 0, 1), "every_seconds is 0; allowed: more than 0"),
        (lambda: sampling.window_starts(1e9, 1e-3, 1), "more than 1000000 windows"),
        (lambda: sampling.nearest_frames(np.zeros(0), np.zeros(1), 1), r"shape \(0,\)"),
        (lambda: sampling.nearest_frames(np.array([1.0, 0]), np.zeros(1), 1), "ascending"),
        (lambda: sampling.nearest_frames(np.zeros(2), np.array([np.inf]), 1), "instants must be"),
        (lambda: sampling.sample_eval(np.array([0, np.nan]), 1, PAPER), "finite and ascending"),
        (
            lambda: sampling.sample_train(np.zeros(1), 1, 8, 0.1, np.random.default_rng(), 0),
            "views is 0",
        ),
        (
            lambda: sampling.ClipPlan(np.zeros((2, 8), int), np.zeros((2, 2)), np.zeros((2, 7))),
            r"must have \(2, 2\) and \(2, 8\)",
        ),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


# Which frame -----------------------------------------------------------------------------------

ON_SCREEN = Preprocessing(frame_choice="on_screen")


@given(gaps, st.lists(st.floats(0.0, 200.0), min_size=1, max_size=20))
def test_on_screen_frames_are_those_a_player_shows(
    steps: list[float], instants: list[float]
) -> None:
    times, duration = times_of(steps)
    got = sampling.on_screen_frames(times, np.array(instants), duration)
    for instant, index in zip(instants, got.tolist(), strict=True):
        at = instant % duration
        beside = {at - 2e-6, at, at + 2e-6, 0.0 if duration - at < 2e-6 else at}  # rounding
        shown = {max((i for i, t in enumerate(times) if t <= x), default=0) for x in beside}
        assert index in shown, (instant, index)


def test_a_frame_comes_at_its_time_whatever_rounding_does_to_it() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.2, 0.3])
    instants = np.array([0.1 - 4e-7, 0.1 - 2e-6, 0.1 + 0.2 - 1e-16, 0.2, 0.4 - 4e-7])
    assert sampling.on_screen_frames(times, instants, 0.4).tolist() == [1, 0, 4, 3, 0]
    # A stream may begin with a frame that is later than its start; it is shown at once.
    assert sampling.on_screen_frames(np.array([0.5, 1.0]), np.array([0.2]), 2.0).tolist() == [0]
    assert sampling.on_screen_frames(np.zeros(1), np.array([0.0, 3.0]), 0.0).tolist() == [0, 0]


def test_slides_are_seen_while_they_are_on_screen() -> None:
    """Of 31 clips of slides of 10 s, 19 had a slide that is not on screen yet, or 13 in most."""
    times, wrong = np.arange(7) * 10.0, {}
    for pre in (PAPER, ON_SCREEN):
        plan = sampling.Sampling(every_seconds=2.0).plan(times, 60.04, pre)
        assert (plan.frame_seconds == times[plan.indices]).all()
        instants = plan.clip_seconds[:, :1] + 0.08 + 0.16 * np.arange(8)  # (31,8)
        wrong[pre.frame_choice] = int((plan.indices != instants // 10).any(axis=1).sum())
    assert wrong == {"nearest": 19, "on_screen": 0}


@given(gaps, st.integers(0, 2**32 - 1))
def test_training_draws_by_the_rule_it_is_given(steps: list[float], seed: int) -> None:
    times, duration = times_of(steps)
    draws = [
        sampling.sample_train(
            times, duration, 8, 0.16, np.random.default_rng(seed), 3, frame_choice=choice
        )
        for choice in ("on_screen", "nearest")
    ]
    random = np.random.default_rng(seed).random((3, 9))
    room = max(0.0, duration - 8 * 0.16)
    instants = random[:, :1] * room + (np.arange(8) + random[:, 1:]) * 0.16
    choosers = (sampling.on_screen_frames, sampling.nearest_frames)
    for drawn, choose in zip(draws, choosers, strict=True):
        np.testing.assert_array_equal(drawn, choose(times, instants, duration))


def test_every_frame_choice_of_the_configuration_has_a_rule() -> None:
    assert set(CHOOSERS) == set(FRAME_CHOICES)
    with pytest.raises(InputError, match="frame_choice is 'next'; allowed: nearest, on_screen"):
        sampling.sample_train(
            np.zeros(1), 1.0, 8, 0.1, np.random.default_rng(), frame_choice="next"
        )


# How many windows ------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [PAPER, ON_SCREEN], ids=["nearest", "on_screen"])
@pytest.mark.parametrize(
    ("times", "duration"),
    [
        (np.r_[np.arange(25), np.arange(25) + 29 * 3600 * 25] / 25, 29 * 3600 + 2.0),  # it jumps
        (np.arange(50) * 2088.0, 29 * 3600.0),  # spread over as long
        (np.r_[np.arange(150_000), [150_000 + 29 * 3600 * 25]] / 25, 31 * 3600.0),  # a long film
        (np.r_[0.0, 1e15], 2e15),  # more windows than could be counted
    ],
)
def test_windows_that_only_a_clock_asks_for_are_refused(
    times: np.ndarray, duration: float, pre: Preprocessing
) -> None:
    every_second = sampling.Sampling(every_seconds=1.0)
    with pytest.raises(MediaLimitError, match=r"windows; allowed: 20000, .*max_windows") as caught:
        every_second.plan(times, duration, pre, 20_000)
    # What it says to do helps.
    words = str(caught.value).split("of at least ")[1]
    enough = sampling.Sampling(every_seconds=float(words.split(",")[0]))
    assert 10_000 < len(enough.plan(times, duration, pre, 20_000).indices) <= 20_000
    assert len(sampling.Sampling(clips=10).plan(times, duration, pre, 20_000).indices) == 10


@pytest.mark.parametrize("every", [0.02, 0.04, 1.0])
def test_long_videos_have_as_many_windows_as_ever(every: float) -> None:
    times = np.arange(100_000) / 25  # 67 minutes
    pre = ON_SCREEN
    plan = sampling.Sampling(every_seconds=every).plan(times, 4000.0, pre, 2000)
    assert len(plan.indices) == len(sampling.window_starts(4000.0, every, pre.clip_seconds))


def test_a_lecture_of_slides_has_a_window_every_second() -> None:
    times = np.arange(180) * 60.0
    plan = sampling.Sampling(every_seconds=1.0).plan(times, 10_800.0, PAPER, 20_000)
    assert len(plan.indices) == 10_800
