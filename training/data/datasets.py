"""Lists of videos to train and evaluate on: a folder, a manifest, or a published data set.

Every data set gives one :class:`VideoList`. Building a list reads folders and split files only;
:mod:`training.data.checks` finds what is wrong with the videos themselves, so that a missing video
is reported and never replaced by another one.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ccl_hub.errors import TrainingError
from ccl_hub.inputs.walk import walk

MANIFEST_COLUMNS = ("path", "id", "class", "group", "split", "source", "frames", "seconds")


VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .3gp .wmv .flv .ogv .gif".split()
)
"""Of a data set's videos. Fewer than ``ccl-embed`` reads: the small twins that cameras write
beside each video must not become videos of their own, nor what was begun see other data."""


@dataclass(frozen=True)
class VideoItem:
    """One video of a data set.

    Args:
        id: Name that is unique in its list: the relative path with ``/`` between folders.
        path: The file; it may be missing.
        label: Class name, or None where the video has none.
        group: Actor, scene or source whose videos stay on one side of a split; "" where unknown.
        split: ``"train"``, ``"test"`` or another word of the data set; "" where unknown.
    """

    id: str
    path: Path
    label: str | None = None
    group: str = ""
    split: str = ""


@dataclass(frozen=True)
class VideoList:
    """The videos of one data set, in a fixed order.

    Args:
        name: Short name for reports.
        items: The videos; their ids are unique.
        classes: Class names in order; the position of a name is its target. Empty when no video
            has a label.

    Raises:
        TrainingError: There is no video, two share an id, or a label is not among ``classes``.
    """

    name: str
    items: tuple[VideoItem, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.items:
            raise TrainingError(f"{self.name}: holds no video; check the folder and the split.")
        seen: set[str] = set()
        known = set(self.classes)
        for item in self.items:
            if item.id in seen:
                raise TrainingError(
                    f"{self.name}: {item.id} is listed twice; remove one of the two entries."
                )
            seen.add(item.id)
            if item.label is not None and item.label not in known:
                raise TrainingError(
                    f"{self.name}: {item.id} has class {item.label!r}, which is none of the "
                    f"{len(known)} classes; correct the list."
                )

    @cached_property
    def ids(self) -> list[str]:
        """The id of every video."""
        return [item.id for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[VideoItem]:
        return iter(self.items)

    def targets(self) -> np.ndarray:
        """Return the class position of every video, int64 (N,), -1 where it has no label."""
        positions: dict[str | None, int] = {name: i for i, name in enumerate(self.classes)}
        return np.array([positions.get(item.label, -1) for item in self.items], np.int64)

    def select(self, split: str) -> VideoList:
        """Return the videos of one split, with the classes of the whole list.

        Raises:
            TrainingError: The list has no such split, or a class has no video in it.
        """
        kept = tuple(item for item in self.items if item.split == split)
        if not kept:
            names = sorted({item.split for item in self.items})
            advice = f"give one of {names}" if names != [""] else "none has a split, so give none"
            raise TrainingError(f"{self.name}: has no video of split {split!r}; {advice}.")
        selected = VideoList(f"{self.name} {split}", kept, self.classes)
        selected.require_full_classes()
        return selected

    def require_full_classes(self) -> None:
        """Raise TrainingError if a class has no video."""
        present = {item.label for item in self.items}
        for name in self.classes:
            if name not in present:
                raise TrainingError(
                    f"{self.name}: class {name!r} has no video; add some or remove the class."
                )

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of ids, classes, groups, splits and their order.

        The bytes of the files are left out; a packed store adds them to its own fingerprint.
        """
        digest = hashlib.sha256()
        for name in self.classes:
            digest.update(f"class\x1f{name}\x1e".encode())
        for item in self.items:
            fields = (item.id, item.label or "", item.group, item.split)
            digest.update(("\x1f".join(fields) + "\x1e").encode())
        return digest.hexdigest()


def require_folder(folder: str | Path, what: str) -> Path:
    """Return ``folder`` as a Path.

    Raises:
        TrainingError: It does not exist or is not a folder.
    """
    path = Path(folder)
    if not path.is_dir():
        fault = "is not a folder" if path.exists() else "does not exist"
        raise TrainingError(f"{path}: the folder of {what} {fault}; give the right path.")
    return path


def video_files(folder: Path) -> list[Path]:
    """Return the files below ``folder`` with the extension of a video, sorted by relative path.

    Hidden files and folders (a leading dot) are left out; links to folders are not followed.
    """
    return [Path(path) for path in walk(str(folder), VIDEO_SUFFIXES)]


