"""Which videos: files, folders, patterns and lists become named videos, one by one.

Nothing is held but one folder at a time and about 100 bytes for each video, so that millions of
videos may be asked for. Whether a file can be read shows later, when it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from .._util.files import absolute_path
from ..errors import InputError
from .extensions import VIDEO_EXTENSIONS
from .lists import listed_paths
from .names import video_id
from .walk import match, walk

_GLOB_CHARACTERS = re.compile(r"[*?[]")


@dataclass(frozen=True)
class VideoInput:
    """One video to read.

    Args:
        id: Its name, unique and the same each time: see :func:`ccl_hub.inputs.names.video_id`.
        path: Absolute path by which it is opened; links are not resolved. It need not exist.
    """

    id: str
    path: Path


def find_videos(
    inputs: Sequence[str | Path],
    *,
    lists: Sequence[Path] = (),
    root: Path | None = None,
    extensions: Collection[str] | None = None,
) -> Iterator[VideoInput]:
    """Yield each video once, in an order that depends on names only.

    Args:
        inputs: Files, whatever their extension and even if they do not exist; folders, searched
            with their subfolders for ``extensions``, without what is hidden (a leading dot) and
            without following links to folders, which is logged; patterns as of a shell, where
            ``**`` stands for any number of folders and files that match are taken whatever their
            extension. What exists is never taken for a pattern.
        lists: Files with paths, after the inputs: see :func:`ccl_hub.inputs.lists.listed_paths`.
        root: Folder that the ids start from; None for :func:`common_root`.
        extensions: What a video in a folder is called, in any case; None for VIDEO_EXTENSIONS.

    Yields:
        The videos of the inputs and then of the lists; those of a folder or pattern sorted by
        path. One whose id was there before is left out.

    Raises:
        InputError: When an input or list is reached that gives no video at all, cannot be read,
            or is not as described.

    Example:
        >>> [video.id for video in find_videos(["clips/x.mp4", "clips/more/y.mp4"])]
        ['x.mp4', 'more/y.mp4']
    """
    yield from VideoSearch(inputs, lists, extensions).videos(root)


def common_root(inputs: Sequence[str | Path], lists: Sequence[Path] = ()) -> Path:
    """Return the deepest folder that holds all inputs and lists.

    A folder counts as itself, a file or list as its folder, a pattern as the folder in front of
    its first part with ``*``, ``?`` or ``[``.

    Raises:
        InputError: There is no input, or (on Windows) there are several drives.
    """
    return VideoSearch(inputs, lists).root


BEGUN_AT_ONCE = 64
"""Inputs and lists that :meth:`VideoSearch.check` leaves begun."""


class VideoSearch:
    """The videos of some inputs, each folder and list of which is read once.

    The arguments are those of :func:`find_videos`.

    Raises:
        InputError: An argument is not as described.
    """

    def __init__(
        self,
        inputs: Sequence[str | Path],
        lists: Sequence[Path] = (),
        extensions: Collection[str] | None = None,
    ) -> None:
        if isinstance(inputs, str | Path) or isinstance(lists, str | Path):
            raise InputError("inputs and lists are sequences; put a single path into a list.")
        self._inputs = [_locate(text) for text in inputs]
        self._lists = [Path(path) for path in lists]
        self._endings = _extensions(VIDEO_EXTENSIONS if extensions is None else extensions)
        self._begun: list[Iterator[str]] | None = None

    @property
    def root(self) -> Path:
        """The deepest folder that holds all inputs and lists; see :func:`common_root`."""
        folders = [located.folder for located in self._inputs]
        folders += [os.path.dirname(absolute_path(path)) for path in self._lists]  # noqa: PTH120
        if not folders:
            raise InputError("no input; give at least one video file, folder, pattern or list.")
        try:
            return Path(os.path.commonpath(folders))
        except ValueError as error:
            raise InputError(
                f"{folders[0]} and {folders[-1]} have no folder in common ({error}); give the "
                "root."
            ) from error

    def check(self) -> None:
        """Find the first video of each input and list, from which :meth:`videos` goes on.

        Raises:
            InputError: There is no input, or one without a video.
        """
        begun: list[Iterator[str]] = []
        for source, paths in zip(self._everything, self._sources(), strict=True):
            first = next(paths)
            # Each that has begun holds a list open, or the names of a folder.
            some = len(begun) < BEGUN_AT_ONCE
            begun.append(chain([first], paths) if some else self._paths(source))
        self._begun = begun

    def forget(self) -> None:
        """Let :meth:`videos` begin with what is there then."""
        self._begun = None

    def first(self, count: int) -> list[Path]:
        """Return the first paths, with which :meth:`videos` begins."""
        paths = chain.from_iterable(self._sources())
        first = list(islice(paths, count))
        self._begun = [chain(first, paths)]
        return [Path(path) for path in dict.fromkeys(first)]

    def videos(self, root: Path | None = None) -> Iterator[VideoInput]:
        """Yield each video once, named from ``root``; see :func:`find_videos`."""
        base = self.root if root is None else Path(absolute_path(root))
        seen: set[bytes] = set()
        for name in chain.from_iterable(self._sources()):
            path = Path(name)
            id = video_id(path, base)
            digest = hashlib.sha256(id.encode()).digest()[:16]
            if digest not in seen:
                seen.add(digest)
                yield VideoInput(id, path)

    def _sources(self) -> list[Iterator[str]]:
        """Return the paths of each input and list: those of a search that has begun, or new."""
        _ = self.root  # there is an input
        begun, self._begun = self._begun, None
        if begun is not None:
            return begun
        return [self._paths(source) for source in self._everything]

    @property
    def _everything(self) -> list[_Located | Path]:
        return [*self._inputs, *self._lists]

    def _paths(self, source: _Located | Path) -> Iterator[str]:
        return listed_paths(source) if isinstance(source, Path) else source.paths(self._endings)


class _Located(NamedTuple):
    """What one input means.

    Args:
        name: The input as it was written.
        path: Its absolute path.
        pattern: The parts of a pattern below ``path``, if any.
        is_folder: Whether to search it.
    """

    name: str | Path
    path: str
    pattern: tuple[str, ...]
    is_folder: bool

    @property
    def folder(self) -> str:
        """The folder that holds what it means."""
        if self.is_folder or self.pattern:
            return self.path
        return os.path.dirname(self.path)  # noqa: PTH120

    def paths(self, endings: frozenset[str]) -> Iterator[str]:
        """Yield the paths of its videos.

        Raises:
            InputError: There is no video.
        """
        name, path, pattern, is_folder = self
        if not is_folder and not pattern:
            yield path
            return
        if is_folder and not os.path.isdir(path):  # noqa: PTH112
            raise InputError(
                f"{name}: there is no such file or folder; check the name. URLs are not opened."
            )
        empty = True
        for video in walk(path, endings) if is_folder else match(path, pattern, endings):
            empty = False
            yield video
        if empty and is_folder:
            usual = [ending for ending in VIDEO_EXTENSIONS if ending in endings]
            names = ", ".join([*usual, *sorted(endings.difference(usual))][:8])
            more = f" and {len(endings) - 8} more" if len(endings) > 8 else ""
            raise InputError(
                f"{name}: no video in this folder or below it; looked for {names}{more}, but not "
                "at hidden names and behind links; give another folder, or other extensions."
            )
        if empty:
            raise InputError(f"{name}: no video matches this pattern, and no file is called so.")


def _locate(name: str | Path) -> _Located:
    """Tell files, folders and patterns apart.

    What does not exist is a pattern if it has glob characters, a folder if it ends in a separator
    or has no extension, and else a file.
    """
    text = os.fspath(name)
    if not text or "\0" in text:
        raise InputError(f"an input is {text!r}; give the name of a file or folder.")
    path = absolute_path(text)
    if os.path.isdir(path):  # noqa: PTH112
        return _Located(name, path, (), True)
    if os.path.lexists(path):
        return _Located(name, path, (), False)
    only_folders = text.endswith(("/", os.sep))
    parts = Path(path).parts
    for n in range(1, len(parts)):
        start = Path(*parts[:n])
        if _GLOB_CHARACTERS.search(parts[n]) and not os.path.lexists(start / parts[n]):
            pattern = (*parts[n:], "**") if only_folders else parts[n:]
            return _Located(name, str(start), pattern, False)
    return _Located(name, path, (), only_folders or not Path(path).suffix)


def _extensions(extensions: Collection[str]) -> frozenset[str]:
    """Return the extensions in lower case, with their dot."""
    texts = [] if isinstance(extensions, str) else list(extensions)
    endings = frozenset(f".{text.lower().removeprefix('.')}" for text in texts)
    if not endings or not all(re.fullmatch(r"\.[^./\\]+", ending) for ending in endings):
        raise InputError(
            f"extensions is {extensions!r}; allowed: a list of endings such as '.mp4'."
        )
    return endings
