"""What a video is called: its id, and the name of the file that holds its result.

A name that cannot be kept as it is gets a mark, ``~`` and eight hex digits of a SHA-256, so that
two names that would become one stay apart. What already looks like a mark is marked again: no
name passes for another one's.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import PurePath

from ..errors import InputError

OUTSIDE = "_abs"
"""First part of the id of a video outside the root."""

STATE_FOLDER = ".ccl"
"""Folder among the results that is not one of them."""

LONGEST_NAME_BYTES = 255
LONGEST_OUTPUT_BYTES = 2048  # systems take paths of 4095, with that of the destination

_ON_WINDOWS = os.name == "nt"
_MARKED = re.compile(r"~[0-9a-f]{8}\Z")
_ESCAPED = re.compile(r"\\x[0-9a-f]{2}")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9_-]{1,16}){1,4}")
_REFUSED_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]+\Z')
_RESERVED_ON_WINDOWS = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|\Z)", re.IGNORECASE
)


def video_id(path: PurePath, root: PurePath) -> str:
    r"""Return the name of a video: its path below ``root`` with ``/`` between the parts.

    A video that is not below ``root`` is called ``_abs/`` and its absolute path; so is one in a
    folder ``_abs`` of ``root`` itself. Bytes that are not UTF-8 are written ``\xNN`` and the name
    is marked. The id is UTF-8 text without empty parts and ``..``.

    Args:
        path: An absolute, normal path, as of :func:`ccl_hub._util.files.absolute_path`.
        root: The same.

    Example:
        >>> video_id(PurePath("/data/a/x.mp4"), PurePath("/data"))
        'a/x.mp4'
        >>> video_id(PurePath("/other/x.mp4"), PurePath("/data"))
        '_abs/other/x.mp4'
    """
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        parts = ()
    if not parts or parts[0] == OUTSIDE:
        # "C:" is one letter, so that a server of that name is not taken for it.
        drive = [part for part in re.split(r"[\\/:]+", path.drive) if part]
        unc = ["unc"] if len(drive) > 1 else []
        parts = (OUTSIDE, *unc, *drive, *path.parts[1:])
    return "/".join(_text(part) for part in parts)


def _text(name: str) -> str:
    """Return the name of a file or folder as UTF-8 text."""
    raw = _raw(name)
    text = raw.decode("utf-8", "backslashreplace")
    stem, dot, extension = text.rpartition(".")
    if not stem:
        stem, dot, extension = text, "", ""
    # Its bytes decide, and not ``name``, which depends on the locale.
    if text.encode() == raw and not (_MARKED.search(stem) and _ESCAPED.search(text)):
        return text
    return f"{stem}{_mark(raw)}{dot}{extension}"


def as_text(path: str | PurePath) -> str:
    """Return a path as text that can be stored: names of files need not be UTF-8."""
    return _raw(os.fspath(path)).decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """Return the path that :func:`as_text` made text of, as the system knows it."""
    if os.path.lexists(text):
        return text
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), _raw(text))
    return os.fsdecode(raw)


def _raw(name: str) -> bytes:
    """Return the bytes of a name, even of one that no file of this system can have."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def output_name(id: str, suffix: str) -> str:
    """Return the relative path, with ``/``, of the file that holds a video's result.

    Different ids give different names, even where a file system does not tell composed from
    decomposed characters; upper and lower case are taken to differ. A part is marked if it would
    be longer than 255 bytes (it is cut, too), is not NFC, is ``.ccl``, or is a folder named like a
    result. A name of more than 2048 bytes is a hash in one marked folder. On Windows, what Windows
    refuses becomes ``_`` and is marked.

    Args:
        id: An id of :func:`video_id`.
        suffix: Extension of results, such as ``".npz"``.

    Raises:
        InputError: The id is not one of :func:`video_id`, or the suffix is not an extension.

    Example:
        >>> output_name("a/x.mp4", ".npz")
        'a/x.mp4.npz'
    """
    if not _SUFFIX.fullmatch(suffix):
        raise InputError(f"suffix is {suffix!r}; allowed: an extension such as '.npz'.")
    parts = id.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in id or not _is_text(id):
        raise InputError(
            f"id is {id!r}; allowed: UTF-8 text, a relative path without '..', '.', empty parts "
            "and zero bytes."
        )
    *folders, name = parts
    prefixes = ["/".join(folders[: n + 1]) for n in range(len(folders))]
    folders = [
        # A folder named like a result would be in the way of one.
        _fitted(part, prefix, "", part.lower().endswith(suffix.lower()))
        for part, prefix in zip(folders, prefixes, strict=True)
    ]
    whole = "/".join([*folders, _fitted(name, id, suffix, False)])
    if len(whole.encode()) <= LONGEST_OUTPUT_BYTES:
        return whole
    return f"_long{_mark(b'')}/{hashlib.sha256(id.encode()).hexdigest()}{suffix}"


def _fitted(part: str, prefix: str, suffix: str, clash: bool) -> str:
    """Return one part of an output name.

    Args:
        part: Part of an id.
        prefix: The id up to and with this part, so that a folder keeps its videos together.
        suffix: Goes behind it.
        clash: It must be marked.
    """
    text = part
    if _ON_WINDOWS:
        text = _REFUSED_ON_WINDOWS.sub("_", part)
        text = f"_{text}" if _RESERVED_ON_WINDOWS.match(part) else text
    keep = (
        text == part
        and not clash
        and not _MARKED.search(part)
        and part.lower() != STATE_FOLDER
        and unicodedata.is_normalized("NFC", part)
        and len(f"{part}{suffix}".encode()) <= LONGEST_NAME_BYTES
    )
    if keep:
        return f"{part}{suffix}"
    ending = f"{_mark(prefix.encode())}{suffix}"
    cut = text.encode()[: LONGEST_NAME_BYTES - len(ending)].decode(errors="ignore")
    return f"{cut}{ending}"


def _mark(raw: bytes) -> str:
    return f"~{hashlib.sha256(raw).hexdigest()[:8]}"


def _is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
