"""What a video is, and whether all of it is there: by one cheap pass, or by decoding it all."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import DecodeError, MediaLimitError, NoVideoError, UnsupportedMediaError
from .file import MediaFile
from .headers.still import undecodable
from .headers.wholeness import wholeness
from .index import PacketIndex
from .open import MediaLimits, Opener
from .scan import FrameFacts, Scan, first_frames, may_be_one_to_one, only_video, scan_video
from .times import SHORTEST_FRAME_SECONDS, ClockRules, FrameTimes, Stamps, frame_times, merged

Seconds = npt.NDArray[np.float64]
Completeness = Literal["complete", "incomplete", "unknown"]

_LONGEST_FRAME_SECONDS = 60.0


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are decoded.

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
        note: Why it is not complete, and what was mended of its times, in words; "" if neither.
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
    """What is worth keeping of a video that was embedded; see :class:`VideoInfo`."""

    size_bytes: int
    frames: int
    duration_seconds: float
    completeness: Completeness
    note: str
    width_px: int
    height_px: int

    @classmethod
    def of(cls, info: VideoInfo) -> SourceFacts:
        """Take them from what a reader knows after decoding."""
        return cls(
            info.size_bytes,
            len(info.seconds),
            info.duration_seconds,
            info.completeness,
            info.note,
            info.width_px,
            info.height_px,
        )


@dataclass(frozen=True)
class Probed:
    """What :func:`probe` finds out.

    Args:
        info: The frames of the video.
        index: Their packets, if every packet is one shown frame.
        is_damaged: The video was decoded, and some of it is damaged.
    """

    info: VideoInfo
    index: PacketIndex | None
    is_damaged: bool


def probe(opener: Opener, media: MediaFile, limits: MediaLimits, decode_index: bool) -> Probed:
    """List the frames of a video and judge whether it is complete.

    Args:
        opener: Opens the video, once for each pass.
        media: The file.
        limits: Largest size, and what counts as a gap.
        decode_index: Decode the whole video even if its packets tell.

    Raises:
        MediaError: One of its kinds.
    """
    scan = _scanned(opener, media, limits, decode_index)
    index, facts = None, scan.facts
    if not scan.decoded:
        index, facts = _believed(opener, scan, limits)
        if index is None:
            scan = _scanned(opener, media, limits, decode_index=True)
            facts = scan.facts
    if facts is None:
        _refuse_empty(scan, media)
    damaged = scan.decoded and bool(scan.damage.errors or scan.damage.corrupt or scan.marked)
    return Probed(_info(media, scan, facts, index, limits), index, damaged)


def _scanned(opener: Opener, media: MediaFile, limits: MediaLimits, decode_index: bool) -> Scan:
    """Read the file once; again without its other streams if one of them may have ended it."""
    with opener() as opened:
        decode = decode_index or not may_be_one_to_one(opened)
        scan = scan_video(opened, limits, decode=decode)
        alone = len(opened.container.streams) == 1
    scan.whole = wholeness(media)
    if alone or not (scan.damage.read_error or len(scan.pts) < (_expected_packets(scan) or 0)):
        return scan
    with opener() as opened:
        only_video(opened)
        again = scan_video(opened, limits, decode=decode)
    again.whole = scan.whole
    again.others_end_seconds, again.heard = scan.others_end_seconds, scan.heard
    return again


def _believed(
    opener: Opener, scan: Scan, limits: MediaLimits
) -> tuple[PacketIndex | None, FrameFacts | None]:
    """Return the packet index and its first frame if frames come out as it says."""
    if not scan.one_to_one:
        return None, None
    index = PacketIndex.of(scan)
    if not index.is_plausible(limits.max_gap_seconds / float(scan.time_base)):
        return None, None
    with opener() as opened:
        opened = opened._replace(damage=scan.damage)  # which goes on counting
        facts, depth = first_frames(opened, index.frames_to_compare)
    came_out = [frame.pts for frame in facts]
    expected = index.shown_pts[: len(facts)].tolist()
    if not facts or came_out != expected or index.held_back > depth:
        return None, None
    return index, facts[0]


def _expected_packets(scan: Scan) -> int | None:
    """Return how many packets the container says there are.

    AVI counts places in time; an empty one, of a frame that was dropped, shows the frame before
    for longer and is not in the container's list.
    """
    declared, listed = scan.declared_frames, scan.listed_frames
    if declared is not None and listed is not None and scan.whole == "whole":
        return min(declared, listed)
    return declared


def _refuse_empty(scan: Scan, media: MediaFile) -> NoReturn:
    """Raise the error for a video stream without any decodable frame."""
    if reason := undecodable(media):
        raise UnsupportedMediaError(reason)
    damage = scan.damage
    if damage.unsupported and damage.unsupported == damage.errors:
        raise UnsupportedMediaError(
            "the decoder of its codec lacks a feature that it uses; convert it, for example with "
            "'ffmpeg -i FILE out.mp4'."
        )
    if not len(scan.pts) and scan.declared_frames:
        raise DecodeError(
            f"0 of {scan.declared_frames} frames are in the file; it is cut short; copy or "
            "download it again."
        )
    if not len(scan.pts) and not damage.read_error:
        raise NoVideoError("the video stream holds no frame; give a file with video.")
    raise DecodeError(
        f"none of its {len(scan.pts)} video packets can be decoded"
        f"{' (' + damage.read_error + ')' if damage.read_error else ''}; the file is damaged, "
        "encrypted or cut short; copy or convert it again."
    )


def _times(scan: Scan, index: PacketIndex | None, limits: MediaLimits) -> tuple[FrameTimes, float]:
    """Return when the frames are shown, and the end of the last one in seconds from the first."""
    unit, step = scan.time_base, scan.nominal_step_seconds
    packets = np.frombuffer(scan.durations, dtype=np.int64)
    if index is not None:
        ticks = index.shown_pts
        times = FrameTimes((ticks - ticks[0]) * float(unit), "pts", int(ticks[-1]))
        return times, _end(times.seconds, packets[index.shown[-1]] * unit, step)
    pts, dts, durations = (
        np.frombuffer(column, dtype=np.int64)
        for column in (scan.frame_pts, scan.frame_dts, scan.frame_durations)
    )
    most = limits.max_joint_seconds if scan.may_restart else limits.max_gap_seconds
    rules = ClockRules(most, merged(scan.heard))
    times = frame_times(Stamps(pts, dts, durations, unit, step), rules)
    end = _end(times.seconds, durations[-1] * unit if times.durations_fit else Fraction(0), step)
    if scan.one_to_one and times.source == "pts" and not times.mends:
        # Frames at the end that cannot be decoded take none of the length away.
        listed = PacketIndex.of(scan)
        if listed.is_plausible(most / float(unit)):
            shown = (listed.shown_pts - pts[0]) * float(unit)
            end = max(end, _end(shown, packets[listed.shown[-1]] * unit, step))
    return times, end


def _info(
    media: MediaFile,
    scan: Scan,
    facts: FrameFacts,
    index: PacketIndex | None,
    limits: MediaLimits,
) -> VideoInfo:
    """Put together what the scan found."""
    times, end = _times(scan, index, limits)
    seconds = times.seconds
    duration = 0.0 if scan.is_still and len(seconds) == 1 else end
    if limits.max_seconds is not None and duration > limits.max_seconds:
        raise MediaLimitError(
            f"the video lasts {duration:.1f} s; allowed: at most {limits.max_seconds} s "
            "(MediaLimits.max_seconds)."
        )
    completeness, problems = _judge(scan, times, limits, duration, end - float(seconds[-1]))
    declared, expected = _expected_packets(scan), None
    if declared is not None:  # packets that show nothing do not count
        expected = len(seconds)
        if completeness == "incomplete":
            expected = max(expected, declared - scan.shown.count(0))
    return VideoInfo(
        path=media.path,
        size_bytes=media.size_bytes,
        container=scan.container,
        codec=scan.codec,
        width_px=facts.width_px,
        height_px=facts.height_px,
        rotation_degrees=facts.rotation_degrees,
        pixel_format=facts.pixel_format,
        seconds=seconds,
        duration_seconds=duration,
        key_frames=np.flatnonzero(index.starts == index.shown) if index else np.zeros(1, np.int64),
        completeness=completeness,
        expected_frames=expected,
        note="; ".join((*problems, *times.mends)),
    )


def _end(seconds: Seconds, stated: Fraction, nominal: float) -> float:
    """Return when the last frame ends: as stated, else as frames usually last."""
    last = float(stated)
    if not SHORTEST_FRAME_SECONDS <= last <= _LONGEST_FRAME_SECONDS:
        usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
        last = usual if usual > 0 else nominal
    return float(seconds[-1]) + last


def _judge(
    scan: Scan, times: FrameTimes, limits: MediaLimits, duration: float, last: float
) -> tuple[Completeness, list[str]]:
    """Decide whether the video is as long as its container says, and say why not."""
    packets, declared, damage = len(scan.pts), _expected_packets(scan), scan.damage
    counted = declared is not None and scan.declared_is_total
    problems = []
    if damage.read_error:
        problems.append(f"reading stopped early ({damage.read_error})")
    damaged = damage.errors + damage.corrupt + scan.damaged_packets(limits.max_joint_seconds)
    if damaged:
        problems.append(f"{damaged} damaged packets or frames")
    if declared is not None and packets < declared:
        problems.append(f"{packets} of {declared} frames are in the file")
    shown = scan.end_seconds
    if times.mends and times.source == "pts":  # an impossible stamp may be the latest
        shown = float(times.end_tick * scan.time_base) + last
    end = max(shown, scan.others_end_seconds, duration)
    # A whole file may round by a frame.
    slack = (last if scan.whole == "whole" else last / 2) + 0.002
    short = scan.declared_seconds is not None and end < scan.declared_seconds - slack
    reach = f"it ends at {end:.3f} s of {scan.declared_seconds or 0:.3f} s"
    if not counted:
        if scan.whole == "cut":
            problems.append("the file is cut short")
        if short:
            problems.append(reach)
    if problems:
        return "incomplete", problems
    if counted and short:
        return "unknown", [f"all frames are in the file, but {reach}"]
    if counted or scan.declared_seconds is not None or scan.whole == "whole":
        return "complete", []
    return "unknown", ["the container states neither a frame count nor a duration"]
