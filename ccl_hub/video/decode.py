"""How chosen frames are decoded: seeking where that is cheaper than scanning (uses PyAV).

The frames are exactly those of a full sequential decode: decoding starts only at exact key frames,
every frame is recognised by its own presentation time, and when one does not come out after a seek
the rest of the video is decoded from its start instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Any

import av
import av.error
from av.packet import Packet

from ..errors import DecodeError
from .index import PacketIndex
from .open import Opened, Opener
from .scan import decode_packet, only_video, packets_of

Frames = Generator[tuple[int, av.VideoFrame | None], None, None]
"""Frame numbers and frames, None where a frame cannot be decoded."""

SEEK_COST_PACKETS = 12
"""Seek when that leaves out more packets: refilling the decoder costs about as many."""


def frames_by_time(
    opener: Opener, index: PacketIndex, numbers: list[int], only_keys: bool = False
) -> Frames:
    """Yield some frames of a one-to-one video, in order.

    Args:
        opener: Opens the video, once for each pass.
        index: Where its frames are.
        numbers: Ascending frame numbers.
        only_keys: All of them are key frames, so that the decoder may leave out all others.

    Yields:
        Frame number and frame, None where it cannot be decoded.
    """
    todo, may_seek = deque(numbers), True
    while todo:
        with opener() as opened:
            only_video(opened)
            if only_keys:
                opened.stream.codec_context.skip_frame = "NONKEY"
            yield from _one_pass(opened, index, todo, may_seek)
        may_seek = False


def _one_pass(opened: Opened, index: PacketIndex, todo: deque[int], may_seek: bool) -> Frames:
    """Serve ``todo`` until it is empty, or until a seek turns out to have failed."""
    packets: Iterator[Packet[Any]] = packets_of(opened, opened.stream)
    position, sought, latest = 0, False, -1
    while todo:
        start = int(index.starts[todo[0]])
        if may_seek and start > position + SEEK_COST_PACKETS:
            moved = _seek(opened, index, start)
            if moved is None:
                return
            packets, position, sought, latest = moved, start, True, -1
        packet = next(packets, None)
        position += 1
        for frame in decode_packet(opened, packet):
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


def _seek(opened: Opened, index: PacketIndex, start: int) -> Iterator[Packet[Any]] | None:
    """Move to the packet at position ``start``; None if the container cannot."""
    stream = opened.stream
    context = stream.codec_context
    depth = context.reorder_depth
    try:
        opened.container.seek(int(index.seek_ticks[start]), stream=stream, backward=True)
    except (av.error.FFmpegError, ValueError):
        return None
    context.reorder_depth = max(depth, context.reorder_depth)  # flushing may forget it
    packets = packets_of(opened, stream)
    for packet in packets:
        position = index.position_of(packet.pts)
        if position == start:
            return chain((packet,), packets)
        if position is None or position > start:
            return None
    return None


def frames_by_order(opener: Opener, numbers: list[int]) -> Frames:
    """Yield the same as :func:`frames_by_time` by decoding from the start and counting frames."""
    todo, number = deque(numbers), -1
    with opener() as opened:
        only_video(opened)
        for packet in chain(packets_of(opened, opened.stream), (None,)):
            for frame in decode_packet(opened, packet):
                number += 1
                if todo and todo[0] == number:
                    yield todo.popleft(), frame
            if not todo:
                return
    while todo:
        yield todo.popleft(), None
