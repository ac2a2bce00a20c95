"""The list of frames a video shows and when, found by demuxing where packets tell (uses PyAV).

Demuxing reads every packet and decodes nothing. In containers and codecs where one packet is one
shown frame and carries its time, the sorted times are the index; its key frames say where a
decoder may start. Anything that does not add up (no time, a time twice, an empty packet, first
frames that come out in another order) falls back to decoding the whole video once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any, cast

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from ..errors import MediaLimitError
from .clock import NO_TIME
from .headers.container import Wholeness
from .open import MediaLimits, Opened
from .others import OtherStreams
from .pixels import display_size

__all__ = [
    "FrameFacts",
    "Scan",
    "decode_packet",
    "first_frames",
    "may_be_one_to_one",
    "only_video",
    "packets_of",
    "scan",
    "start_packets",
]

Ticks = npt.NDArray[np.int64]

JOINT_PACKETS = 3
"""A joint is marked at most so many packets ahead."""

_TS_DISCONT = cast("int", av.format.Flags.ts_discont.value)
_ONE_TO_ONE_FORMATS = ("mov", "matroska")
_ONE_TO_ONE_CODECS = frozenset(
    "h264 hevc vvc vp9 av1 libdav1d libaom-av1 mpeg4 prores mjpeg dnxhd ffv1 png".split()
)


@dataclass(frozen=True)
class FrameFacts:
    """What the first decoded frame tells about all of them.

    Args:
        height_px: As shown, after rotation.
        width_px: As shown, after rotation.
        rotation_degrees: Clockwise turn that was applied to the stored frame.
        pixel_format: FFmpeg's name of the decoded format.
        pts: Presentation time in ticks, or None.
    """

    height_px: int
    width_px: int
    rotation_degrees: int
    pixel_format: str
    pts: int | None

    @classmethod
    def of(cls, frame: av.VideoFrame) -> FrameFacts:
        """Read them off a frame."""
        return cls(*display_size(frame), frame.format.name, frame.pts)


@dataclass
class Scan:
    """What one pass over a file found; times in ticks of ``time_base``.

    Args:
        time_base: Seconds per tick of the video stream.
        nominal_step_seconds: Frame duration by the stated frame rate; 0.04 where none is stated.
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the codec.
        decoded: The video was decoded, too.
        whole: Whether the file ends where its container says.
        may_restart: The clock of such a container may start anew in mid-file.
        pts: Presentation time of each video packet, in decode order.
        dts: Decode time of each video packet.
        durations: Duration of each video packet, 0 if unknown.
        keys: 1 for a packet at which a decoder may start exactly.
        shown: 0 for a packet that is decoded but not shown (edit lists).
        frame_pts: Presentation time of each decoded frame, in output order; decoding pass only.
        frame_dts: Decode time of the packet with which it came out; decoding pass only.
        frame_durations: Duration of each decoded frame, 0 if unknown; decoding pass only.
        end_seconds: Latest end of any packet of the video stream.
        others_end_seconds: Latest end of any packet of any other stream.
        heard: (start, end) in seconds of the container's clock over which another stream goes on.
        declared_frames: Packets that the container says the stream has, or None.
        listed_frames: Packets in the container's own list, which has no empty ones, or None.
        declared_is_total: False where that number only grows while reading (fragments).
        declared_seconds: Where the container says that the video ends, or None.
        empty: Video packets without data.
        marked: Positions of video packets that are marked as damaged.
        corrupt: Frames that are marked as damaged.
        errors: Video packets that the decoder refused.
        unsupported: Those of them that it refused for a feature that it lacks.
        facts: Of the first decoded frame; decoding pass only.
        read_error: What ended the reading before the end of the file, or "".
        is_still: The stream is a still image.
    """

    time_base: Fraction
    nominal_step_seconds: float
    container: str = ""
    codec: str = ""
    decoded: bool = False
    whole: Wholeness = "unknown"
    may_restart: bool = False
    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    keys: bytearray = field(default_factory=bytearray)
    shown: bytearray = field(default_factory=bytearray)
    frame_pts: array[int] = field(default_factory=lambda: array("q"))
    frame_dts: array[int] = field(default_factory=lambda: array("q"))
    frame_durations: array[int] = field(default_factory=lambda: array("q"))
    end_seconds: float = 0.0
    others_end_seconds: float = 0.0
    heard: list[tuple[float, float]] = field(default_factory=list)
    declared_frames: int | None = None
    listed_frames: int | None = None
    declared_is_total: bool = False
    declared_seconds: float | None = None
    facts: FrameFacts | None = None
    empty: int = 0
    marked: list[int] = field(default_factory=list)
    corrupt: int = 0
    errors: int = 0
    unsupported: int = 0
    read_error: str = ""
    is_still: bool = False

    @property
    def one_to_one(self) -> bool:
        """True if every packet has data, a sound mark and a time of its own."""
        times = np.frombuffer(self.pts, dtype=np.int64)
        return bool(
            len(times)
            and not self.empty
            and not self.marked
            and times.min() != NO_TIME
            and len(np.unique(times)) == len(times)
        )

    def damaged_packets(self, most_seconds: float) -> int:
        """Return how many packets are damaged.

        In a container whose clock may start anew the counters of its packets do so, too, and
        FFmpeg marks what it was reading then. Where the clock jumps by more than ``most_seconds``
        or back, that is a joint and no damage.
        """
        if not self.may_restart or not self.marked:
            return len(self.marked)
        ticks = np.frombuffer(self.dts, dtype=np.int64)
        step = np.diff(np.where(ticks == NO_TIME, np.nan, ticks)) * float(self.time_base)
        joints = np.flatnonzero((step < 0) | (step > most_seconds))
        ahead = np.searchsorted(joints, self.marked)
        return sum(
            i == len(joints) or joints[i] - at > JOINT_PACKETS
            for at, i in zip(self.marked, ahead.tolist(), strict=True)
        )


def may_be_one_to_one(opened: Opened) -> bool:
    """Return True if, by container and codec, one packet should be one shown frame."""
    names = opened.container.format.name.split(",")
    codec = opened.stream.codec_context.codec.name
    return bool(set(names) & set(_ONE_TO_ONE_FORMATS)) and codec in _ONE_TO_ONE_CODECS


def scan(opened: Opened, limits: MediaLimits, *, decode: bool) -> Scan:
    """Read the whole file once.

    Args:
        opened: Just opened.
        limits: Gives ``max_frames``.
        decode: Also decode every video packet, without converting pixels.

    Raises:
        MediaLimitError: More packets than ``max_frames``, or out of memory.
    """
    container, stream, view = opened
    base = stream.time_base
    unit = Fraction(base.numerator, base.denominator) if base else Fraction(1)
    codec = stream.codec_context
    found = Scan(
        unit,
        _nominal_step(stream),
        container.format.name,
        codec.codec.name,
        decode,
        may_restart=bool(container.format.flags & _TS_DISCONT),
        is_still=view.is_still,
    )
    # A photograph may carry further images behind it: previews, gain maps.
    single = found.container == "jpeg_pipe"
    exact = _IdrTest(codec.extradata) if codec.name == "h264" else None
    others = OtherStreams()
    for packet in packets_of(container, found):
        if packet.stream_index != stream.index:
            others.note(packet)
            continue
        _note_end(packet, found)
        if len(found.pts) >= limits.max_frames:
            raise MediaLimitError(
                f"more than {limits.max_frames} frames; raise MediaLimits.max_frames."
            )
        found.pts.append(NO_TIME if packet.pts is None else packet.pts)
        found.dts.append(NO_TIME if packet.dts is None else packet.dts)
        found.durations.append(packet.duration or 0)
        is_key = packet.is_keyframe and view.is_start(packet)
        found.keys.append(is_key and (exact is None or exact(packet)))
        found.shown.append(not packet.is_discard)
        found.empty += packet.size == 0
        if packet.is_corrupt:
            found.marked.append(len(found.pts) - 1)
        if decode:
            _note_frames(decode_packet(opened, packet, found), found)
        if single:
            break
    found.others_end_seconds, found.heard = others.end_seconds, others.runs()
    if decode:
        _note_frames(decode_packet(opened, None, found), found)
    _note_declared(container, stream, found)
    return found


def first_frames(
    opened: Opened, found: Scan, wanted: Callable[[int], int]
) -> tuple[list[FrameFacts], int]:
    """Decode until some frames came out, or all.

    Args:
        opened: Just opened.
        found: Counts damaged packets.
        wanted: Called with how many frames the decoder holds back to reorder them, as far as it
            knows by then; returns how many are wanted.

    Returns:
        The frames, and how many the decoder holds back.
    """
    context = opened.stream.codec_context
    facts: list[FrameFacts] = []
    for packet in chain(packets_of(opened.container, found, opened.stream), (None,)):
        for frame in decode_packet(opened, packet, found):
            facts.append(FrameFacts.of(frame))
            if len(facts) >= wanted(context.reorder_depth):
                return facts, context.reorder_depth
    return facts, context.reorder_depth


def only_video(opened: Opened) -> None:
    """Let the container pass over all other streams.

    Some containers end at the first sample that is missing, be it sound.
    """
    for stream in opened.container.streams:
        if stream.index != opened.stream.index:
            stream.discard = Discard.all


def packets_of(
    container: InputContainer, found: Scan, *streams: VideoStream
) -> Iterator[Packet[Any]]:
    """Yield the packets of ``streams`` (default all) up to the end or a read error, noted."""
    try:
        for packet in container.demux(*streams):
            if packet.dts is None and packet.pts is None and packet.size == 0:
                continue  # PyAV's own marks of the end, one for each stream
            yield packet
    except MemoryError as error:
        raise MediaLimitError("reading it needs more memory than there is.") from error
    except (av.error.FFmpegError, ValueError) as error:
        found.read_error = str(getattr(error, "strerror", None) or error)


def decode_packet(opened: Opened, packet: Packet[Any] | None, found: Scan) -> list[av.VideoFrame]:
    """Return the sound frames that come out for a packet; None flushes the decoder.

    Damaged packets and frames are counted, not raised. An empty packet is skipped, because a
    decoder takes it for the end.

    Raises:
        MediaLimitError: Out of memory, or the frame size changed to a refused one.
    """
    if packet is not None and packet.size == 0:
        return []
    context = opened.stream.codec_context
    try:
        frames = opened.view(packet, context.decode(packet))
    except MemoryError as error:
        raise MediaLimitError("decoding it needs more memory than there is.") from error
    except (av.error.FFmpegError, ValueError) as error:
        # A decoder that meets a refused size keeps that size or resets it to 0.
        reset = isinstance(error, av.error.ArgumentError) and context.width == 0
        if reset or context.width * context.height > opened.view.max_pixels:
            size = "" if reset else f" to {context.width}x{context.height}"
            raise MediaLimitError(
                f"the frame size changes{size} in the middle of the video; allowed: at most "
                f"{opened.view.max_pixels} pixels; split the video where its size changes."
            ) from error
        found.errors += 1
        lacking = av.error.PatchWelcomeError, av.error.NotImplementedError
        found.unsupported += isinstance(error, lacking)
        return []
    sound = [frame for frame in frames if not frame.is_corrupt]
    found.corrupt += len(frames) - len(sound)
    return sound


def start_packets(pts: Ticks, keys: npt.NDArray[np.bool_]) -> Ticks:
    """Return for each packet the packet at which decoding must start to show it exactly.

    That is the last exact key frame at or before it in decode order that is also shown at or
    before it: a picture that leads an open group is shown before its key frame and needs the
    group before. The first packet is a start in any case.

    Args:
        pts: (N,) presentation times in decode order.
        keys: (N,) exact key frames.

    Returns:
        (N,) int64 positions in decode order.
    """
    starts = np.flatnonzero(keys)
    if not len(starts) or starts[0] != 0:
        starts = np.concatenate(([0], starts))
    group = np.searchsorted(starts, np.arange(len(pts)), side="right") - 1
    while True:
        leading = (group > 0) & (pts[starts[group]] > pts)
        if not leading.any():
            return np.asarray(starts[group], dtype=np.int64)
        group = group - leading


def _nominal_step(stream: VideoStream) -> float:
    """Return the frame duration in seconds by the stated frame rate, or 0.04."""
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate and 0.01 <= float(rate) <= 1000:
            return 1 / float(rate)
    return 0.04


def _note_end(packet: Packet[Any], found: Scan) -> None:
    """Keep the latest end of any packet."""
    if packet.pts is not None and packet.time_base:
        end = (packet.pts + (packet.duration or 0)) * packet.time_base
        found.end_seconds = max(found.end_seconds, float(end))


def _note_declared(container: InputContainer, stream: VideoStream, found: Scan) -> None:
    """Keep what the container says about its length, where that is stated and not estimated."""
    names = set(container.format.name.split(","))
    if "mov" in names:
        listed = len(stream.index_entries) or stream.frames
        found.declared_frames = listed or None
        found.declared_is_total = stream.frames > 0
        if found.declared_is_total and stream.duration and stream.time_base:
            found.declared_seconds = float(stream.duration * stream.time_base)
    elif "avi" in names:
        found.declared_frames = stream.frames or None
        found.declared_is_total = True
        found.listed_frames = len(stream.index_entries) or None
    elif names & {"matroska", "flv"} and container.duration:
        found.declared_seconds = container.duration / av.time_base


def _note_frames(frames: list[av.VideoFrame], found: Scan) -> None:
    for frame in frames:
        if found.facts is None:
            found.facts = FrameFacts.of(frame)
        found.frame_pts.append(NO_TIME if frame.pts is None else frame.pts)
        found.frame_dts.append(NO_TIME if frame.dts is None else frame.dts)
        found.frame_durations.append(frame.duration or 0)


class _IdrTest:
    """Tells H.264 key frames at which decoding may start from recovery points.

    Only after an IDR picture (ITU-T H.264, 7.4.1.2.4) does no later picture refer to an earlier
    one. A recovery point may show pictures that are not yet exact.
    """

    def __init__(self, extradata: bytes | None) -> None:
        is_avcc = extradata is not None and len(extradata) > 4 and extradata[0] == 1
        self._length_bytes = (extradata[4] & 3) + 1 if is_avcc and extradata else 0

    def __call__(self, packet: Packet[Any]) -> bool:
        return 5 in self._unit_types(bytes(packet))

    def _unit_types(self, data: bytes) -> Iterator[int]:
        """Yield the types of the NAL units in a packet."""
        position = 0
        if not self._length_bytes:
            while (position := data.find(b"\x00\x00\x01", position)) >= 0:
                position += 3
                yield from (byte & 31 for byte in data[position : position + 1])
            return
        while position + self._length_bytes < len(data):
            length = int.from_bytes(data[position : position + self._length_bytes], "big")
            position += self._length_bytes
            yield data[position] & 31
            position += length
