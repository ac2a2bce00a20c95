"""What one pass over a file tells of its packets and, if it decodes, of its frames (uses PyAV).

In containers and codecs where one packet is one shown frame and carries its time, reading the
packets is enough: their sorted times are the index. Anything that does not add up (no time, a time
twice, an empty packet, first frames that come out in another order) makes :mod:`.info` scan the
video again and decode all of it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from ..errors import MediaLimitError
from .headers.wholeness import Wholeness
from .open import Damage, MediaLimits, Opened
from .pixels import display_size
from .times import NO_TIME

JOINT_PACKETS = 3
"""How many packets ahead of a joint FFmpeg marks it, at most."""

MOST_SILENT_SECONDS = 2.0
"""A stream whose packets are further apart does not go on between them."""

SHORTEST_RUN_SECONDS = 5.0
"""What goes on for less fills no gap that could be taken for a break."""

_TS_DISCONT = cast("int", av.format.Flags.ts_discont.value)
_ONE_TO_ONE_FORMATS = ("mov", "matroska")
_ONE_TO_ONE_CODECS = frozenset(
    "h264 hevc vvc vp9 av1 libdav1d libaom-av1 mpeg4 prores mjpeg dnxhd ffv1 png".split()
)


@dataclass(frozen=True)
class FrameFacts:
    """What the first decoded frame tells about all of them.

    Args:
        height_px: Height as shown, after rotation.
        width_px: Width as shown, after rotation.
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
        may_restart: The clock of such a container may start over in mid-file.
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
        damage: What else was damaged.
        facts: What the first decoded frame tells; decoding pass only.
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
    damage: Damage = field(default_factory=Damage)
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

        In a container whose clock may start over, the counters of its packets do so, too, and
        FFmpeg marks what it was reading then. Where the clock jumps by more than ``most_seconds``
        or back, that is a joint, not damage.
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


def scan_video(opened: Opened, limits: MediaLimits, *, decode: bool) -> Scan:
    """Read the whole file once.

    Args:
        opened: Just opened.
        limits: Gives ``max_frames``.
        decode: Also decode every video packet, without converting pixels.

    Raises:
        MediaLimitError: More packets than ``max_frames``, or out of memory.
    """
    container, stream, view, damage = opened
    base = stream.time_base
    unit = Fraction(base.numerator, base.denominator) if base else Fraction(1)
    codec = stream.codec_context
    scan = Scan(
        unit,
        _nominal_step(stream),
        container.format.name,
        codec.codec.name,
        decode,
        may_restart=bool(container.format.flags & _TS_DISCONT),
        damage=damage,
        is_still=view.is_still,
    )
    # A photograph may carry further images behind it: previews, gain maps.
    single = scan.container == "jpeg_pipe"
    is_h264, extradata = codec.name == "h264", codec.extradata
    others = _OtherStreams()
    for packet in packets_of(opened):
        if packet.stream_index != stream.index:
            others.note(packet)
            continue
        if packet.pts is not None and packet.time_base:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            scan.end_seconds = max(scan.end_seconds, float(end))
        if len(scan.pts) >= limits.max_frames:
            raise MediaLimitError(
                f"more than {limits.max_frames} frames; raise MediaLimits.max_frames."
            )
        scan.pts.append(NO_TIME if packet.pts is None else packet.pts)
        scan.dts.append(NO_TIME if packet.dts is None else packet.dts)
        scan.durations.append(packet.duration or 0)
        is_key = packet.is_keyframe and view.is_start(packet)
        scan.keys.append(is_key and (not is_h264 or is_idr(packet, extradata)))
        scan.shown.append(not packet.is_discard)
        scan.empty += packet.size == 0
        if packet.is_corrupt:
            scan.marked.append(len(scan.pts) - 1)
        if decode:
            _note_frames(decode_packet(opened, packet), scan)
        if single:
            break
    scan.others_end_seconds, scan.heard = others.end_seconds, others.runs()
    if decode:
        _note_frames(decode_packet(opened, None), scan)
    _note_declared(container, stream, scan)
    return scan


def first_frames(opened: Opened, enough: Callable[[int], int]) -> tuple[list[FrameFacts], int]:
    """Decode until some frames came out, or all.

    Args:
        opened: Just opened.
        enough: Called with how many frames the decoder holds back to reorder them, as far as it
            knows by then; returns how many frames are enough.

    Returns:
        The frames, and how many the decoder holds back.
    """
    context = opened.stream.codec_context
    facts: list[FrameFacts] = []
    for packet in chain(packets_of(opened, opened.stream), (None,)):
        for frame in decode_packet(opened, packet):
            facts.append(FrameFacts.of(frame))
            if len(facts) >= enough(context.reorder_depth):
                return facts, context.reorder_depth
    return facts, context.reorder_depth


