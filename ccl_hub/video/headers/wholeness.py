"""Is a media file whole, judged by its outer structure alone? Pure reading of a few bytes.

FFmpeg reads a file that was cut short as if it ended there, without an error. Most containers say
how long they are, or end in a marker, so a cut can be told without decoding.
"""

from __future__ import annotations

import os
from operator import add
from typing import BinaryIO, Literal

from ..file import MediaFile
from .jpeg import is_whole as jpeg_is_whole

Wholeness = Literal["whole", "cut", "unknown"]
"""``whole``: the end is marked and there; ``cut``: bytes are missing; ``unknown``: no telling."""

_MEDIA_BOXES = (b"moov", b"moof", b"mdat")
_MAX_BOXES = 200_000
_TAIL_BYTES = 1 << 16
_TS_PACKET_BYTES = 188
_TIFF_TAGS = (254, 256, 257, 259, 273, 274, 279, 324, 325)
_MAX_TIFF_VALUES = 1 << 20


def wholeness(media: MediaFile) -> Wholeness:
    """Tell whether a file ends where its container says it does.

    Args:
        media: A regular file.

    Example:
        >>> wholeness(MediaFile(Path("cut.mp4")))  # doctest: +SKIP
        'cut'
    """
    size = media.size_bytes
    with media.open() as file:
        head = file.read(64)
        if head.startswith(b"\x1aE\xdf\xa3"):
            return _matroska(head, size)
        if head.startswith(b"RIFF"):
            return _riff(file, size)
        if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"sidx"):
            return _mp4(file, size)
        if head.startswith(b"GIF8"):
            return _gif(file)
        if head.startswith(b"G"):
            return _mpegts(file, size)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return "whole" if b"IEND" in _tail(file, size, _TAIL_BYTES) else "cut"
        if head.startswith(b"\xff\xd8\xff"):
            return "whole" if jpeg_is_whole(file) else "cut"
        if head.startswith((b"II*\0", b"MM\0*")):
            return _tiff(file, size)
        if head.startswith(b"BM") and size >= 14:
            return "whole" if int.from_bytes(head[2:6], "little") <= size else "cut"
    return "unknown"


def _tail(file: BinaryIO, size: int, length: int) -> bytes:
    """Return the last bytes of the file."""
    file.seek(max(0, size - length))
    return file.read(length)


def _mp4(file: BinaryIO, size: int) -> Wholeness:
    """Walk the top-level boxes (ISO/IEC 14496-12, 4.2): each must end inside the file.

    A walk that ends well still says ``unknown``, since a file may be cut between two fragments,
    unless its last box is the index of all fragments.
    """
    position, kind = 0, b""
    for _ in range(_MAX_BOXES):
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            if header:
                return "cut"
            return "whole" if kind == b"mfra" else "unknown"
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if length < 8:  # 0: up to the end of the file
            return "unknown"
        position += length
        if position > size:
            return "cut" if kind in _MEDIA_BOXES else "unknown"
    return "unknown"


def _matroska(head: bytes, size: int) -> Wholeness:
    """Compare the size of the Segment (RFC 8794, RFC 9559) with the file."""
    length, width = ebml_number(head[4:])
    start = 4 + width + length
    if length < 0 or head[start : start + 4] != b"\x18\x53\x80\x67":
        return "unknown"
    length, width = ebml_number(head[start + 4 :])
    if length < 0:  # written live: no size
        return "unknown"
    return "whole" if start + 4 + width + length <= size else "cut"


def ebml_number(data: bytes) -> tuple[int, int]:
    """Return an EBML variable-size number, -1 if unknown or damaged, and its width in bytes."""
    if not data or data[0] == 0:
        return -1, 1
    width = 9 - data[0].bit_length()
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    unknown = len(data) < width or value == (1 << 7 * width) - 1
    return (-1 if unknown else value), width


def _riff(file: BinaryIO, size: int) -> Wholeness:
    """Walk the RIFF chunks of AVI and WebP; OpenDML files hold several in a row."""
    position = 0
    while position + 12 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            return "unknown" if position == 0 else "whole"
        position += 8 + length + length % 2
    return "whole" if position - 1 <= size else "cut"


def _gif(file: BinaryIO) -> Wholeness:
    """Walk the blocks (GIF89a specification, Appendix A) up to the trailer."""
    file.seek(10)
    flags = file.read(3)[:1]
    _skip_colours(file, flags)
    while kind := file.read(1):
        if kind == b";":
            return "whole"
        if kind == b",":  # an image: its position and size, then flags
            _skip_colours(file, file.read(9)[8:])
        if kind not in b",!":
            return "unknown"
        file.seek(1, os.SEEK_CUR)  # the code size of an image, the label of an extension
        while length := file.read(1)[:1]:
            if length == b"\0":
                break
            file.seek(length[0], os.SEEK_CUR)
    return "cut"


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    """Skip the colour table that these flags of a GIF announce."""
    if flags and flags[0] & 0x80:
        file.seek(3 << ((flags[0] & 7) + 1), os.SEEK_CUR)


def _mpegts(file: BinaryIO, size: int) -> Wholeness:
    """A transport stream is a run of 188-byte packets; it never says how many."""
    file.seek(_TS_PACKET_BYTES)
    return "cut" if file.read(1) == b"G" and size % _TS_PACKET_BYTES else "unknown"


def _tiff(file: BinaryIO, size: int) -> Wholeness:
    """Compare where the strips or tiles of the first image end with the file."""
    tags = tiff_tags(file)
    ends = [
        end
        for offsets, lengths in ((273, 279), (324, 325))
        for end in map(add, tags.get(offsets, ()), tags.get(lengths, ()))
    ]
    return "whole" if ends and max(ends) <= size else "cut"


def tiff_tags(file: BinaryIO) -> dict[int, tuple[int, ...]]:
    """Return what the first image of a TIFF file says of its kind and its data (TIFF 6.0, 2).

    Args:
        file: Open for reading in binary. A directory that is not all there gives no tags.

    Returns:
        The whole numbers of NewSubfileType, ImageWidth, ImageLength, Compression and Orientation,
        and of the offsets and lengths of strips and tiles.
    """
    file.seek(0)
    order: Literal["little", "big"] = "little" if file.read(4)[:1] == b"I" else "big"
    file.seek(int.from_bytes(file.read(4), order))
    count = int.from_bytes(file.read(2), order)
    entries = file.read(12 * count)
    tags: dict[int, tuple[int, ...]] = {}
    if len(entries) < 12 * count:
        return tags
    for i in range(0, len(entries), 12):
        tag, kind = (int.from_bytes(entries[i + j : i + j + 2], order) for j in (0, 2))
        if tag not in _TIFF_TAGS or tag in tags:
            continue
        width = {1: 1, 3: 2, 4: 4}.get(kind, 0)  # bytes, shorts, longs
        length = width * min(int.from_bytes(entries[i + 4 : i + 8], order), _MAX_TIFF_VALUES)
        if not length:  # of a kind that holds no whole numbers, or none of them
            continue
        data = entries[i + 8 : i + 12][:length]
        if length > 4:
            file.seek(int.from_bytes(data, order))
            data = file.read(length)
        values = [data[j : j + width] for j in range(0, len(data) - width + 1, width)]
        if values:
            tags[tag] = tuple(int.from_bytes(value, order) for value in values)
    return tags
