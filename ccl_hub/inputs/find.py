"""Which videos: files, folders, patterns and lists become named videos, one by one.

Nothing is held but one folder at a time and about 100 bytes for each video, so that millions of
videos may be asked for. Whether a file can be read is found out later, by who reads it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from .._util.files import absolute_path
from ..errors import InputError
from .lists import listed_paths
from .names import output_name, video_id
from .walk import match, walk

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "VideoInput",
    "common_root",
    "find_videos",
    "output_name",
    "parse_shard",
    "shard_of",
]

VIDEO_EXTENSIONS = (
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".wmv", ".ts"),  # what most people have
    # MP4 and QuickTime: of phones, of Smooth Streaming and CMAF tracks, of action and 360-degree
    # cameras (GoPro .lrv .glv .360, DJI .lrf, Insta360 .insv); AVIF may move.
    *(".m4v", ".mp4v", ".mpg4", ".mpeg4", ".f4v", ".qt", ".mqv", ".hdmov", ".mj2", ".mjp2"),
    *(".3gp", ".3gpp", ".3gp2", ".3g2", ".3gpp2", ".ismv", ".cmfv", ".dvb", ".avif"),
    *(".lrv", ".glv", ".360", ".lrf", ".insv"),
    *(".mk3d", ".divx", ".xvid"),  # Matroska, AVI
    # MPEG: of camcorders (.mts .mod .tod), receivers and recorders (.tp .trp .rec .vro), discs.
    *(".mts", ".m2ts", ".m2t", ".mpegts", ".tod", ".tp", ".trp", ".rec", ".ssif", ".mpeg"),
    *(".mpe", ".mpg2", ".mpeg2", ".mpv", ".mpv2", ".m1v", ".m2v", ".mp2v", ".m2p", ".mod"),
    *(".vob", ".vro", ".evo"),
    *(".asf", ".wm", ".dvr-ms", ".flv", ".ogv", ".ogm", ".ogg", ".ogx", ".rm", ".rmvb", ".rv"),
    *(".mxf", ".nut", ".ivf", ".obu", ".dv", ".dif", ".swf", ".gif", ".apng", ".y4m"),
    *(".h263", ".263", ".h264", ".h26l", ".264", ".avc", ".h265", ".265", ".hevc"),
    *(".h266", ".266", ".vvc", ".mjpeg", ".mjpg"),
)
"""Names of files that a folder is searched for, the most usual first: those of containers that are
opened. Some may hold something else (.ogg sound, .mod music, .ts and .rec anything), which is then
told as a failure. Names that mostly do are left out: .dat, .ps, and .m4s without its header. A
.gif, .apng or .avif may be a still image, which is embedded as a video of one frame.
"""

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif"),
)
"""Names of still images: not taken from folders, but embedded where they are named."""

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


class _Place(NamedTuple):
    """What one input means: an absolute path, and the parts of a pattern below it, if any."""

    path: str
    pattern: tuple[str, ...]
    is_folder: bool


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
    base = common_root(inputs, lists)  # also checks them
    if root is not None:
        base = Path(absolute_path(root))
    endings = _extensions(VIDEO_EXTENSIONS if extensions is None else extensions)
    seen: set[bytes] = set()
    given = (path for one in inputs for path in _given(one, endings))
    listed = (path for one in lists for path in listed_paths(Path(one)))
    for name in chain(given, listed):
        path = Path(name)
        id = video_id(path, base)
        digest = hashlib.sha256(id.encode()).digest()[:16]
        if digest not in seen:
            seen.add(digest)
            yield VideoInput(id, path)


def common_root(inputs: Sequence[str | Path], lists: Sequence[Path] = ()) -> Path:
    """Return the deepest folder that holds all inputs and lists.

    A folder counts as itself, a file or list as its folder, a pattern as the folder in front of
    its first part with ``*``, ``?`` or ``[``.

    Raises:
        InputError: There is no input, or (on Windows) there are several drives.
    """
    if isinstance(inputs, str | Path) or isinstance(lists, str | Path):
        raise InputError("inputs and lists are sequences; put a single path into a list.")
    places = [_locate(given) for given in inputs]
    folders = [
        place.path if place.is_folder or place.pattern else os.path.dirname(place.path)  # noqa: PTH120
        for place in places
    ]
    folders += [os.path.dirname(absolute_path(listed)) for listed in lists]  # noqa: PTH120
    if not folders:
        raise InputError("no input; give at least one video file, folder, pattern or list.")
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:
        raise InputError(
            f"{folders[0]} and {folders[-1]} have no folder in common ({error}); give the root."
        ) from error


def shard_of(id: str, shards: int) -> int:
    """Return which of ``shards`` parts a video belongs to, by its id alone: 0 to ``shards`` - 1.

    Raises:
        InputError: There is less than one part.

    Example:
        >>> shard_of("a/x.mp4", 8)
        5
    """
    if shards < 1:
        raise InputError(f"shards is {shards}; allowed: at least 1.")
    return int.from_bytes(hashlib.sha256(id.encode()).digest(), "big") % shards


def parse_shard(text: str | None, environ: Mapping[str, str]) -> tuple[int, int]:
    """Return which part of how many this process computes.

    Args:
        text: "i/n" with i from 0; None for all; or "auto": the first of torchrun's RANK and
            WORLD_SIZE, Slurm's SLURM_PROCID and SLURM_NTASKS, and its SLURM_ARRAY_TASK_ID and
            SLURM_ARRAY_TASK_COUNT that tells of more than one part.
        environ: The environment, read for "auto" only.

    Raises:
        InputError: The text or a variable is not as described, or "auto" finds none.

    Example:
        >>> parse_shard("2/8", {})
        (2, 8)
    """
    if text is None:
        return 0, 1
    if text == "auto":
        return _shard_of_environment(environ)
    given = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if given is None:
        raise InputError(f"the shard is {text!r}; allowed: i/n such as 0/8, or auto.")
    return _checked_shard(int(given[1]), int(given[2]), f"the shard is {text!r}")


def _shard_of_environment(environ: Mapping[str, str]) -> tuple[int, int]:
    def number(name: str, missing: str | None = None) -> int:
        value = environ.get(name, missing) or ""
        if not re.fullmatch(r"[0-9]{1,9}", value):
            raise InputError(f"shard auto: {name} is {value!r}; expected a number; give i/n.")
        return int(value)

    found = None
    for index, count in (
        ("RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ):
        if index not in environ or count not in environ:
            continue
        i, n = number(index), number(count)
        if index == "SLURM_ARRAY_TASK_ID":
            i -= number("SLURM_ARRAY_TASK_MIN", "0")
            i //= number("SLURM_ARRAY_TASK_STEP", "1") or 1
        found = _checked_shard(i, n, f"shard auto: {index} and {count} mean {i}/{n}")
        if n > 1:  # each task of a Slurm array also says that it is one of one process
            break
    if found is None:
        raise InputError(
            "shard auto: neither torchrun (RANK, WORLD_SIZE) nor Slurm (SLURM_PROCID, "
            "SLURM_NTASKS; SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_COUNT) started this process; "
            "give i/n such as 0/8."
        )
    return found


def _checked_shard(index: int, count: int, seen: str) -> tuple[int, int]:
    if not 0 <= index < count:
        raise InputError(f"{seen}; allowed: i/n with i from 0 to n - 1, such as 0/8.")
    return index, count


def _locate(given: str | Path) -> _Place:
    """Tell files, folders and patterns apart.

    What does not exist is a pattern if it has glob characters, a folder if it ends in a separator
    or has no extension, and else a file.
    """
    text = os.fspath(given)
    if not text or "\0" in text:
        raise InputError(f"an input is {text!r}; give the name of a file or folder.")
    path = absolute_path(text)
    if os.path.isdir(path):  # noqa: PTH112
        return _Place(path, (), True)
    if os.path.lexists(path):
        return _Place(path, (), False)
    only_folders = text.endswith(("/", os.sep))
    parts = Path(path).parts
    for n in range(1, len(parts)):
        start = Path(*parts[:n])
        if _GLOB_CHARACTERS.search(parts[n]) and not os.path.lexists(start / parts[n]):
            pattern = (*parts[n:], "**") if only_folders else parts[n:]
            return _Place(str(start), pattern, False)
    return _Place(path, (), only_folders or not Path(path).suffix)


def _given(given: str | Path, endings: frozenset[str]) -> Iterator[str]:
    """Yield the paths of the videos that one input means.

    Raises:
        InputError: There is none.
    """
    path, pattern, is_folder = _locate(given)
    if not is_folder and not pattern:
        yield path
        return
    if is_folder and not os.path.isdir(path):  # noqa: PTH112
        raise InputError(
            f"{given}: there is no such file or folder; check the name. URLs are not opened."
        )
    found = False
    for video in walk(path, endings) if is_folder else match(path, pattern, endings):
        found = True
        yield video
    if not found and is_folder:
        usual = [ending for ending in VIDEO_EXTENSIONS if ending in endings]
        some = [*usual, *sorted(endings.difference(usual))]
        names = ", ".join(some[:8]) + (f" and {len(some) - 8} more" if len(some) > 8 else "")
        raise InputError(
            f"{given}: no video in this folder or below it; looked for {names}, but not at "
            "hidden names and behind links; give another folder, or other extensions."
        )
    if not found:
        raise InputError(f"{given}: no video matches this pattern, and no file is called so.")


def _extensions(extensions: Collection[str]) -> frozenset[str]:
    """Return the extensions in lower case, with their dot."""
    given = [] if isinstance(extensions, str) else list(extensions)
    endings = frozenset(f".{text.lower().removeprefix('.')}" for text in given)
    if not endings or not all(re.fullmatch(r"\.[^./\\]+", ending) for ending in endings):
        raise InputError(
            f"extensions is {extensions!r}; allowed: a list of endings such as '.mp4'."
        )
    return endings
