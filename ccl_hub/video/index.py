"""Which packet holds each frame, and at which packet decoding must start to show it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .scan import Scan
from .times import MOST_IMPOSSIBLE, NO_TIME, Ticks

MOST_REORDERED = 32
"""How far from its position in decode order a frame may be shown; codecs allow about half."""

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
    def of(cls, scan: Scan) -> PacketIndex:
        """Build the index of a one-to-one scan."""
        pts = np.frombuffer(scan.pts, dtype=np.int64)
        dts = np.frombuffer(scan.dts, dtype=np.int64)
        keys = np.frombuffer(bytes(scan.keys), dtype=np.bool_)
        is_shown = np.frombuffer(bytes(scan.shown), dtype=np.bool_)
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

        They cannot if there is no frame, if one is shown far from its position in decode order, as
        after a clock that starts over, or if one lasts longer than ``max_gap_ticks``. They may not
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