def only_video(opened: Opened) -> None:
    """Let the container pass over all other streams.

    Some containers end at the first sample that is missing, even one of sound.
    """
    for stream in opened.container.streams:
        if stream.index != opened.stream.index:
            stream.discard = Discard.all


def packets_of(opened: Opened, *streams: VideoStream) -> Iterator[Packet[Any]]:
    """Yield the packets of ``streams`` (default all) up to the end, or to a read error, noted."""
    try:
        for packet in opened.container.demux(*streams):
            if packet.dts is None and packet.pts is None and packet.size == 0:
                continue  # PyAV's own marks of the end, one for each stream
            yield packet
    except MemoryError as error:
        raise MediaLimitError("reading it needs more memory than there is.") from error
    except (av.error.FFmpegError, ValueError) as error:
        opened.damage.read_error = str(getattr(error, "strerror", None) or error)


def decode_packet(opened: Opened, packet: Packet[Any] | None) -> list[av.VideoFrame]:
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
        opened.damage.errors += 1
        lacking = av.error.PatchWelcomeError, av.error.NotImplementedError
        opened.damage.unsupported += isinstance(error, lacking)
        return []
    sound = [frame for frame in frames if not frame.is_corrupt]
    opened.damage.corrupt += len(frames) - len(sound)
    return sound


def _nominal_step(stream: VideoStream) -> float:
    """Return the frame duration in seconds by the stated frame rate, or 0.04."""
    for rate in (stream.guessed_rate, stream.average_rate):
        if rate and 0.01 <= float(rate) <= 1000:
            return 1 / float(rate)
    return 0.04


def _note_declared(container: InputContainer, stream: VideoStream, scan: Scan) -> None:
    """Keep what the container says about its length, where that is stated and not estimated."""
    names = set(container.format.name.split(","))
    if "mov" in names:
        listed = len(stream.index_entries) or stream.frames
        scan.declared_frames = listed or None
        scan.declared_is_total = stream.frames > 0
        if scan.declared_is_total and stream.duration and stream.time_base:
            scan.declared_seconds = float(stream.duration * stream.time_base)
    elif "avi" in names:
        scan.declared_frames = stream.frames or None
        scan.declared_is_total = True
        scan.listed_frames = len(stream.index_entries) or None
    elif names & {"matroska", "flv"} and container.duration:
        scan.declared_seconds = container.duration / av.time_base


def _note_frames(frames: list[av.VideoFrame], scan: Scan) -> None:
    for frame in frames:
        if scan.facts is None:
            scan.facts = FrameFacts.of(frame)
        scan.frame_pts.append(NO_TIME if frame.pts is None else frame.pts)
        scan.frame_dts.append(NO_TIME if frame.dts is None else frame.dts)
        scan.frame_durations.append(frame.duration or 0)


def is_idr(packet: Packet[Any], extradata: bytes | None) -> bool:
    """Tell H.264 key frames at which decoding may start from recovery points.

    Only after an IDR picture (ITU-T H.264, 7.4.1.2.4) does no later picture refer to an earlier
    one. A recovery point may show pictures that are not yet exact.

    Args:
        packet: Packet of a key frame.
        extradata: Extradata of the decoder, which says how long the lengths of NAL units are, if
            there are any.
    """
    data, position = bytes(packet), 0
    if not (extradata is not None and len(extradata) > 4 and extradata[0] == 1):  # Annex B
        return any(kind[0] & 31 == 5 for kind in re.findall(b"\0\0\1(?=(.))", data, re.DOTALL))
    length_bytes = (extradata[4] & 3) + 1
    while position + length_bytes < len(data):
        length = int.from_bytes(data[position : position + length_bytes], "big")
        position += length_bytes
        if data[position] & 31 == 5:
            return True
        position += length
    return False


class _OtherStreams:
    """The times over which the other streams of a file go on, such as its sound.

    A clock that jumps does so in every stream; where sound goes on, the picture stood still.
    ``end_seconds`` is the latest end of any of their packets.
    """

    def __init__(self) -> None:
        self.end_seconds = 0.0
        self._over: list[tuple[float, float]] = []
        self._now: dict[int, tuple[float, float]] = {}

    def note(self, packet: Packet[Any]) -> None:
        """Take the next packet, in the order of the file."""
        if packet.pts is None or not packet.time_base:
            return
        begin = float(packet.pts * packet.time_base)
        end = begin + float((packet.duration or 0) * packet.time_base)
        self.end_seconds = max(self.end_seconds, end)
        start, latest = self._now.get(packet.stream_index, (begin, begin))
        if not 0 <= begin - latest <= MOST_SILENT_SECONDS:
            self._over.append((start, latest))
            start = begin
        self._now[packet.stream_index] = start, begin

    def runs(self) -> list[tuple[float, float]]:
        """Return (start, end) in seconds of the container's clock of what goes on for long."""
        every = (*self._over, *self._now.values())
        return [run for run in every if run[1] - run[0] >= SHORTEST_RUN_SECONDS]
