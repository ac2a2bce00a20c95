"""What a video is before its frames are wanted: one cheap pass, or a full decode (uses PyAV)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt

from .errors import DecodeError, MediaLimitError, NoVideoError, UnsupportedMediaError
from .video_container import Wholeness, wholeness
from .video_decode import Opener, PacketIndex
from .video_index import (
    SHORTEST_FRAME_SECONDS,
    FrameFacts,
    Scan,
    first_frame,
    may_be_one_to_one,
    presentation_seconds,
    scan,
)
from .video_open import MediaLimits
from .video_still import undecodable

__all__ = ["Completeness", "SourceFacts", "VideoInfo", "probe"]

Seconds = npt.NDArray[np.float64]
Completeness = Literal["complete", "incomplete", "unknown"]

_LONGEST_FRAME_SECONDS = 60.0


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are wanted.

    Args:
        path: Absolute path of the file.
        size_bytes: Size of the file.
        container: FFmpeg's name of the container, such as ``"mov,mp4,m4a,3gp,3g2,mj2"``.
        codec: FFmpeg's name of the codec, such as ``"h264"``.
        width_px: Width as shown, after rotation.
        height_px: Height as shown, after rotation.
        rotation_degrees: Clockwise turn applied to the stored frames: 0, 90, 180 or 270, or
            whatever else the file says, rounded to a quarter turn when applied.
        pixel_format: FFmpeg's name of the decoded format, such as ``"yuv420p"``.
        seconds: (N,) float64, presentation time of every shown frame from the first, ascending.
        duration_seconds: End of the last frame; 0 for a still image.
        key_frames: (K,) int64, frames at which decoding may start.
        completeness: ``"complete"``: as long as the container says; ``"incomplete"``: frames are
            missing or damaged; ``"unknown"``: the container does not say how long it should be.
        expected_frames: Number of frames the container states, or None.
        note: Why it is not complete, in words; "" if it is.
    """

    path: Path
    size_bytes: int
    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_degrees: int
    pixel_format: str
    seconds: Seconds
    duration_seconds: float
    key_frames: npt.NDArray[np.int64]
    completeness: Completeness
    expected_frames: int | None
    note: str


@dataclass(frozen=True)
class SourceFacts:
    """What is worth keeping of a video that was embedded; see :class:`VideoInfo`.

    ``sha256`` is the hash of the file, or "" if nobody asked for it.
    """

    size_bytes: int
    frames: int
    duration_seconds: float
    completeness: Completeness
    note: str
    sha256: str = ""

    @classmethod
    def of(cls, info: VideoInfo, sha256: str = "") -> SourceFacts:
        """Take them from what a reader knows after decoding."""
        return cls(
            info.size_bytes,
            len(info.seconds),
            info.duration_seconds,
            info.completeness,
            info.note,
            sha256,
        )


def probe(
    opener: Opener, path: Path, limits: MediaLimits, decode_index: bool
) -> tuple[VideoInfo, PacketIndex | None]:
    """List the frames of a video and judge whether it is complete.

    Args:
        opener: Opens the video anew.
        path: Its absolute path.
        limits: Largest size.
        decode_index: Decode the whole video even if its packets tell.

    Returns:
        The info, and the packet index if every packet is one shown frame.

    Raises:
        MediaError: One of its kinds.
    """
    found, facts = None, None
    with opener() as opened:
        names = opened.container.format.name, opened.stream.codec_context.codec.name
        if may_be_one_to_one(opened) and not decode_index:
            found = scan(opened, limits, decode=False)
    if found is not None and found.one_to_one:
        with opener() as opened:
            facts = first_frame(opened, found)
    index = None
    if found is not None and facts is not None:
        index = PacketIndex.of(found)
        if not len(index.shown) or facts.pts != index.shown_pts[0]:
            index = None
    if found is None or index is None:
        with opener() as opened:
            found = scan(opened, limits, decode=True)
        facts, index = found.facts, None
    if facts is None:
        _refuse_empty(found, path)
    return _info(path, names, found, facts, index, limits), index


