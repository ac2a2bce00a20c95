"""Naming a data set on the command line or in a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from ccl_hub.errors import TrainingError

from .benchmark_sets import hmdb51, kinetics400, mmact, ucf101
from .datasets import VideoList, from_folder, from_manifest

__all__ = ["FORMATS", "add_source_arguments", "list_videos", "source_from_arguments"]

FORMATS = ("auto", "folder", "classes", "manifest", "kinetics400", "ucf101", "hmdb51", "mmact")


def list_videos(
    source: str | Path,
    kind: str = "auto",
    *,
    root: str | Path | None = None,
    lists: str | Path | None = None,
    fold: int = 1,
    protocol: str = "cross-subject",
    split: str | None = None,
) -> VideoList:
    """List the videos of a data set named by a path.

    Args:
        source: A folder of videos, or a manifest (``.csv`` or ``.parquet``).
        kind: One of :data:`FORMATS`. ``auto``: a file is a manifest, a folder is a plain folder;
            ``folder`` has no labels, ``classes`` has one class per first-level folder.
        root: For a manifest: the folder its paths start from.
        lists: For Kinetics-400 the csv file; for UCF101 and HMDB51 the folder of official lists.
        fold: For UCF101 and HMDB51: 1, 2 or 3.
        protocol: For MMAct: ``cross-subject`` or ``cross-session``.
        split: Keep only this split; None keeps all.

    Raises:
        TrainingError: The source is missing, or not of that kind.
    """
    if kind not in FORMATS:
        raise TrainingError(f"data format {kind!r}; allowed are {', '.join(FORMATS)}.")
    if kind in ("kinetics400", "ucf101", "hmdb51") and lists is None:
        raise TrainingError(f"{source}: {kind} needs its official lists; give them with --lists.")
    path = Path(source)
    if kind == "manifest" or (kind == "auto" and path.suffix.lower() in (".csv", ".parquet")):
        videos = from_manifest(path, root)
    elif kind == "kinetics400":
        videos = kinetics400(path, lists or "")
    elif kind == "ucf101":
        videos = ucf101(path, lists or "", fold)
    elif kind == "hmdb51":
        videos = hmdb51(path, lists or "", fold)
    elif kind == "mmact":
        videos = mmact(path, protocol)
    else:
        videos = from_folder(path, {"auto": None, "folder": False, "classes": True}[kind])
    return videos if split is None else videos.select(split)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a data set: SOURCE, --format, --root, --lists, ..."""
    parser.add_argument("source", metavar="SOURCE", help="folder of videos, or .csv/.parquet list")
    parser.add_argument("--format", choices=FORMATS, default="auto", help="kind of data set")
    parser.add_argument("--root", type=Path, help="folder the paths of a manifest start from")
    parser.add_argument("--lists", type=Path, help="official split lists (or Kinetics csv)")
    parser.add_argument("--fold", type=int, default=1, help="UCF101 and HMDB51 split: 1, 2, 3")
    parser.add_argument("--protocol", default="cross-subject", help="MMAct split protocol")
    parser.add_argument("--split", help="only the videos of this split, such as train")


def source_from_arguments(chosen: argparse.Namespace) -> VideoList:
    """List the data set that parsed arguments name; see :func:`list_videos`."""
    return list_videos(
        chosen.source,
        chosen.format,
        root=chosen.root,
        lists=chosen.lists,
        fold=chosen.fold,
        protocol=chosen.protocol,
        split=chosen.split,
    )
