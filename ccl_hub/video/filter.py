"""FFmpeg filters over decoded frames, for what PyAV has no property for (uses PyAV).

A filter that only changes what is said of a frame, or where its rows begin, copies no pixels.
"""

from __future__ import annotations

from fractions import Fraction

import av
from av.filter import Graph

__all__ = ["FrameFilter"]


class FrameFilter:
    """Applies filters to one frame after another, each by itself.

    Args:
        filters: FFmpeg's name and options ("key=value:key=value") of each; one frame in must give
            one frame out.

    Example:
        >>> FrameFilter(("crop", "w=in_w-2"))(av.VideoFrame(8, 8, "gray")).width
        6
    """

    def __init__(self, *filters: tuple[str, str]) -> None:
        self._filters = filters
        self._shape: tuple[int, int, str] | None = None
        self._graph = Graph()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the filtered frame; its time, colour tags and other facts are kept.

        Raises:
            av.error.FFmpegError: A filter does not take the frame.
        """
        shape = frame.width, frame.height, frame.format.name
        if shape != self._shape:
            self._graph = self._build(frame)
            self._shape = shape
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _build(self, frame: av.VideoFrame) -> Graph:
        """Connect the filters for frames of this size and format."""
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1),
        )
        filters = [graph.add(name, options) for name, options in self._filters]
        graph.link_nodes(source, *filters, graph.add("buffersink"))
        graph.configure()
        return graph