def _refuse_empty(found: Scan, path: Path) -> NoReturn:
    """Raise the error for a video stream without any decodable frame."""
    if reason := undecodable(path):
        raise UnsupportedMediaError(reason)
    if found.unsupported and found.unsupported == found.errors:
        raise UnsupportedMediaError(
            "the decoder of its codec lacks a feature that it uses; convert it, for example with "
            "'ffmpeg -i FILE out.mp4'."
        )
    if not len(found.pts) and not found.read_error:
        raise NoVideoError("the video stream holds no frame; give a file with video.")
    raise DecodeError(
        f"none of its {len(found.pts)} video packets can be decoded"
        f"{' (' + found.read_error + ')' if found.read_error else ''}; the file is damaged, "
        "encrypted or cut short; copy or convert it again."
    )


def _info(
    path: Path,
    names: tuple[str, str],
    found: Scan,
    facts: FrameFacts,
    index: PacketIndex | None,
    limits: MediaLimits,
) -> VideoInfo:
    """Put together what the scan found."""
    size = path.stat().st_size
    if index is None:
        ticks = np.frombuffer(found.frame_pts, dtype=np.int64)
        durations = np.frombuffer(found.frame_durations, dtype=np.int64)
        keys = np.zeros(1, dtype=np.int64)
    else:
        ticks = index.shown_pts
        durations = np.frombuffer(found.durations, dtype=np.int64)[index.shown]
        keys = np.flatnonzero(index.starts == index.shown)
    step = found.nominal_step_seconds
    seconds = presentation_seconds(ticks, durations, found.time_base, step)
    last = _last_step(seconds, float(durations[-1] * found.time_base), step)
    duration = 0.0 if found.is_still and len(seconds) == 1 else float(seconds[-1]) + last
    if limits.max_seconds is not None and duration > limits.max_seconds:
        raise MediaLimitError(
            f"the video lasts {duration:.1f} s; allowed: at most {limits.max_seconds} s "
            "(MediaLimits.max_seconds)."
        )
    completeness, note = _judge(found, wholeness(path), duration, last)
    expected = None
    if found.declared_frames is not None:  # packets that show nothing do not count
        expected = len(seconds)
        if completeness == "incomplete":
            expected = max(expected, found.declared_frames - found.shown.count(0))
    return VideoInfo(
        path=path,
        size_bytes=size,
        container=names[0],
        codec=names[1],
        width_px=facts.width_px,
        height_px=facts.height_px,
        rotation_degrees=facts.rotation_degrees,
        pixel_format=facts.pixel_format,
        seconds=seconds,
        duration_seconds=duration,
        key_frames=keys,
        completeness=completeness,
        expected_frames=expected,
        note=note,
    )


def _last_step(seconds: Seconds, stated: float, nominal: float) -> float:
    """Return how long the last frame is shown: as stated, else as frames usually are."""
    if SHORTEST_FRAME_SECONDS <= stated <= _LONGEST_FRAME_SECONDS:
        return stated
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    return usual if usual > 0 else nominal


def _judge(
    found: Scan, whole: Wholeness, duration: float, last: float
) -> tuple[Completeness, str]:
    """Decide whether the video is as long as its container says, and say why not."""
    packets, declared = len(found.pts), found.declared_frames
    counted = declared is not None and found.declared_is_total
    problems = []
    if found.read_error:
        problems.append(f"reading stopped early ({found.read_error})")
    if found.errors or found.corrupt:
        problems.append(f"{found.errors + found.corrupt} damaged packets or frames")
    if declared is not None and packets < declared:
        problems.append(f"{packets} of {declared} frames are in the file")
    end = max(found.end_seconds, duration)
    slack = (last if whole == "whole" else last / 2) + 0.002  # a whole file may round by a frame
    short = found.declared_seconds is not None and end < found.declared_seconds - slack
    reach = f"it ends at {end:.3f} s of {found.declared_seconds or 0:.3f} s"
    if not counted:
        if whole == "cut":
            problems.append("the file is cut short")
        if short:
            problems.append(reach)
    if problems:
        return "incomplete", "; ".join(problems)
    if counted and short:
        return "unknown", f"all frames are in the file, but {reach}"
    if counted or found.declared_seconds is not None or whole == "whole":
        return "complete", ""
    return "unknown", "the container states neither a frame count nor a duration"
