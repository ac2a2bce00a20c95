"""Over which times the other streams of a file go on, such as its sound.

A clock that jumps does so in every stream; where sound goes on, the picture stood still.
"""

from __future__ import annotations

from typing import Any

from av.packet import Packet

__all__ = ["OtherStreams"]

MOST_SILENT_SECONDS = 2.0
"""A stream whose packets are further apart does not go on between them."""

SHORTEST_RUN_SECONDS = 5.0
"""What goes on for less fills no gap that could be taken for a break."""


class OtherStreams:
    """Takes the packets of all streams but the video, in the order of the file.

    ``end_seconds`` is the latest end of any of them.
    """

    def __init__(self) -> None:
        self.end_seconds = 0.0
        self._over: list[tuple[float, float]] = []
        self._now: dict[int, tuple[float, float]] = {}

    def note(self, packet: Packet[Any]) -> None:
        """Take the next packet."""
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
