"""From presentation times to the frames of each clip: pure functions on numpy arrays.

A clip is T instants, one in each of T neighbouring segments of ``frame_interval_seconds``; each
instant takes a frame by its presentation time, so 25, 50 and variable frame rates sample the same
moments. Evaluation takes the segment centres; training draws one offset inside each segment
(paper, Section 4.1: clips of M frames, one frame of every M/L). A video shorter than a clip is
looped: an instant past its end is taken modulo its duration.

:mod:`ccl_hub.frame_choice` has the rules by which an instant takes a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from ._util.checks import whole_number
from .config import Preprocessing
from .errors import InputError, MediaLimitError
from .frame_choice import (
    CHOOSERS,
    TIE_SECONDS,
    Indices,
    Seconds,
    check_duration,
    check_times,
    nearest_frames,
    on_screen_frames,
)

__all__ = [
    "ClipPlan",
    "Sampling",
    "clip_instants",
    "nearest_frames",
    "on_screen_frames",
    "sample_eval",
    "sample_train",
    "uniform_clip_starts",
    "window_starts",
]

DEFAULT_CLIPS = 10
MAX_CLIPS = 1_000_000
"""Most clips one call may ask for; more is a mistaken ``every_seconds``."""

WINDOWS_PER_FRAME = 3
"""Most windows that begin on one frame, on average, in a video with more than ``max_windows``."""


@dataclass(frozen=True)
class ClipPlan:
    """Which frames make which clip.

    Args:
        indices: (W, T) int64, frame indices in presentation order; a frame may occur repeatedly.
        clip_seconds: (W, 2) float64, start and end of each clip, the end at most the duration.
        frame_seconds: (W, T) float64, presentation time of each frame.
    """

    indices: Indices
    clip_seconds: Seconds
    frame_seconds: Seconds

    def __post_init__(self) -> None:
        clips, frames = self.indices.shape
        shapes = (self.clip_seconds.shape, self.frame_seconds.shape)
        if shapes != ((clips, 2), (clips, frames)):
            raise InputError(
                f"ClipPlan: indices have shape {self.indices.shape}, so clip_seconds and "
                f"frame_seconds must have ({clips}, 2) and ({clips}, {frames}), not "
                f"{shapes[0]} and {shapes[1]}."
            )


@dataclass(frozen=True)
class Sampling:
    """Which clips of a video are embedded.

    Args:
        clips: Clips spread evenly over the whole video; 10 if neither is given, as the paper
            evaluates.
        every_seconds: Instead: a clip starting every so many seconds, tail included.
        at_seconds: Instead: a clip starting at each of these seconds, in this order; those behind
            the last frame start with it.

    Raises:
        InputError: Two of them are given, or one is out of range.
    """

    clips: int | None = None
    every_seconds: float | None = None
    at_seconds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.at_seconds is not None:
            self._check_instants(self.at_seconds)
        elif self.clips is not None and self.every_seconds is not None:
            raise InputError(
                f"both clips={self.clips} and every_seconds={self.every_seconds} were given; "
                "give one."
            )
        elif self.every_seconds is not None:
            window_starts(0.0, self.every_seconds, 1.0)
        else:
            uniform_clip_starts(0.0, self.clip_count, 1.0)

    def _check_instants(self, at_seconds: tuple[float, ...]) -> None:
        if self.clips is not None or self.every_seconds is not None:
            raise InputError("at_seconds was given beside clips or every_seconds; give one.")
        whole_number("the number of at_seconds", len(at_seconds), 1, MAX_CLIPS)
        for at in at_seconds:
            if not 0 <= at < math.inf:
                raise InputError(f"at_seconds has {at}; allowed: finite numbers from 0 on.")

    @property
    def clip_count(self) -> int:
        """Number of clips where it does not depend on the video."""
        return DEFAULT_CLIPS if self.clips is None else self.clips

    def can_give(self, plan: ClipPlan, max_windows: int | None) -> bool:
        """Whether :meth:`plan` can have made a plan; the last argument is that of it."""
        windows = len(plan.indices)
        if self.at_seconds is not None:
            return windows == len(self.at_seconds)
        if self.every_seconds is None:
            return windows == self.clip_count
        frames = len(np.unique(plan.indices))
        most = MAX_CLIPS if max_windows is None else max_windows
        return windows <= min(MAX_CLIPS, max(most, WINDOWS_PER_FRAME * frames))

    def __str__(self) -> str:
        if self.at_seconds is not None:
            return f"at_seconds={self.at_seconds}"
        if self.every_seconds is not None:
            return f"every_seconds={float(self.every_seconds)!r}".removesuffix(".0")
        return f"clips={self.clip_count}"

    def plan(
        self,
        frame_seconds: Seconds,
        duration_seconds: float,
        preprocessing: Preprocessing,
        max_windows: int | None = None,
    ) -> ClipPlan:
        """Choose the frames of a video.

        Args:
            frame_seconds: See :func:`sample_eval`.
            duration_seconds: Likewise.
            preprocessing: Likewise.
            max_windows: See :class:`ccl_hub.video.MediaLimits`; None for 1,000,000.

        Raises:
            InputError: If an argument is out of range.
            MediaLimitError: ``every_seconds`` makes too many windows of this video.
        """
        if self.at_seconds is not None:
            last = check_times(frame_seconds)[-1]
            starts = np.minimum(np.array(self.at_seconds), last)
            return _clips_from(starts, frame_seconds, duration_seconds, preprocessing)
        if self.every_seconds is not None:
            _check_windows(
                np.asarray(frame_seconds),
                duration_seconds,
                self.every_seconds,
                preprocessing,
                MAX_CLIPS if max_windows is None else max_windows,
            )
        return sample_eval(
            frame_seconds,
            duration_seconds,
            preprocessing,
            clips=self.clip_count,
            every_seconds=self.every_seconds,
        )


def _check_windows(
    frame_seconds: Seconds,
    duration_seconds: float,
    every_seconds: float,
    preprocessing: Preprocessing,
    most: int,
) -> None:
    """Refuse windows that come from the clock alone: many that begin on the same few frames.

    A result grows with its windows, and a recording whose clock jumps by a day has very many.
    """
    room, most = max(0.0, duration_seconds - preprocessing.clip_seconds), min(most, MAX_CLIPS)
    steps = room / every_seconds
    if steps <= most - 1:
        return
    allowed, windows = most, f"more than {MAX_CLIPS}"
    if steps <= MAX_CLIPS - 1:
        begins = np.arange(math.ceil(steps), dtype=np.float64) * every_seconds
        begins += preprocessing.frame_interval_seconds / 2  # when each has its first frame
        choose = CHOOSERS[preprocessing.frame_choice]
        first = choose(frame_seconds, begins, duration_seconds)
        allowed = max(most, WINDOWS_PER_FRAME * len(np.unique(first)))
        windows = str(len(begins) + 1)
        if len(begins) < allowed:
            return
    enough = room / max(1, most - 1)
    unit = 10.0 ** (math.floor(math.log10(enough)) - 1)  # of the second digit
    raise MediaLimitError(
        f"a window every {every_seconds:g} s of {len(frame_seconds)} frames in "
        f"{duration_seconds:.0f} s makes {windows} windows; allowed: {allowed}, the larger of "
        f"{most} (MediaLimits.max_windows) and {WINDOWS_PER_FRAME} for each frame on which one "
        f"begins. Use every_seconds (--every) of at least {math.ceil(enough / unit) * unit:g}, or "
        "a number of clips."
    )


def clip_instants(
    start_seconds: float, clip_frames: int, frame_interval_seconds: float
) -> Seconds:
    """Return the centres of the ``clip_frames`` segments of one clip.

    Args:
        start_seconds: Start of the clip, in seconds from the first frame of the video.
        clip_frames: Number T of segments, at least 1.
        frame_interval_seconds: Length of a segment in seconds, above 0.

    Returns:
        (T,) float64: ``start + (k + 0.5) * interval``.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> clip_instants(1.0, 2, 0.16).tolist()
        [1.08, 1.24]
    """
    _check_clip(clip_frames, frame_interval_seconds)
    segments = np.arange(clip_frames, dtype=np.float64)
    return start_seconds + (segments + 0.5) * frame_interval_seconds


def uniform_clip_starts(duration_seconds: float, clips: int, clip_seconds: float) -> Seconds:
    """Return the starts of evenly spaced clips, the first at 0 and the last ending at the end.

    Their centres are ``linspace(M/2, duration - M/2, clips)`` with M the clip length, the
    protocol of the paper's tests. One clip lies in the middle. In a video shorter than a clip all
    start at 0.

    Args:
        duration_seconds: Length of the video, 0 or more.
        clips: Number W of clips, at least 1.
        clip_seconds: Length of a clip, above 0.

    Returns:
        (W,) float64, ascending.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> uniform_clip_starts(10.0, 3, 2.0).tolist()
        [0.0, 4.0, 8.0]
    """
    check_duration(duration_seconds)
    _check_positive("clip_seconds", clip_seconds)
    whole_number("clips", clips, 1, MAX_CLIPS)
    room = max(0.0, duration_seconds - clip_seconds)
    if clips == 1:
        return np.array([room / 2])
    return np.linspace(0.0, room, clips)


def window_starts(duration_seconds: float, every_seconds: float, clip_seconds: float) -> Seconds:
    """Return the starts of windows over the whole video, one every ``every_seconds``.

    Every window that fits is taken; when the last of them ends before the video does, one more
    window ends exactly at the end, so the tail is never dropped. A video shorter than a window
    has one, at 0, which is looped.

    Args:
        duration_seconds: Length of the video, 0 or more.
        every_seconds: Distance between neighbouring starts, above 0.
        clip_seconds: Length of a window, above 0.

    Returns:
        (W,) float64, ascending, W at least 1.

    Raises:
        InputError: If an argument is out of range or W would exceed 1,000,000.

    Example:
        >>> window_starts(5.0, 2.0, 2.0).tolist()
        [0.0, 2.0, 3.0]
    """
    check_duration(duration_seconds)
    _check_positive("every_seconds", every_seconds)
    _check_positive("clip_seconds", clip_seconds)
    room = max(0.0, duration_seconds - clip_seconds)
    if room / every_seconds > MAX_CLIPS - 2:
        raise InputError(
            f"every_seconds is {every_seconds} for a video of {duration_seconds} s: more than "
            f"{MAX_CLIPS} windows; use a larger value."
        )
    starts = np.arange(int(room / every_seconds + TIE_SECONDS) + 1) * every_seconds
    if room - starts[-1] > TIE_SECONDS:
        starts = np.append(starts, room)
    windows: Seconds = np.minimum(starts, room)
    return windows


def sample_eval(
    frame_seconds: Seconds,
    duration_seconds: float,
    preprocessing: Preprocessing,
    clips: int = 10,
    every_seconds: float | None = None,
) -> ClipPlan:
    """Choose the clips and frames by which a video is embedded.

    Args:
        frame_seconds: (N,) float64 presentation times from the first frame, ascending.
        duration_seconds: End of the last frame; 0 for a still image.
        preprocessing: Gives ``clip_frames``, ``frame_interval_seconds`` and ``frame_choice``.
        clips: Number of evenly spaced clips (the paper's protocol: 10); unused when
            ``every_seconds`` is given.
        every_seconds: Distance between windows over the whole video, or None.

    Returns:
        The plan: W clips of T frames, in order of time.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> plan = sample_eval(np.arange(100) / 25, 4.0, Preprocessing(), clips=2)
        >>> plan.indices.tolist()
        [[2, 6, 10, 14, 18, 22, 26, 30], [70, 74, 78, 82, 86, 90, 94, 98]]
    """
    length = preprocessing.clip_seconds
    if every_seconds is None:
        starts = uniform_clip_starts(duration_seconds, clips, length)
    else:
        starts = window_starts(duration_seconds, every_seconds, length)
    return _clips_from(starts, frame_seconds, duration_seconds, preprocessing)


def _clips_from(
    starts: Seconds,
    frame_seconds: Seconds,
    duration_seconds: float,
    preprocessing: Preprocessing,
) -> ClipPlan:
    """Return the clips that start at (W,) ``starts``; the others are those of sample_eval."""
    times, length = check_times(frame_seconds), preprocessing.clip_seconds
    offsets = clip_instants(0.0, preprocessing.clip_frames, preprocessing.frame_interval_seconds)
    choose = CHOOSERS[preprocessing.frame_choice]
    indices = choose(times, starts[:, None] + offsets, duration_seconds)  # (W, T)
    ends = np.minimum(starts + length, max(duration_seconds, float(times[-1])))
    return ClipPlan(indices, np.stack([starts, ends], axis=1), times[indices])


def sample_train(
    frame_seconds: Seconds,
    duration_seconds: float,
    clip_frames: int,
    frame_interval_seconds: float,
    generator: np.random.Generator,
    views: int = 1,
    frame_choice: str = "nearest",
) -> Indices:
    """Draw random clips of one video: a random start, and a random offset in each segment.

    Args:
        frame_seconds: (N,) float64 presentation times from the first frame, ascending.
        duration_seconds: End of the last frame.
        clip_frames: Frames T in a clip.
        frame_interval_seconds: Length of a segment in seconds.
        generator: Source of every random number; ``views * (1 + T)`` are drawn.
        views: Number of clips, drawn independently.
        frame_choice: Which frame an instant takes; that of the preprocessing.

    Returns:
        (views, T) int64 frame indices, ascending along T unless the video is looped.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> times = np.arange(100) / 25
        >>> sample_train(times, 4.0, 8, 0.16, np.random.default_rng(0), views=2).shape
        (2, 8)
    """
    _check_clip(clip_frames, frame_interval_seconds)
    check_duration(duration_seconds)
    if views < 1:
        raise InputError(f"views is {views}; allowed: 1 or more.")
    if frame_choice not in tuple(CHOOSERS):
        raise InputError(f"frame_choice is {frame_choice!r}; allowed: {', '.join(CHOOSERS)}.")
    draws = generator.random((views, 1 + clip_frames))
    room = max(0.0, duration_seconds - clip_frames * frame_interval_seconds)
    segments = np.arange(clip_frames) + draws[:, 1:]
    instants = draws[:, :1] * room + segments * frame_interval_seconds  # (views, T)
    return CHOOSERS[frame_choice](frame_seconds, instants, duration_seconds)


def _check_clip(clip_frames: int, frame_interval_seconds: float) -> None:
    if clip_frames < 1:
        raise InputError(f"clip_frames is {clip_frames}; allowed: 1 or more.")
    _check_positive("frame_interval_seconds", frame_interval_seconds)


def _check_positive(name: str, value: float) -> None:
    if not (isinstance(value, Real) and np.isfinite(value) and value > 0):
        raise InputError(f"{name} is {value!r}; allowed: more than 0 seconds.")
