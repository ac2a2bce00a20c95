"""From what a decoder gives to the picture that the file means: range, crop, alpha (uses PyAV).

A file may say more of a picture than its decoder knows: that only a part of it is to be shown,
which way is up, and that a second picture holds its alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import av
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange

from .headers.layout import NO_CROP, Crop

_FULL_RANGE = {
    **dict.fromkeys(("mjpeg", "png", "apng", "bmp", "gif", "webp"), ("gray",)),
    "tiff": ("gray", "yuv"),
}
"""Codecs of still images, and formats of theirs that are of full range where no tag says more."""

_BLOCK_ADDITION: Literal["matroska_block_additional"] = "matroska_block_additional"
_MAX_WAITING = 64


@dataclass(frozen=True)
class Beside:
    """What is known of a frame beside it.

    Args:
        alpha: Its alpha: a frame whose first plane it is, or None.
        orientation: The EXIF orientation, 1 to 8, for a frame without a display matrix.
    """

    alpha: av.VideoFrame | None = None
    orientation: int = 1

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Beside:
        """Return what :class:`FrameView` put beside a frame."""
        return frame.opaque if isinstance(frame.opaque, cls) else NOTHING


NOTHING = Beside()


class BlockAlpha:
    """The alpha of VP8 and VP9 in Matroska: a second stream, a packet of it beside each packet.

    Args:
        codec: FFmpeg's name of the decoder, the same as of the picture.
        options: Options of the decoder.
    """

    def __init__(self, codec: str, options: Mapping[str, str]) -> None:
        decoder = av.CodecContext.create(codec, "r")
        assert isinstance(decoder, VideoCodecContext)  # noqa: S101 (for the type checker)
        decoder.options, decoder.thread_count = dict(options), 1  # no delay
        self._decoder = decoder
        self._waiting: dict[int | None, av.VideoFrame] = {}

    def read(self, packet: Packet[Any]) -> None:
        """Decode what lies beside a packet.

        Raises:
            av.error.FFmpegError: It is damaged.
        """
        data = _beside(packet)
        if not data:
            return
        alpha: Packet[Any] = Packet(data)
        alpha.pts, alpha.dts = packet.pts, packet.dts
        alpha.time_base = packet.time_base
        for frame in self._decoder.decode(alpha):
            self._waiting[frame.pts] = frame
        while len(self._waiting) > _MAX_WAITING:  # of pictures that could not be decoded
            del self._waiting[next(iter(self._waiting))]

    def is_start(self, packet: Packet[Any]) -> bool:
        """Return True if what lies beside a packet is a key frame: those need not be the same."""
        first = _beside(packet)[:1] or b"\xff"
        if self._decoder.name == "vp8":  # RFC 6386, 9.1
            return not first[0] & 1
        inverse = 0x04 if first[0] & 0x30 != 0x30 else 0x02  # VP9, 6.2: profile 3 has a bit more
        return not first[0] & (inverse | inverse << 1)

    def of(self, frame: av.VideoFrame) -> av.VideoFrame | None:
        """Return the alpha of a decoded frame, by its time; None if it has none."""
        return self._waiting.pop(frame.pts, None)


def _beside(packet: Packet[Any]) -> bytes:
    """Return the alpha that lies beside a packet (Matroska BlockAdditional 1), b"" if none."""
    if not packet.has_sidedata(_BLOCK_ADDITION):
        return b""
    data = bytes(packet.get_sidedata(_BLOCK_ADDITION))
    return data[8:] if int.from_bytes(data[:8], "big") == 1 else b""


class FrameFilter:
    """Applies FFmpeg's filters to one frame after another, for what PyAV has no property for.

    A filter that only changes facts of a frame, or where its rows begin, copies no pixels.

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


@dataclass
class FrameView:
    """How the frames of a stream are meant; called, it makes decoded frames say so.

    What a frame cannot hold itself is put into ``frame.opaque``; see :class:`Beside`.

    Args:
        codec: FFmpeg's name of the codec.
        max_pixels: Most pixels that a frame may have.
        is_still: The stream is one still image.
        crop: What the container wants cut off.
        alpha: The alpha of each frame, one for all (of a still image), or None.
        orientation: The EXIF orientation, if FFmpeg does not read it.
    """

    codec: str
    max_pixels: int
    is_still: bool = False
    crop: Crop = NO_CROP
    alpha: BlockAlpha | av.VideoFrame | None = None
    orientation: int = 1

    @cached_property
    def _cut(self) -> tuple[FrameFilter, FrameFilter]:
        """The filters that crop the picture and its alpha."""
        return FrameFilter(("crop", self.crop.filter)), FrameFilter(("crop", self.crop.filter))

    def is_start(self, packet: Packet[Any]) -> bool:
        """Return True if the alpha beside a key frame can be decoded from there, too."""
        return not isinstance(self.alpha, BlockAlpha) or self.alpha.is_start(packet)

    def __call__(
        self, packet: Packet[Any] | None, frames: list[av.VideoFrame]
    ) -> list[av.VideoFrame]:
        """Return the frames that came out for a packet, as the file means them.

        Raises:
            av.error.FFmpegError: The alpha is damaged.
        """
        if packet is not None and isinstance(self.alpha, BlockAlpha):
            self.alpha.read(packet)
        return [self._as_meant(frame) for frame in frames]

    def _as_meant(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return one frame with the range, the crop, the alpha and the orientation of the file."""
        full_range = _FULL_RANGE.get(self.codec, ())
        if not frame.color_range and frame.format.name.startswith(full_range):
            frame.color_range = ColorRange.JPEG
        alpha = self.alpha.of(frame) if isinstance(self.alpha, BlockAlpha) else self.alpha
        if alpha is not None and (alpha.width, alpha.height) != (frame.width, frame.height):
            alpha = None
        if self.crop.fits(frame.width, frame.height):
            picture, plane = self._cut
            frame, alpha = picture(frame), alpha and plane(alpha)
        beside = Beside(alpha, self.orientation)
        if beside != NOTHING:
            frame.opaque = beside
        return frame
