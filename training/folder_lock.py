"""One writer per folder: two packings, or two runs, must never write to the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FolderInUseError", "only_writer"]


class FolderInUseError(Exception):
    """Another process holds the folder; callers say what that process does."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process however that ends (not on Windows).

    Args:
        folder: An existing folder; a file ``.lock`` is left in it.

    Raises:
        FolderInUseError: Another process holds it.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(folder) from error
        yield
