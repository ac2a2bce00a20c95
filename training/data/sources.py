"""A data set that a path and a format name, on the command line or in a recipe."""

from __future__ import annotations

from pathlib import Path

from ccl_hub.errors import TrainingError

from .benchmark_sets import hmdb51, kinetics400, mmact, ucf101
from .datasets import VideoList, from_folder, from_manifest

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
        kind: One of :data:`FORMATS`. ``auto``: a file is a manifest, and a folder a plain folder;
            ``folder``: the videos have no labels; ``classes``: each first-level folder is a class.
        root: For a manifest: the folder its paths start from.
        lists: For Kinetics-400 the csv file; for UCF101 and HMDB51 the folder of official lists.
        fold: For UCF101 and HMDB51: 1, 2 or 3.
        protocol: For MMAct: ``cross-subject`` or ``cross-session``.
        split: Keep only this split; None keeps all.

    Raises:
        TrainingError: The source is missing, or of another kind.
    """
    if kind not in FORMATS:
        raise TrainingError(f"data format is {kind!r}; allowed: {', '.join(FORMATS)}.")
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
