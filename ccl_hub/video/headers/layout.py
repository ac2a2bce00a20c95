"""What a container says of a picture that PyAV does not tell: crop, and where its alpha is.

Pure, bounded reading of the boxes of MP4, MOV, HEIF and AVIF (ISO/IEC 14496-12, 23008-12) and the
elements of Matroska and WebM (RFC 9559). What is damaged or absent says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from typing import BinaryIO, NamedTuple

from ..file import MediaFile
from .wholeness import ebml_number

_MAX_BOXES = 10_000
"""Boxes or elements that are looked at on one level."""

_MAX_BYTES = 1 << 16
"""Largest box that is read whole."""

_MAX_SOURCES = 16
"""Images beside an image that may be its alpha, and statements of what one is."""

Box = tuple[bytes, int, int]
"""A box or element: its name, and where its content begins and ends."""

Walk = Callable[[BinaryIO, int, int], Iterator[Box]]


class Crop(NamedTuple):
    """Pixels that the container wants cut off each side of the stored picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    @property
    def filter(self) -> str:
        """The options of FFmpeg's filter ``crop``."""
        across, down = self.left + self.right, self.top + self.bottom
        return f"w=in_w-{across}:h=in_h-{down}:x={self.left}:y={self.top}:exact=1"

    def fits(self, width_px: int, height_px: int) -> bool:
        """Return True if it cuts something off, and leaves something, of such a picture."""
        across, down = self.left + self.right, self.top + self.bottom
        return min(self) >= 0 and max(self) > 0 and across < width_px and down < height_px


NO_CROP = Crop()


class Layout(NamedTuple):
    """What HEIF or AVIF says of an image: its crop, and the item that is its alpha, if any."""

    crop: Crop = NO_CROP
    alpha_item: int | None = None


def track_crop(media: MediaFile, track: int) -> Crop:
    """Return the crop of a video track of MP4 or MOV.

    Args:
        media: The file.
        track: Its ``track_ID``, which FFmpeg gives as ``stream.id``.
    """
    size = media.size_bytes
    with media.open() as file:
        for trak in _inside(_boxes, file, (b"", 0, size), b"moov", b"trak"):
            header = next((_read(file, box) for box in _inside(_boxes, file, trak, b"tkhd")), b"")
            # Its version says how wide the times before the track_ID are.
            if header and _number(header, 20 if header[:1] == b"\1" else 12) == track:
                tables = _inside(_boxes, file, trak, b"mdia", b"minf", b"stbl", b"stsd")
                return next((_entry_crop(file, table) for table in tables), NO_CROP)
    return NO_CROP


def matroska_crop(media: MediaFile, number: int) -> Crop:
    """Return the crop of a video track of Matroska or WebM.

    Args:
        media: The file.
        number: How many video tracks come before it.
    """
    size = media.size_bytes
    with media.open() as file:
        for tracks in _inside(_elements, file, (b"", 0, size), _SEGMENT, _TRACKS):
            videos = _inside(_elements, file, tracks, _ENTRY, _VIDEO)
            video = next(islice(videos, number, None), None)
            return NO_CROP if video is None else _pixel_crop(file, video)
    return NO_CROP


def image_layout(media: MediaFile, item: int) -> Layout:
    """Return the layout of an image of HEIF or AVIF.

    Alpha by which the picture is multiplied already (``prem``) is left out: such a picture is
    composited over black as it is.

    Args:
        media: The file.
        item: Its ``item_ID``, which FFmpeg gives as ``stream.id``.
    """
    size = media.size_bytes
    with media.open() as file:
        for _, start, end in _inside(_boxes, file, (b"", 0, size), b"meta"):
            meta = b"", start + 4, end
            properties = _item_properties(file, meta)
            references = _references(file, meta)
            sources = dict.fromkeys(
                source for kind, source, target in references if kind == b"auxl" and target == item
            )
            alphas = (
                s for s in islice(sources, _MAX_SOURCES) if _is_alpha(file, properties.get(s, []))
            )
            crop, alpha = _item_crop(file, properties.get(item, [])), next(alphas, None)
            if alpha is None or (b"prem", item, alpha) in references:
                return Layout(crop)
            return Layout(crop, alpha)
    return Layout()


def _inside(walk: Walk, file: BinaryIO, box: Box, *names: bytes) -> Iterator[Box]:
    """Yield the boxes at the end of a path of names; an empty name stands for any."""
    for inner in walk(file, box[1], box[2]):
        if names[0] in (b"", inner[0]):
            if len(names) == 1:
                yield inner
            else:
                yield from _inside(walk, file, inner, *names[1:])


def _read(file: BinaryIO, box: Box, most_bytes: int = _MAX_BYTES) -> bytes:
    """Return the content of a box, or the beginning of a long one."""
    file.seek(box[1])
    return file.read(min(box[2] - box[1], most_bytes))


def _number(data: bytes, position: int, width: int = 4) -> int:
    return int.from_bytes(data[position : position + width], "big")