def from_folder(folder: str | Path, classes: bool | None = None) -> VideoList:
    """List a plain folder of videos.

    Args:
        folder: Searched with its subfolders.
        classes: True: the first folder level names the class, and every such folder must hold a
            video. False: the videos have no labels. None: True if every video lies in a
            first-level folder.

    Returns:
        The list, sorted by relative path; ``group`` is the first-level folder without classes.

    Raises:
        TrainingError: The folder is missing, holds no video, or a class folder is empty.

    Example:
        >>> from_folder("videos", classes=True).classes  # doctest: +SKIP
        ('jump', 'run')
    """
    root = require_folder(folder, "videos")
    files = [path.relative_to(root) for path in video_files(root)]
    if classes is None:
        classes = bool(files) and all(len(path.parts) > 1 for path in files)
    names: tuple[str, ...] = ()
    if classes:
        outside = [path for path in files if len(path.parts) == 1]
        if outside:
            raise TrainingError(
                f"{root / outside[0]}: lies outside the class folders; move it into one."
            )
        names = tuple(
            sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        )
    items = tuple(
        VideoItem(
            id=path.as_posix(),
            path=root / path,
            label=path.parts[0] if classes else None,
            group="" if classes or len(path.parts) == 1 else path.parts[0],
        )
        for path in files
    )
    videos = VideoList(root.name, items, names)
    videos.require_full_classes()
    return videos


def from_manifest(manifest: str | Path, root: str | Path | None = None) -> VideoList:
    """List the videos of a table.

    Args:
        manifest: A ``.csv`` (UTF-8, with a header) or ``.parquet`` file. Columns: ``path`` is
            required; ``id``, ``class``, ``group``, ``split`` and ``source`` (the group where there
            is no column ``group``) are read; ``frames`` and ``seconds`` are allowed and ignored;
            any other column is an error.
        root: Folder the paths start from. None: the manifest's folder, or the folder of the
            manifest's name beside it if the first video is found only there.

    Raises:
        TrainingError: The file is missing or unreadable, a column is unknown or missing, a path
            leaves ``root``, or a class cell is empty while others are filled.
    """
    path = Path(manifest)
    rows = table_rows(path)
    if not rows:
        raise TrainingError(f"{path}: the manifest has no row; give one for each video.")
    unknown = sorted(set(rows[0]) - set(MANIFEST_COLUMNS))
    if unknown or "path" not in rows[0]:
        fault = f"unknown column {unknown[0]!r}" if unknown else "no column 'path'"
        raise TrainingError(f"{path}: {fault}; allowed: {', '.join(MANIFEST_COLUMNS)}.")
    base = _manifest_root(path, rows[0]["path"]) if root is None else Path(root)
    require_folder(base, f"the videos of {path.name}")
    labelled = any(row.get("class") for row in rows)
    items = []
    for number, row in enumerate(rows, start=1):
        relative = row["path"]
        if not relative or Path(relative).is_absolute() or ".." in Path(relative).parts:
            raise TrainingError(
                f"{path}: row {number} has path {relative!r}; give a path below {base}."
            )
        if labelled and not row.get("class"):
            raise TrainingError(
                f"{path}: row {number} ({relative}) has an empty class; fill it in."
            )
        items.append(
            VideoItem(
                id=row.get("id") or Path(relative).as_posix(),
                path=base / relative,
                label=row.get("class") or None,
                group=row.get("group", row.get("source", "")),
                split=row.get("split", ""),
            )
        )
    classes = tuple(sorted({item.label for item in items if item.label is not None}))
    return VideoList(path.stem, tuple(items), classes)


def _manifest_root(manifest: Path, first: str) -> Path:
    """Return the folder that holds the manifest's first video."""
    beside = manifest.parent / manifest.stem
    if not (manifest.parent / first).is_file() and (beside / first).is_file():
        return beside
    return manifest.parent


def table_rows(path: Path) -> list[dict[str, str]]:
    """Read a csv or parquet file.

    Args:
        path: A ``.csv`` (UTF-8, with a header) or ``.parquet`` file.

    Returns:
        One dictionary of texts per row; the empty text for a missing cell.

    Raises:
        TrainingError: The file is missing or not a table, or a row has too many or too few cells.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: the table does not exist; give a .csv or .parquet file.")
    if path.suffix.lower() == ".parquet":
        return _parquet_rows(path)
    if path.suffix.lower() != ".csv":
        raise TrainingError(f"{path}: is not a table; give a .csv or .parquet file.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(
            f"{path}: is not a UTF-8 csv table ({error}); save it again as one."
        ) from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise TrainingError(
                f"{path}: row {number} has more or fewer cells than the header, which has "
                f"{len(reader.fieldnames or ())}; correct the row."
            )
    return rows


def _parquet_rows(path: Path) -> list[dict[str, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise TrainingError(
            f"{path}: is not a parquet table ({error}); write it again."
        ) from error
    names: Sequence[str] = table.column_names
    columns = [table.column(name).to_pylist() for name in names]
    return [
        {name: "" if cell is None else str(cell) for name, cell in zip(names, cells, strict=True)}
        for cells in zip(*columns, strict=True)
    ]
