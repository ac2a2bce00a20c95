"""One writer per folder: two programs must never write to the same one at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FolderInUseError", "is_held", "only_writer"]

_ASK_SECONDS = 0.5


class FolderInUseError(Exception):
    """Another process holds the folder; callers say what that process does."""


@contextmanager
def only_writer(
    folder: Path, name: str = ".lock", waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process however that ends (not on Windows).

    Args:
        folder: An existing folder; the lock file is left in it.
        name: Of the lock file.
        waiting: Wait for another process instead of raising; called once if that is needed.

    Raises:
        FolderInUseError: Another process holds it.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    with (folder / name).open("a") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if waiting is None:
                    raise FolderInUseError(folder) from error
                if not told:
                    waiting()
                told = True
                time.sleep(_ASK_SECONDS)
        yield


def is_held(lock: Path) -> bool:
    """Return whether a process holds the lock of this file."""
    try:
        with only_writer(lock.parent, lock.name):
            return False
    except FolderInUseError:
        return True
