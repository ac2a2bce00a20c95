"""Getting chosen frames of a video, seeking where that is cheaper than scanning (uses PyAV).

The frames are exactly those of a full sequential decode: decoding starts only at exact key frames,
every frame is recognised by its own presentation time, and when one does not come out after a seek
the rest of the video is decoded from its start instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.packet import Packet

from ..errors import DecodeError
from .clock import MOST_IMPOSSIBLE, NO_TIME
from .index import Scan, decode_packet, only_video, packets_of, start_packets
from .open import Opened

__all__ = ["PacketIndex", "frames_by_order", "frames_by_time"]

Opener = Callable[[], AbstractContextManager[Opened]]
Frames = Generator[tuple[int, av.VideoFrame | None], None, None]
"""Frame numbers and frames, None where a frame cannot be decoded."""

Ticks = npt.NDArray[np.int64]

SEEK_COST_PACKETS = 12
"""Seek when that leaves out more packets: refilling the decoder costs about as many."""

MOST_REORDERED = 32
"""How far from its place in decode order a frame may be shown; codecs allow about half of it."""

_WIDE_GAPS = 25
"""Times the usual distance between frames, a second at usual rates."""

COMPARED_FRAMES = 32
"""Frames whose order is compared where packets and decoder differ on whether it is that of
decoding."""


@dataclass(frozen=True)
class PacketIndex:
    """Where each shown frame is among the packets; positions count packets in decode order.

    Args:
        shown: (N,) position of the packet of each shown frame, in order of presentation.
        shown_pts: (N,) its presentation time in ticks, ascending.
        starts: (N,) position at which decoding must start to show it exactly.
        seek_ticks: (P,) for each packet, a time at or before it for the container's seek.
        pts: (P,) presentation times in decode order.
        by_pts: (P,) positions in order of presentation time.
    """

    shown: Ticks
    shown_pts: Ticks
    starts: Ticks
    seek_ticks: Ticks
    pts: Ticks
    by_pts: Ticks

    @classmethod
    def of(cls, found: Scan) -> PacketIndex:
        """Build the index of a one-to-one scan."""
        pts = np.frombuffer(found.pts, dtype=np.int64)
        dts = np.frombuffer(found.dts, dtype=np.int64)
        keys = np.frombuffer(bytes(found.keys), dtype=np.bool_)
        is_shown = np.frombuffer(bytes(found.shown), dtype=np.bool_)
        order = np.argsort(pts)
        shown = order[is_shown[order]]
        seek_ticks = np.where(dts == NO_TIME, pts, np.minimum(pts, dts))
        return cls(shown, pts[shown], start_packets(pts, keys)[shown], seek_ticks, pts, order)

    @property
    def held_back(self) -> int:
        """How many frames a decoder must hold back to give them in this order."""
        return int((self.by_pts - np.arange(len(self.by_pts))).max(initial=0))

    def is_plausible(self, max_gap_ticks: float) -> bool:
        """Return True if these can be the times of frames.

        They cannot if there is no frame, if one is shown far from its place in decode order, as
        after a clock that starts anew, or if one lasts longer than ``max_gap_ticks``. They may not
        be if the last few come long after all others, but were decoded before some of them.
        """
        moved = np.abs(self.by_pts - np.arange(len(self.by_pts)))
        gaps = np.diff(self.shown_pts)
        return bool(
            len(self.shown)
            and moved.max() <= MOST_REORDERED
            and gaps.min(initial=0) >= 0  # a difference beyond 63 bits turns over
            and gaps.max(initial=0) <= max_gap_ticks
            and not self._ends_strangely()
        )

    def _ends_strangely(self) -> bool:
        """Return True if impossible stamps may have put frames behind all others."""
        gaps, positions = np.diff(self.shown_pts), self.shown
        tail = len(positions) - MOST_IMPOSSIBLE
        if tail < MOST_IMPOSSIBLE:
            return False
        wide = np.flatnonzero(gaps[tail - 1 :] > _WIDE_GAPS * max(1.0, float(np.median(gaps))))
        if not len(wide):
            return False
        first = tail + int(wide[0])  # the first frame behind the gap
        return bool(positions[first:].min() < positions[:first].max())

    def frames_to_compare(self, reorder_depth: int) -> int:
        """Return how many frames must come out in the order of this index for it to be believed.

        Where the decoder holds back frames, but by their times it need not, these may be times of
        decoding, as in files copied from a container that has no others.
        """
        agrees = (self.held_back > 0) == (reorder_depth > 0)
        return 1 if agrees else COMPARED_FRAMES

    def frame_at(self, pts: int | None) -> int | None:
        """Return the number of the shown frame with this time, if any."""
        if pts is None:
            return None
        i = int(np.searchsorted(self.shown_pts, pts))
        return i if i < len(self.shown_pts) and self.shown_pts[i] == pts else None

    def position_of(self, pts: int | None) -> int | None:
        """Return the position of the packet with this time, if any."""
        if pts is None:
            return None
        i = int(np.searchsorted(self.pts, pts, sorter=self.by_pts))
        position = int(self.by_pts[min(i, len(self.pts) - 1)])
        return position if self.pts[position] == pts else None


def frames_by_time(opener: Opener, index: PacketIndex, wanted: list[int], found: Scan) -> Frames:
    """Yield the wanted frames of a one-to-one video, in order.

    Args:
        opener: Opens the video anew.
        index: Where its frames are.
        wanted: Ascending frame numbers.
        found: Counts damaged packets.

    Yields:
        Frame number and frame, None where it cannot be decoded.
    """
    todo, may_seek = deque(wanted), True
    while todo:
        with opener() as opened:
            only_video(opened)
            yield from _one_pass(opened, index, todo, may_seek, found)
        may_seek = False


def _one_pass(
    opened: Opened,
    index: PacketIndex,
    todo: deque[int],
    may_seek: bool,
    found: Scan,
) -> Frames:
    """Serve ``todo`` until it is empty, or until a seek turns out to have failed."""
    container, stream, _ = opened
    packets: Iterator[Packet[Any]] = packets_of(container, found, stream)
    position, sought, latest = 0, False, -1
    while todo:
        start = int(index.starts[todo[0]])
        if may_seek and start > position + SEEK_COST_PACKETS:
            moved = _seek(opened, index, start, found)
            if moved is None:
                return
            packets, position, sought, latest = moved, start, True, -1
        packet = next(packets, None)
        position += 1
        for frame in decode_packet(opened, packet, found):
            number = index.frame_at(frame.pts)
            if number is None:
                continue
            if number < latest:
                raise DecodeError(
                    f"frame {number} is shown after frame {latest}, so the times in the file are "
                    "not those at which frames are shown; open it with decode_index=True."
                )
            latest = number
            while todo and todo[0] < number:
                if sought:
                    return
                yield todo.popleft(), None
            if todo and todo[0] == number:
                yield todo.popleft(), frame
        if packet is None:
            if sought:
                return
            while todo:
                yield todo.popleft(), None


def _seek(
    opened: Opened, index: PacketIndex, start: int, found: Scan
) -> Iterator[Packet[Any]] | None:
    """Move to the packet at position ``start``; None if the container cannot."""
    container, stream, _ = opened
    context = stream.codec_context
    depth = context.reorder_depth
    try:
        container.seek(int(index.seek_ticks[start]), stream=stream, backward=True)
    except (av.error.FFmpegError, ValueError):
        return None
    context.reorder_depth = max(depth, context.reorder_depth)  # flushing may forget it
    packets = packets_of(container, found, stream)
    for packet in packets:
        position = index.position_of(packet.pts)
        if position == start:
            return chain((packet,), packets)
        if position is None or position > start:
            return None
    return None


def frames_by_order(opener: Opener, wanted: list[int], found: Scan) -> Frames:
    """Yield the wanted frames by decoding from the start and counting; see above."""
    todo, number = deque(wanted), -1
    with opener() as opened:
        only_video(opened)
        for packet in chain(packets_of(opened.container, found, opened.stream), (None,)):
            for frame in decode_packet(opened, packet, found):
                number += 1
                if todo and todo[0] == number:
                    yield todo.popleft(), frame
            if not todo:
                return
    while todo:
        yield todo.popleft(), None
