"""Local copies of files that live elsewhere: whatever fsspec can open, for the guarded decoder.

The decoder opens regular local files and nothing else (see :mod:`ccl_hub.video.open`), so a remote
file is copied first, embedded from its copy, and the copy is deleted. A few are copied at once and
ahead of the decoder, so that it need not wait for a slow one.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from .._util.folder_lock import is_held, only_writer
from ..errors import (
    CCLError,
    InputError,
    MediaError,
    MediaLimitError,
    MediaNotFoundError,
    OutputError,
    UnreadableError,
)

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
CHUNK_BYTES = 1 << 20
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 10.0
COPIES_AT_ONCE = 4
PREFIX = "ccl_hub_copies_"
LOCK = ".lock"


def is_url(path: str) -> bool:
    """Return whether ``path`` is for fsspec (``s3://``, ``zip://a.mp4::gs://...``)."""
    return "://" in path


def open_filesystem(url: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    Args:
        url: Any that fsspec knows.
        options: fsspec's ``storage_options``: credentials, endpoints.

    Raises:
        InputError: fsspec does not know the protocol.
        ImportError: fsspec, or its package for this protocol, is not installed.
    """
    try:
        fsspec: Any = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise ImportError(
            f"{url}: fsspec, which opens URLs, cannot be imported ({error}); pip install fsspec."
        ) from error
    try:
        filesystem, path = fsspec.url_to_fs(url, **(options or {}))
    except ImportError as error:
        raise ImportError(
            f"{url}: the package for this protocol is not installed ({error}); install it on "
            "every machine that reads."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{url}: fsspec cannot open this URL ({error}); allowed: a local path, or a URL of a "
            "protocol listed by fsspec.available_protocols()."
        ) from error
    return filesystem, path


class LocalCopies:
    """Local files with the content of others; a context, and on leaving it every copy is deleted.

    Args:
        max_bytes: Size at which copying stops, or None for any.
        retries: How often to try again, after 0.5 s, 1 s, 2 s, ... and at most 10 s.
        options: See :func:`open_filesystem`.
    """

    def __init__(
        self,
        *,
        max_bytes: int | None = None,
        retries: int = 3,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._max_bytes, self._retries, self._options = max_bytes, retries, options
        self._folder: Path | None = None

    def __enter__(self) -> LocalCopies:
        self._pool, self._lock = ThreadPoolExecutor(COPIES_AT_ONCE, "ccl-copy"), ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def fetch(self, paths: Sequence[str | None]) -> Iterator[tuple[int, Path | MediaError]]:
        """Copy what is remote, a few files at once.

        Args:
            paths: Local paths and ``file://`` URLs, which are passed on; other URLs, copied.

        Yields:
            The position among ``paths``, in the order in which files are there, and the local
            path; a copy has the suffix of its URL. Or why there is none: MediaNotFoundError,
            MediaLimitError for more than ``max_bytes``, or UnreadableError after every retry where
            trying again may help.

        Raises:
            OutputError: There is no space for copies.
            ImportError: See :func:`open_filesystem`.
        """
        if self._folder is None and any(path and is_url(path) for path in paths):
            self._folder = self._make_folder()
        waiting, copying = iter(enumerate(paths)), dict[Future[Path], int]()
        while True:
            for number, path in islice(waiting, COPIES_AT_ONCE - len(copying)):
                copying[self._pool.submit(self._local, number, path)] = number
            if not copying:
                return
            for future in wait(copying, return_when=FIRST_COMPLETED).done:
                number, failure = copying.pop(future), future.exception()
                yield number, failure if isinstance(failure, MediaError) else future.result()

    def _make_folder(self) -> Path:
        """Make a folder that :func:`remove_copies` finds only once it is locked."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
            with suppress(OutputError):  # a disk without locks: it is never taken for dead
                self._lock.enter_context(only_writer(folder, LOCK))
            return folder.rename(folder.with_name(folder.name[1:]))
        except OSError as error:
            raise _no_space(error) from error

    def drop(self, path: Path) -> None:
        """Delete a copy that is no longer needed; leave other files alone."""
        if self._folder is not None and path.parent == self._folder:
            path.unlink()

    def _local(self, number: int, path: str | None) -> Path:
        """Return a local file with the content of one path."""
        if not path:
            raise MediaNotFoundError("there is no path; give each row one.")
        if self._folder is None or not is_url(path):
            return Path(path)
        try:
            # Some file systems connect, or read an archive, when they are made.
            filesystem, remote = _retry(
                path, self._retries, lambda: open_filesystem(path, self._options)
            )
        except InputError as error:
            raise UnreadableError(str(error.__cause__), path) from error
        names = filesystem.protocol
        if "file" in ([names] if isinstance(names, str) else names):
            return Path(remote)
        target = self._folder / f"{number}{_suffix(remote)}"
        most = self._max_bytes
        _retry(path, self._retries, lambda: _copy(filesystem, remote, target, most, path))
        return target


def remove_copies() -> None:
    """Delete the copies of processes that were killed; on Windows, which has no locks, none."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            dead = os.name != "nt" and (folder / LOCK).exists() and not is_held(folder / LOCK)
        except OSError:  # another user's, or gone by now; OutputError is one
            continue
        if dead:
            logger.warning("%s: deleted; its process died", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _suffix(remote: str) -> str:
    """Return the suffix of a remote name; of an http URL, without its query."""
    name = urlsplit(remote).path if remote.startswith(("http://", "https://")) else remote
    suffix = PurePosixPath(name).suffix
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,10}", suffix) else ""


def _retry(path: str, retries: int, action: Callable[[], Value]) -> Value:
    """Run ``action`` until it succeeds, cannot succeed, or has failed ``retries + 1`` times."""
    delay_seconds = FIRST_DELAY_SECONDS
    for retries_left in range(retries, -1, -1):
        try:
            return action()
        except (CCLError, ImportError):
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MediaNotFoundError("no such file; check the URL.", path) from error
        except (PermissionError, IsADirectoryError) as error:
            raise UnreadableError(
                f"cannot be read ({_words(error)}); check the URL and the credentials.", path
            ) from error
        except Exception as error:  # each file system has other errors
            if not retries_left:
                raise UnreadableError(
                    f"cannot be read after {retries} retries ({_words(error)}); check the "
                    "network and the storage, then try again.",
                    path,
                ) from error
            logger.warning("%s: %s; trying again in %g s", path, _words(error), delay_seconds)
        time.sleep(delay_seconds)
        delay_seconds = min(2 * delay_seconds, LONGEST_DELAY_SECONDS)
    raise InputError(f"retries is {retries}; allowed: a whole number >= 0.")


def _copy(filesystem: Any, remote: str, target: Path, max_bytes: int | None, path: str) -> None:
    """Copy one file, refusing one that is too large as soon as that is known."""
    with filesystem.open(remote, "rb") as source, _created(target) as file:
        stated, copied = getattr(source, "size", None), 0
        if isinstance(stated, int):
            _check_size(stated, max_bytes, path)
        while chunk := source.read(CHUNK_BYTES):
            copied += len(chunk)
            _check_size(copied, max_bytes, path)
            try:
                file.write(chunk)
                file.flush()  # so that a full disk is met here, not by close
            except OSError as error:
                raise _no_space(error) from error
    if isinstance(stated, int) and copied != stated:
        raise OSError(f"{copied} of {stated} bytes came")


def _created(target: Path) -> BinaryIO:
    try:
        return target.open("wb")
    except OSError as error:
        raise _no_space(error) from error


def _check_size(size_bytes: int, max_bytes: int | None, path: str) -> None:
    if max_bytes is not None and size_bytes > max_bytes:
        raise MediaLimitError(
            f"the file has {size_bytes} bytes or more; allowed: at most {max_bytes} "
            "(MediaLimits.max_bytes).",
            path,
        )


def _no_space(error: OSError) -> OutputError:
    return OutputError(
        f"no space for a temporary copy of a video in {tempfile.gettempdir()} ({_words(error)}); "
        "free some, or set TMPDIR to a larger disk."
    )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
