"""Which demuxer reads a still image, told by its first bytes. Pure reading of a few bytes.

FFmpeg likes to guess the format of an image by its name, and would take characters in it for a
pattern of names.
"""

from __future__ import annotations

from io import BytesIO
from typing import BinaryIO

from ...errors import UnsupportedMediaError
from ..file import MediaFile
from .jpeg import has_rare_coding, is_film, stated_size
from .wholeness import tiff_tags, wholeness

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = b"II*\0", b"MM\0*"
_TIFF_JPEG = 6, 7
_MAX_CHUNKS = 10_000
_MAX_EXIF_BYTES = 1 << 16


def still_format(media: MediaFile, head: bytes) -> str | None:
    """Return FFmpeg's name of the demuxer for an image file, None for anything else.

    Args:
        media: The file.
        head: Its first bytes, 24 or all.

    Raises:
        UnsupportedMediaError: A TIFF file would show something other than its picture.
    """
    if head.startswith(b"BM"):
        return "bmp_pipe"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return None if _is_animated_webp(media) else "webp_pipe"
    with media.open() as file:
        if head.startswith(_PNG):
            return "apng" if _is_animated_png(file) else "png_pipe"
        if head.startswith(b"\xff\xd8\xff"):
            return "mjpeg" if is_film(file) else "jpeg_pipe"
        if head.startswith(_TIFF):
            _refuse_tiff(media, file, head)
            return "tiff_pipe"
    return None


def still_size(media: MediaFile) -> tuple[int, int]:
    """Return the width and height that a PNG, JPEG, TIFF or BMP file states; 0 for others."""
    with media.open() as file:
        head = file.read(26)
        if head.startswith(_PNG):
            return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        if head.startswith(b"BM"):
            width, height = (
                int.from_bytes(head[i : i + 4], "little", signed=True) for i in (18, 22)
            )
            return width, abs(height)
        if head.startswith(b"\xff\xd8\xff"):
            return stated_size(file)
        if head.startswith(_TIFF):
            tags = tiff_tags(file)
            return tags.get(256, (0,))[0], tags.get(257, (0,))[0]
    return 0, 0


def undecodable(media: MediaFile) -> str:
    """Return why FFmpeg cannot decode an image file although it may be whole; "" if not known."""
    if _is_animated_webp(media):
        return (
            "animated WebP cannot be read; convert it to GIF, APNG or MP4, for example with "
            "'magick FILE out.gif' or Pillow."
        )
    with media.open() as file:
        head = file.read(4)
        if head.startswith(_TIFF) and wholeness(media) == "whole":
            return "TIFF of this kind cannot be read; convert it to PNG."
        if head.startswith(b"\xff\xd8\xff") and has_rare_coding(file):
            return (
                "JPEG with arithmetic coding or in layers cannot be read; convert it to PNG or to "
                "an ordinary JPEG."
            )
    return ""


def _is_animated_webp(media: MediaFile) -> bool:
    """Return True for a WebP file whose extended header (VP8X) announces an animation."""
    with media.open() as file:
        head = file.read(21)
    return head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 2)


def webp_orientation(media: MediaFile) -> int:
    """Return the EXIF orientation of a WebP file, 1 to 8; 1 if it states none.

    FFmpeg does not read the EXIF chunk where it begins with ``Exif``, as in JPEG.
    """
    with media.open() as file:
        position = 12
        for _ in range(_MAX_CHUNKS):
            file.seek(position)
            chunk = file.read(8)
            if chunk[:4] == b"EXIF":
                exif = file.read(_MAX_EXIF_BYTES).removeprefix(b"Exif\0\0")
                stated = tiff_tags(BytesIO(exif)).get(274, ())[:1]
                return stated[0] if stated and 1 <= stated[0] <= 8 else 1
            length = int.from_bytes(chunk[4:], "little")
            position += 8 + length + length % 2
            if len(chunk) < 8:
                break
    return 1


def _is_animated_png(file: BinaryIO) -> bool:
    """Look for the animation control chunk, which comes before the image data (PNG 11.3.6)."""
    position = len(_PNG)
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        chunk = file.read(8)
        if len(chunk) < 8 or chunk[4:] == b"IDAT":
            return False
        if chunk[4:] == b"acTL":
            return True
        position += 12 + int.from_bytes(chunk[:4], "big")
    return False


def _refuse_tiff(media: MediaFile, file: BinaryIO, head: bytes) -> None:
    """Raise for raw files, whose first image is a preview, and for JPEG, which FFmpeg shows black.

    Tags are NewSubfileType and Compression (TIFF 6.0, 8); Canon marks its raw files in the head.
    """
    tags = tiff_tags(file)
    if head[8:10] == b"CR" or tags.get(254, (0,))[0] & 1:
        raise UnsupportedMediaError(
            "the raw file of a camera, in which only a preview can be read; convert it to JPEG.",
            media.path,
        )
    if tags.get(259, (1,))[0] in _TIFF_JPEG:
        raise UnsupportedMediaError(
            "TIFF with JPEG compression cannot be read; convert it to JPEG or PNG.", media.path
        )
