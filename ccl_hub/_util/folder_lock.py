"""One writer per folder: two programs must never write to the same one at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from ..errors import OutputError

_RETRY_SECONDS = 0.5


class FolderInUseError(Exception):
    """Another process holds the folder; callers say what that process does."""


@contextmanager
def only_writer(
    folder: Path, name: str = ".lock", waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process however that ends (not on Windows).

    Args:
        folder: An existing folder; the lock file is left in it.
        name: Name of the lock file.
        waiting: Called once if another process must be waited for; None to raise instead.

    Raises:
        FolderInUseError: Another process holds it.
        OutputError: The lock file cannot be made, or the disk has no locks.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    try:
        lock = (folder / name).open("a")
    except OSError as error:
        raise _unusable(folder / name, error) from error
    with lock:
        attempts = 0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if waiting is None:
                    raise FolderInUseError(folder) from error
                attempts += 1
                if attempts == 2:  # the first may have met a process that only looked at the lock
                    waiting()
                time.sleep(_RETRY_SECONDS)
            except OSError as error:
                raise _unusable(folder / name, error) from error
        yield


@contextmanager
def reader(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock that any number of readers hold together, but none beside :func:`no_reader`.

    Where it cannot be held, as in a folder that is read-only and has none yet, nothing is held.

    Args:
        folder: An existing folder.
        name: Name of the lock file, another than a writer's.
    """
    lock = None if os.name == "nt" else _shared(folder / name)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _shared(path: Path) -> IO[str] | None:
    import fcntl

    for mode in ("r", "a+"):
        try:
            lock = path.open(mode)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)  # a writer holds it for moments only
        except OSError:
            lock.close()
            return None
        return lock
    return None


@contextmanager
def no_reader(folder: Path, name: str) -> Iterator[bool]:
    """Keep readers out for as long as it lasts, and tell whether there are none.

    Args:
        folder: See :func:`reader`.
        name: Likewise.

    Yields:
        Whether no reader was there; False, too, on a disk without locks. True on Windows, which
        itself lets nobody remove a file that is open.
    """
    with ExitStack() as held:
        alone = True
        try:
            held.enter_context(only_writer(folder, name))
        except (FolderInUseError, OutputError):
            alone = False
        yield alone


def _unusable(lock: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{lock}: cannot be locked ({error.strerror or error}); check that the folder is "
        "writable, has space, and is on a disk with file locks."
    )


def is_held(lock: Path) -> bool:
    """Return whether a process holds the lock of this file."""
    try:
        with only_writer(lock.parent, lock.name):
            return False
    except FolderInUseError:
        return True
