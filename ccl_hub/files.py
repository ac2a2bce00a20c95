"""Writing files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError

__all__ = ["make_folder", "write_atomically"]


def make_folder(folder: Path) -> Path:
    """Make ``folder`` and its parents unless they exist.

    Raises:
        OutputError: It cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: the folder cannot be made ({error.strerror or error}); "
            "choose another place or free this one."
        ) from error
    return folder


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file by temporary file, fsync and rename.

    Args:
        path: The final place; replaced if it exists. A symbolic link is followed, so that what it
            points to is replaced.
        write: Called once with the open binary file.

    Raises:
        OutputError: The place cannot be written; what was there before is untouched.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(
        f".{secrets.token_hex(8)}.tmp"
    )  # short: the name may be the longest
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "check that the folder exists, is writable and has space."
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can open folders (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
