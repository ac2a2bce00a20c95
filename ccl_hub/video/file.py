"""A local file as this room reads it: by its path, or by a descriptor that another process opened.

A confined decoding process can open nothing; it is given an open descriptor. Descriptors that are
duplicates share their position, so each reader here keeps one of its own and reads by ``pread``.
"""

from __future__ import annotations

import errno
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True)
class MediaFile:
    """A regular local file.

    Args:
        path: Absolute; names it in messages, and its suffix may tell its format.
        descriptor: Open for reading, of whoever made this object; None to open ``path``.
    """

    path: Path
    descriptor: int | None = None

    @property
    def size_bytes(self) -> int:
        """Its size now."""
        if self.descriptor is None:
            return self.path.stat().st_size
        return os.lseek(self.descriptor, 0, os.SEEK_END)

    def open(self) -> BinaryIO:
        """Open it for reading, at its start; closing leaves the descriptor open.

        Raises:
            OSError: It cannot be opened.
        """
        if self.descriptor is None:
            return self.path.open("rb")
        return cast("BinaryIO", io.BufferedReader(DescriptorReader(self.descriptor)))


class DescriptorReader(io.RawIOBase):
    """Reads from a descriptor at a position of its own."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.position = descriptor, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer as far as the file goes; return how many bytes there are."""
        count = os.preadv(self.descriptor, [buffer], self.position)
        self.position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it; as ``lseek``, it may be behind the end."""
        if whence == os.SEEK_CUR:
            offset += self.position
        elif whence == os.SEEK_END:
            offset += os.lseek(self.descriptor, 0, os.SEEK_END)
        if offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.position = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        return self.position
