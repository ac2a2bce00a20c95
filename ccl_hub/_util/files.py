"""Writing files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError

logger = logging.getLogger(__name__)

_SPECIAL_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def absolute_path(path: str | Path) -> str:
    """Return an absolute path without ``.`` and ``..``, with its symbolic links as they are.

    Behind a link to a folder ``..`` is where the system finds it: beside what the link points to.
    """
    parts = os.fspath(path).split(os.sep)  # noqa: PTH206 - pathlib keeps every name it saw
    if ".." not in parts or os.name == "nt":
        return os.path.abspath(path)  # noqa: PTH100 - resolves no links
    resolved = os.getcwd() if parts[0] else os.sep  # noqa: PTH109
    for part in parts:
        if part in ("", "."):
            continue
        if part != "..":
            resolved = os.path.join(resolved, part)  # noqa: PTH118
            continue
        if os.path.islink(resolved):  # noqa: PTH114
            resolved = os.path.realpath(resolved)
        resolved = os.path.dirname(resolved)  # noqa: PTH120
    return resolved


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read piece by piece.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> Path:
    """Make ``folder`` and its parents unless they exist.

    Raises:
        OutputError: It cannot be made, or is not a folder.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(folder, error.strerror or str(error)) from error
    return folder


def check_folder(folder: Path) -> None:
    """Refuse, before any work is done, a path at which there is something other than a folder.

    Raises:
        OutputError: ``folder`` is a file, pipe, socket or device.
    """
    kind = special_kind(folder)
    if kind is not None:
        raise OutputError(f"{folder}: is {kind}, and never replaced; give the name of a folder.")
    if os.path.isfile(folder):  # noqa: PTH113 - never raises
        raise _no_folder(folder, "it is a file")


def special_kind(path: Path) -> str | None:
    """Return what a path leads to, in words, if a file must not replace it; else None.

    That is a pipe, a socket, a device, or the file that this program's own messages go to, which
    ``/dev/stdout`` may stand for: replaced, it would lose them.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    for stream in (1, 2):
        with suppress(OSError):  # it is closed
            if stat.S_ISREG(status.st_mode) and os.path.samestat(status, os.fstat(stream)):
                return "the file that stdout or stderr goes to"
    return _SPECIAL_KINDS.get(stat.S_IFMT(status.st_mode))


def check_writable(path: Path) -> None:
    """Refuse, before any work is done, a path at which :func:`write_atomically` must fail.

    Raises:
        OutputError: ``path`` is a folder or what :func:`special_kind` names, or its folder is
            missing or not writable.
    """
    path = _replaceable(path)
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    if not path.parent.is_dir():
        raise _unwritable(path, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _unwritable(path, f"no permission to write into {path.parent}")


def write_atomically(
    path: Path,
    content: bytes | memoryview | str | Callable[[BinaryIO], object],
    temporary_folder: Path | None = None,
) -> None:
    """Write a file by temporary file, fsync and rename.

    Args:
        path: The file; replaced if it exists, unless :func:`special_kind` names it. A
            symbolic link is followed, so that what it points to is replaced.
        content: What the file holds, or a function that writes it into the open binary file.
        temporary_folder: Where the temporary file is, on the same disk; beside ``path`` if None.

    Raises:
        OutputError: The file cannot be written; what was there before is untouched.
    """
    path = _replaceable(path)
    # A short name, as that of ``path`` may be as long as names can be.
    temporary = (temporary_folder or path.parent) / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed :func:`write_atomically` left in ``folder``."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _replaceable(path: Path) -> Path:
    """Return the absolute path behind symbolic links, of what may be replaced by a file."""
    # The path is not resolved before: links such as /dev/stdout lead to what has no path.
    kind = special_kind(path)
    if kind is not None:
        raise OutputError(
            f"{path}: is {kind}, and never replaced; give the name of a file, which is written "
            "as a whole, and copy it from there."
        )
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a zero byte in the name
        raise _unwritable(path, str(error)) from error


def _no_folder(folder: Path, reason: str) -> OutputError:
    return OutputError(
        f"{folder}: the folder cannot be made ({reason}); choose another folder or free this one."
    )


def _unwritable(path: Path, reason: str) -> OutputError:
    return OutputError(
        f"{path}: cannot be written ({reason}); "
        "check that the folder exists, is writable and has space."
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can (Windows opens no folders).

    The file is already whole and in place, so it is not an error if the folder cannot be synced,
    as on a network file system, or if it may be written but not listed.
    """
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        logger.debug("%s: the folder cannot be synced (%s)", folder, error)
