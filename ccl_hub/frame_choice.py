"""Which frame of a video an instant takes: pure functions on presentation times.

:attr:`ccl_hub.config.Preprocessing.frame_choice` names the rule: ``"on_screen"``, what a player
shows at that instant (:func:`on_screen_frames`), or ``"nearest"``, the rule of the first
checkpoints (:func:`nearest_frames`). At usual rates the two differ by a frame at most; where a
frame stays on screen for long, only the first shows what was there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .errors import InputError

__all__ = ["CHOOSERS", "check_duration", "check_times", "nearest_frames", "on_screen_frames"]

TIE_SECONDS = 1e-6
"""What rounding may do to a time: instants and frames this near each other are at one time."""

Seconds = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def nearest_frames(frame_seconds: Seconds, instants: Seconds, duration_seconds: float) -> Indices:
    """Return the index of the frame nearest in presentation time to each instant.

    Instants at or past the end loop: they are taken modulo ``duration_seconds``. Of two equally
    near frames the earlier one is taken.

    Args:
        frame_seconds: (N,) float64 presentation times, ascending, N at least 1.
        instants: Times in seconds, any shape, each 0 or more.
        duration_seconds: End of the last frame; 0 for a still image.

    Returns:
        int64 indices in [0, N), the shape of ``instants``.

    Raises:
        InputError: If there are no frames, times do not ascend, or a number is not finite.

    Example:
        >>> nearest_frames(np.array([0.0, 0.1, 0.2]), np.array([0.04, 0.06, 0.32]), 0.3).tolist()
        [0, 1, 0]
    """
    times, looped = _looped(frame_seconds, instants, duration_seconds)
    if len(times) == 1:
        return np.zeros(looped.shape, dtype=np.int64)
    after = np.clip(np.searchsorted(times, looped), 1, len(times) - 1)
    nearer = (times[after] - looped) < (looped - times[after - 1]) - TIE_SECONDS
    return np.where(nearer, after, after - 1).astype(np.int64)


def on_screen_frames(
    frame_seconds: Seconds, instants: Seconds, duration_seconds: float
) -> Indices:
    """Return the index of the frame that a player shows at each instant.

    That is the last frame whose time has come, give or take 1e-6 s of rounding; before the first
    frame it is the first. Arguments, result and errors are those of :func:`nearest_frames`, and
    instants at or past the end loop likewise.

    Example:
        >>> slides = np.array([0.0, 10.0, 20.0])
        >>> on_screen_frames(slides, np.array([0.0, 9.0, 10.0, 29.0, 31.0]), 30.0).tolist()
        [0, 0, 1, 2, 0]
    """
    times, looped = _looped(frame_seconds, instants, duration_seconds)
    shown = np.searchsorted(times, looped + TIE_SECONDS, side="right")
    return np.maximum(shown - 1, 0).astype(np.int64)


def _looped(
    frame_seconds: Seconds, instants: Seconds, duration_seconds: float
) -> tuple[Seconds, Seconds]:
    """Check times and instants; return them as arrays, instants past the end looped."""
    times = check_times(frame_seconds)
    check_duration(duration_seconds)
    instants = np.asarray(instants, dtype=np.float64)
    if not np.all(np.isfinite(instants)) or np.any(instants < 0):
        raise InputError("instants must be finite and 0 or more, in seconds.")
    if duration_seconds <= 0:
        return times[:1], np.zeros_like(instants)
    # An instant that rounding puts just before the end is at the end: the first frame again.
    past = instants >= duration_seconds - TIE_SECONDS
    wrapped = np.maximum(np.mod(instants + TIE_SECONDS, duration_seconds) - TIE_SECONDS, 0.0)
    return times, np.where(past, wrapped, instants)


def check_times(frame_seconds: Seconds) -> Seconds:
    """Return the times as a float64 array, or raise InputError."""
    times = np.asarray(frame_seconds, dtype=np.float64)
    if times.ndim != 1 or len(times) == 0:
        raise InputError(f"frame_seconds has shape {times.shape}; allowed: (N,) with N >= 1.")
    if not np.all(np.isfinite(times)) or np.any(np.diff(times) < 0):
        raise InputError("frame_seconds must be finite and ascending.")
    return times


def check_duration(value: float) -> None:
    """Raise InputError unless ``value`` can be the duration of a video."""
    if not (np.isfinite(value) and value >= 0):
        raise InputError(f"duration_seconds is {value}; allowed: 0 or more seconds.")


CHOOSERS: dict[str, Callable[[Seconds, Seconds, float], Indices]] = {
    "nearest": nearest_frames,
    "on_screen": on_screen_frames,
}
"""Values of ``frame_choice``, and what each of them means."""
