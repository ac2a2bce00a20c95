"""Where a JPEG image ends, and whether a file of JPEG images is a film. Pure reading of markers.

Files are open for reading in binary, and their first bytes begin an image.
Photographs carry more behind their image: a short film, a gain map, previews, a depth map. All of
it belongs to others, and may hold any bytes. Films are told from photographs by content:

* Three images in a row, of one size and with nothing but fill bytes between them, are a film.
* Two such images are a film too, unless the first says that it is a photograph, by Exif or XMP
  data: cameras store a second picture, such as the one before a filter, in that way.
* An image with an index of the pictures in its file (MPF, CIPA DC-007) is a photograph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

_SMALL_BYTES, _LARGE_BYTES = 1 << 12, 1 << 20
"""Sizes of the pieces that are read: headers are short, scans long."""

_MAX_SEGMENTS = 100_000
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
"""A marker that means something: no stuffed byte, no restart, no fill byte."""

_START = re.compile(rb"[\x00\xff]*?(\xff\xd8\xff)")
_MAX_FILL_BYTES = 1 << 16

_END, _SCAN, _APP1, _APP2 = 0xD9, 0xDA, 0xE1, 0xE2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame: holds the size
_LAST_COMMON_FRAME = 0xC3
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""What may stand between two scans: tables, number of lines, restart interval, comments."""


@dataclass
class _Image:
    """One image: where it begins and ends, its size, the marker of its frame, what it is."""

    start: int | None = None
    end: int | None = None
    size: bytes = b""
    frame: int = 0
    is_photograph: bool = False
    has_index: bool = False


def is_film(file: BinaryIO) -> bool:
    """Return True for a film of JPEG images, False for one image or a photograph."""
    first = _image(file, 0)
    if first.has_index:
        return False
    second = _next_image(file, first)
    if not second.size or second.size != first.size:
        return False
    return not first.is_photograph or _next_image(file, second).size == first.size


def is_whole(file: BinaryIO) -> bool:
    """Return True if the image, or the last image of a film, ends in its end marker.

    That is the one behind its scans (ITU-T T.81, B.1). Thumbnails lie inside segments, which
    are skipped by their length. The file is read once or twice, in pieces.
    """
    image = _image(file, 0)
    if is_film(file):
        while (following := _next_image(file, image)).start is not None:
            image = following
    return image.end is not None


def has_rare_coding(file: BinaryIO) -> bool:
    """Return True for an image other than sequential, progressive or lossless by Huffman codes."""
    return _image(file, 0).frame > _LAST_COMMON_FRAME


def stated_size(file: BinaryIO) -> tuple[int, int]:
    """Return the width and height of the first image, 0 if it states none."""
    size = _image(file, 0).size
    return int.from_bytes(size[2:], "big"), int.from_bytes(size[:2], "big")


def _next_image(file: BinaryIO, image: _Image) -> _Image:
    """Return the image that follows at once, behind no more than fill bytes."""
    if image.end is None:
        return _Image()
    file.seek(image.end)
    start = _START.match(file.read(_MAX_FILL_BYTES))
    return _image(file, image.end + start.start(1)) if start else _Image()


def _image(file: BinaryIO, start: int) -> _Image:
    """Walk the segments of the image that begins at ``start``."""
    image = _Image(start)
    position, scanned = start + 2, False
    for _ in range(_MAX_SEGMENTS):
        marker = _next_marker(file, position)
        if marker is None:
            break
        position, kind = marker
        if kind == _END:
            image.end = position if scanned else None
            return image
        if scanned and kind != _SCAN and kind not in _TABLES:
            return image  # something else has begun
        file.seek(position)
        segment = file.read(16)
        if kind in _FRAMES:
            image.size, image.frame = segment[3:7], kind
        elif kind == _APP1:
            image.is_photograph |= segment[2:].startswith((b"Exif\0", b"http://ns.ado"))
        elif kind == _APP2:
            image.has_index |= segment[2:].startswith(b"MPF\0")
        scanned |= kind == _SCAN
        position += int.from_bytes(segment[:2], "big")
    return image


def _next_marker(file: BinaryIO, position: int) -> tuple[int, int] | None:
    """Return the position behind the next marker and its second byte, None if there is none."""
    file.seek(position)
    length = _SMALL_BYTES
    while len(data := file.read(length)) > 1:
        if marker := _MARKER.search(data):
            return position + marker.end(), data[marker.end() - 1]
        position += len(data) - 1  # a marker may lie across two pieces
        file.seek(position)
        length = min(2 * length, _LARGE_BYTES)
    return None
