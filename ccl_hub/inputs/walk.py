"""What lies below a folder: its videos, or what a pattern matches, sorted, a folder at a time.

Both are one search by a row of tests, one for each part of a path, some of which stand for any
number of folders. In a folder it is known which tests may come next, so nothing is read that
cannot match.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Callable, Iterator

from ..errors import InputError

logger = logging.getLogger(__name__)

_Test = Callable[[str], bool] | None
"""Whether a name fits one part of a pattern; None stands for any number of folders."""


def walk(folder: str, endings: frozenset[str], first: bool = True) -> Iterator[str]:
    """Yield the videos of a folder and of those below it, sorted by path.

    Hidden names (a leading dot) are left out. Links to folders are not followed, and folders
    without permission not read; both are logged.

    Args:
        folder: Where to begin.
        endings: Extensions of videos, in lower case, with the dot.
        first: The folder itself must be readable, whatever its permissions.

    Raises:
        InputError: A folder cannot be read, for another reason than its permissions.
    """
    for path, is_folder in _search(folder, (None, _by_extension(endings)), first):
        if not is_folder:
            yield path


def match(start: str, pattern: tuple[str, ...], endings: frozenset[str]) -> Iterator[str]:
    """Yield the files below a folder that match a pattern, and the videos of folders that do.

    Args:
        start: Where to begin; if there is no such folder, nothing matches.
        pattern: Parts as of a shell (``*``, ``?``, ``[ab]``), which match hidden names only with
            a leading dot; ``**`` stands for any number of folders, without links to folders.
        endings: See :func:`walk`; for folders that match.

    Raises:
        InputError: A folder cannot be read.
    """
    tests = [None if part == "**" else _by_pattern(part) for part in pattern]
    if tests[-1] is None:
        tests.append(_by_extension(endings))
    if not os.path.isdir(start):  # noqa: PTH112
        return
    for path, is_folder in _search(start, tuple(tests)):
        if is_folder:
            yield from walk(path, endings, first=False)
        else:
            yield path


def _by_extension(endings: frozenset[str]) -> Callable[[str], bool]:
    return lambda name: name[0] != "." and os.path.splitext(name)[1].lower() in endings  # noqa: PTH122


def _by_pattern(part: str) -> Callable[[str], bool]:
    hidden = part.startswith(".")
    return lambda name: name.startswith(".") == hidden and fnmatch.fnmatch(name, part)


def _search(
    folder: str, tests: tuple[_Test, ...], first: bool = True
) -> Iterator[tuple[str, bool]]:
    """Yield, sorted, what lies below a folder and fits, and whether it is a folder.

    Args:
        folder: Where to begin.
        tests: One for each part of the path below ``folder``.
        first: ``folder`` must be readable.
    """
    done = len(tests)
    pending = [_fitting(folder, _with_skipped({0}, tests), tests, first)]
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
            continue
        path, is_folder, positions = entry
        if done in positions:
            yield path, is_folder
        inner = positions - {done}
        if is_folder and inner:
            pending.append(_fitting(path, inner, tests))


def _fitting(
    folder: str, positions: frozenset[int], tests: tuple[_Test, ...], first: bool = False
) -> Iterator[tuple[str, bool, frozenset[int]]]:
    """Yield what a folder holds that fits, sorted as paths are; read as a whole, then closed.

    Args:
        folder: The folder.
        positions: Positions of the tests that come next.
        tests: All of them.
        first: It must be readable.

    Yields:
        A path, whether it is a folder, and the positions that come next behind it.
    """
    fitting: list[tuple[str, bool, frozenset[int]]] = []
    shared: dict[frozenset[int], frozenset[int]] = {}  # one object for all that are equal
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = _is_folder(entry)
                after = _after(entry, is_folder, positions, tests)
                if after:
                    # "a/" is where the paths below "a" come among the others.
                    key = f"{entry.name}/" if is_folder else entry.name
                    fitting.append((key, is_folder, shared.setdefault(after, after)))
    except OSError as error:
        reason = error.strerror or str(error)
        gone = (PermissionError, FileNotFoundError, NotADirectoryError)
        if first or not isinstance(error, gone):
            raise InputError(
                f"{folder}: the folder cannot be read ({reason}); check its name and permissions."
            ) from error
        logger.warning("%s: left out, the folder cannot be read (%s)", folder, reason)
    fitting.sort(key=lambda entry: entry[0])
    for key, is_folder, after in fitting:
        yield os.path.join(folder, key.removesuffix("/")), is_folder, after  # noqa: PTH118


def _after(
    entry: os.DirEntry[str], is_folder: bool, positions: frozenset[int], tests: tuple[_Test, ...]
) -> frozenset[int]:
    """Return the positions of the tests that come after an entry; none if it does not fit."""
    after: set[int] = set()
    for position in positions:
        test = tests[position]
        if test is not None:
            if test(entry.name):
                after.add(position + 1)
        elif is_folder and not entry.name.startswith("."):
            if entry.is_symlink():
                logger.warning("%s: a link to a folder, not followed", entry.path)
            else:
                after.add(position)
    return _with_skipped(after, tests)


def _with_skipped(positions: set[int], tests: tuple[_Test, ...]) -> frozenset[int]:
    """Add the positions behind those tests that may stand for no folder at all."""
    for position, test in enumerate(tests):
        if position in positions and test is None:
            positions.add(position + 1)
    return frozenset(positions)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere is a file that fails later
        return False