# Boxes of MP4 and MOV


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes between two positions."""
    for _ in range(_MAX_BOXES):
        file.seek(start)
        header = file.read(16)
        if start + 8 > end or len(header) < 8:
            return
        length, content = int.from_bytes(header[:4], "big"), start + 8
        if length == 1:
            length, content = int.from_bytes(header[8:], "big"), start + 16
        stop = end if length == 0 else start + length
        if stop < content or stop > end:
            return
        yield header[4:8], content, stop
        start = stop


def _entry_crop(file: BinaryIO, table: Box) -> Crop:
    """Return the crop of the first sample entry of a stsd box."""
    for _, start, end in _boxes(file, table[1] + 8, table[2]):
        entry = _read(file, (b"", start, min(end, start + 78)))
        for box in _inside(_boxes, file, (b"", start + 78, end), b"clap"):
            return _clean_aperture(_read(file, box), _number(entry, 24, 2), _number(entry, 26, 2))
        break
    return NO_CROP


def _clean_aperture(data: bytes, width: int, height: int) -> Crop:
    """Return the crop of a clap box (14496-12, 12.1.4); fractions of a pixel are not cut off."""
    if len(data) < 32:
        return NO_CROP
    above = [int.from_bytes(data[i : i + 4], "big", signed=True) for i in range(0, 32, 8)]
    below = [int.from_bytes(data[i : i + 4], "big", signed=True) for i in range(4, 32, 8)]
    if not all(below):
        return NO_CROP
    wide, high, right_of, below_of = map(Fraction, above, below)
    across, down = (width - wide) / 2, (height - high) / 2
    margins = across + right_of, down + below_of, across - right_of, down - below_of
    return Crop(*(int(margin // 1) for margin in margins))


# Items of HEIF and AVIF

_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"


def _item_properties(file: BinaryIO, meta: Box) -> dict[int, list[Box]]:
    """Return the properties of each item, by the boxes ipco (all of them) and ipma (whose)."""
    properties = list(_inside(_boxes, file, meta, b"iprp", b"ipco", b""))
    of_items: dict[int, list[Box]] = {}
    for box in _inside(_boxes, file, meta, b"iprp", b"ipma"):
        for item, indices in _associations(_read(file, box)):
            boxes = [properties[i - 1] for i in indices if 0 < i <= len(properties)]
            of_items.setdefault(item, []).extend(boxes)
    return of_items


def _associations(data: bytes) -> Iterator[tuple[int, list[int]]]:
    """Yield the items of an ipma box, each with the numbers (from 1) of its properties."""
    item_bytes = 2 if data[:1] == b"\0" else 4
    index_bytes = 2 if _number(data, 3, 1) & 1 else 1
    mask = (1 << 8 * index_bytes - 1) - 1  # without the bit "essential"
    position = 8
    for _ in range(_number(data, 4)):
        if position >= len(data):
            return
        item = _number(data, position, item_bytes)
        first = position + item_bytes + 1
        position = first + index_bytes * _number(data, first - 1, 1)
        starts = range(first, position, index_bytes)
        yield item, [_number(data, start, index_bytes) & mask for start in starts]


def _references(file: BinaryIO, meta: Box) -> list[tuple[bytes, int, int]]:
    """Return the references of the iref box: kind, from which item, to which."""
    references: list[tuple[bytes, int, int]] = []
    for box in _inside(_boxes, file, meta, b"iref"):
        width = 4 if _read(file, box)[:1] == b"\1" else 2
        for entry in _boxes(file, box[1] + 4, box[2]):
            data = _read(file, entry)
            for i in range(min(_number(data, width, 2), len(data) // width)):
                target = _number(data, width + 2 + i * width, width)
                references.append((entry[0], _number(data, 0, width), target))
    return references


def _is_alpha(file: BinaryIO, properties: list[Box]) -> bool:
    """Return True if one of the properties (auxC) says so."""
    kinds = islice((box for box in properties if box[0] == b"auxC"), _MAX_SOURCES)
    longest = 4 + max(map(len, _ALPHA))
    return any(_read(file, box, longest)[4:].startswith(_ALPHA) for box in kinds)


def _item_crop(file: BinaryIO, properties: list[Box]) -> Crop:
    """Return the crop by the properties of an image: its size (ispe) and clap."""
    data = {box[0]: _read(file, box) for box in properties if box[0] in (b"ispe", b"clap")}
    size = data.get(b"ispe", b"")
    return _clean_aperture(data.get(b"clap", b""), _number(size, 4), _number(size, 8))


# Elements of Matroska and WebM

_SEGMENT, _TRACKS = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b"
_ENTRY, _VIDEO = b"\xae", b"\xe0"
_PIXEL_CROPS = b"\x54\xcc", b"\x54\xbb", b"\x54\xdd", b"\x54\xaa"  # left, top, right, bottom


def _pixel_crop(file: BinaryIO, video: Box) -> Crop:
    """Return the crop by the elements of a Video element (RFC 9559, 5.1.4.1.28)."""
    boxes = {box[0]: box for box in _elements(file, video[1], video[2])}
    data = (_read(file, boxes[name]) if name in boxes else b"" for name in _PIXEL_CROPS)
    return Crop(*(int.from_bytes(value[:8], "big") for value in data))


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """Yield the elements between two positions; one of unknown size reaches to the end."""
    for _ in range(_MAX_BOXES):
        file.seek(start)
        header = file.read(12)
        if start >= end or not header or header[0] < 0x10:  # no name is longer than four bytes
            return
        name = header[: 9 - header[0].bit_length()]
        length, width = ebml_number(header[len(name) :])
        content = start + len(name) + width
        start = end if length < 0 else min(content + length, end)
        yield name, content, start
