"""From what a decoder gives to the picture that the file means: range, crop, alpha (uses PyAV).

A file may say more of a picture than its decoder knows: that only a part of it is to be shown,
which way is up, and that a second picture holds its alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange

from .video_filter import FrameFilter
from .video_layout import NO_CROP, Crop

__all__ = ["Beside", "BlockAlpha", "FrameView"]

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
        options: Of the decoder.
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
        if not packet.has_sidedata(_BLOCK_ADDITION):
            return
        data = bytes(packet.get_sidedata(_BLOCK_ADDITION))
        if int.from_bytes(data[:8], "big") != 1:  # BlockAddID: 1 is alpha
            return
        alpha: Packet[Any] = Packet(data[8:])
        alpha.pts, alpha.dts = packet.pts, packet.dts
        alpha.time_base = packet.time_base
        for frame in self._decoder.decode(alpha):
            self._waiting[frame.pts] = frame
        while len(self._waiting) > _MAX_WAITING:  # of pictures that could not be decoded
            del self._waiting[next(iter(self._waiting))]

    def of(self, frame: av.VideoFrame) -> av.VideoFrame | None:
        """Return the alpha of a decoded frame, by its time; None if it has none."""
        return self._waiting.pop(frame.pts, None)


class FrameView:
    """Makes decoded frames say what the file means by them; any other passes as it is.

    What a frame cannot hold itself is put into ``frame.opaque``; see :class:`Beside`.

    Args:
        codec: FFmpeg's name of the codec.
        crop: What the container wants cut off.
        alpha: The alpha of each frame, one for all (of a still image), or None.
        orientation: The EXIF orientation, if FFmpeg does not read it.
    """

    def __init__(
        self,
        codec: str,
        crop: Crop = NO_CROP,
        alpha: BlockAlpha | av.VideoFrame | None = None,
        orientation: int = 1,
    ) -> None:
        self._full_range = _FULL_RANGE.get(codec, ())
        self._crop = crop
        self._alpha = alpha
        self._orientation = orientation
        self._crops = FrameFilter(("crop", crop.filter)), FrameFilter(("crop", crop.filter))

    @property
    def needs_all_packets(self) -> bool:
        """True if decoding can start at no key frame, since the alpha has others."""
        return isinstance(self._alpha, BlockAlpha)

    def __call__(
        self, packet: Packet[Any] | None, frames: list[av.VideoFrame]
    ) -> list[av.VideoFrame]:
        """Return the frames that came out for a packet, as the file means them.

        Raises:
            av.error.FFmpegError: The alpha is damaged.
        """
        if packet is not None and isinstance(self._alpha, BlockAlpha):
            self._alpha.read(packet)
        return [self._as_meant(frame) for frame in frames]

    def _as_meant(self, frame: av.VideoFrame) -> av.VideoFrame:
        if not frame.color_range and frame.format.name.startswith(self._full_range):
            frame.color_range = ColorRange.JPEG
        alpha = self._alpha.of(frame) if isinstance(self._alpha, BlockAlpha) else self._alpha
        if alpha is not None and (alpha.width, alpha.height) != (frame.width, frame.height):
            alpha = None
        if self._crop.fits(frame.width, frame.height):
            frame = self._crops[0](frame)
            alpha = alpha and self._crops[1](alpha)
        beside = Beside(alpha, self._orientation)
        if beside != NOTHING:
            frame.opaque = beside
        return frame
