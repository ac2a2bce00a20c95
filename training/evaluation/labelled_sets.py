"""Labelled sets to evaluate on: packed, listed, or a folder of classes.

Every set has the splits ``train`` and ``test``, and both hold every class. A set that comes
without splits gets them by a rule that depends on ids alone, so that everyone gets the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ccl_hub.config import Preprocessing
from ccl_hub.errors import ConfigError, TrainingError

from ..data.datasets import VideoList, from_folder, from_manifest
from ..data.splits import TEST_SHARE, with_official_split, with_splits
from ..frames.files import VideoFolderStore
from ..frames.packed import FrameSource, FrameStore, open_store
from ..frames.rendered import RenderedVideos
from ..frames.view import FrameView
from .results import DataRecord

RENDERED = "rendered:"


class EvaluationSet(FrameView):
    """A source of frames whose videos have classes and the splits ``train`` and ``test``.

    Args:
        source: The frames.
        videos: The same videos in the same order, with the classes and splits to use.
        note: How the splits were made, where the source has none.

    Raises:
        TrainingError: A train or test video has no class, a split is missing, or a class has no
            video in one of the two.
    """

    def __init__(self, source: FrameSource, videos: VideoList, note: str = "") -> None:
        for split in ("train", "test"):
            for item in videos.select(split):
                if item.label is None:
                    raise TrainingError(
                        f"{videos.name}: {item.id} has no class; an evaluation needs the class of "
                        "every train and test video, so give a folder of classes, or a list with "
                        "a column 'class'."
                    )
        super().__init__(source, videos)
        self.note = note

    def fingerprint(self) -> str:
        """Return a hash of frames, classes and splits; the source's where it has them all."""
        if self.videos is self.source.videos:
            return self.source.fingerprint()
        text = f"{self.source.fingerprint()} {self.videos.fingerprint()}"
        return hashlib.sha256(text.encode()).hexdigest()


def open_evaluation_set(
    data: str | Path,
    preprocessing: Preprocessing,
    *,
    test_share: float = TEST_SHARE,
    workers: int = 2,
) -> EvaluationSet:
    """Open a labelled set.

    Args:
        data: A packed folder; a manifest (``.csv``, ``.parquet``) with a ``class`` column; a
            folder whose first level names the class; any of these followed by ``,LISTS,FOLD``
            takes the official split FOLD of UCF101 or HMDB51 from the folder LISTS; or
            ``rendered:N``.
        preprocessing: Of the model: how frames are resized. A packed set must have been packed so.
        test_share: Share of test videos where the data come without splits, between 0 and 1.
        workers: Threads that look at unpacked videos.

    Returns:
        The set. A split ``val`` stands in for a missing ``test``; without any split,
        :func:`with_splits` makes them. ``note`` says so.

    Raises:
        TrainingError: There are no such data, videos cannot be used, or a class or split is
            missing.
        ConfigError: The set was packed with another resize than the model's.
    """
    frames, lists, fold = _without_lists(str(data))
    source = _open_frames(frames, preprocessing, workers)
    if lists is not None:
        videos, note = with_official_split(source.videos, lists, fold)
    else:
        videos, note = _with_train_and_test(source.videos, test_share)
    return EvaluationSet(source, videos, note)


def _without_lists(data: str) -> tuple[str, Path | None, int]:
    """Take ``,LISTS,FOLD`` off the end of ``data``; without it, lists are None."""
    parts = data.rsplit(",", 2)
    if len(parts) < 3 or not parts[2].isdecimal() or Path(data).exists():
        return data, None, 0
    return parts[0], Path(parts[1]), int(parts[2])


def _open_frames(data: str, preprocessing: Preprocessing, workers: int) -> FrameSource:
    """Open what ``data`` names, with the splits it has."""
    path = Path(data)
    if data.startswith(RENDERED):
        count = data.removeprefix(RENDERED)
        if not count.isdecimal() or int(count) < 1:
            raise TrainingError(f"{data}: give the number of videos, such as {RENDERED}48.")
        return RenderedVideos(int(count), preprocessing, seed=1)
    if (path / "store.json").is_file():
        return open_store(path, preprocessing)
    if path.suffix.lower() in (".csv", ".parquet"):
        return VideoFolderStore(from_manifest(path), preprocessing, workers=workers)
    if path.is_dir():
        return VideoFolderStore(from_folder(path, True), preprocessing, workers=workers)
    raise TrainingError(
        f"{data}: no such data; give a packed set, a .csv or .parquet list, a folder with one "
        f"folder per class, or {RENDERED}N."
    )


def open_evaluation_sets(
    data: Sequence[str],
    preprocessing: Preprocessing,
    *,
    test_share: float = TEST_SHARE,
    workers: int = 2,
) -> list[EvaluationSet]:
    """Open several sets for one table; see :func:`open_evaluation_set`.

    Raises:
        ConfigError: Two have the same name, so that their results could not be told apart.
    """
    sets = [
        open_evaluation_set(one, preprocessing, test_share=test_share, workers=workers)
        for one in data
    ]
    names = [labelled.videos.name for labelled in sets]
    if len(set(names)) != len(names):
        raise ConfigError(
            f"data sets are named {', '.join(names)}; results need different names, so give each "
            "set a name of its own."
        )
    return sets


def _with_train_and_test(videos: VideoList, test_share: float) -> tuple[VideoList, str]:
    splits = {item.split for item in videos}
    if splits == {""}:
        return with_splits(videos, test_share)
    if "test" not in splits and "val" in splits:
        items = tuple(
            dataclasses.replace(item, split="test") if item.split == "val" else item
            for item in videos
        )
        return VideoList(videos.name, items, videos.classes), "tested on split val"
    return videos, ""


def data_record(labelled: EvaluationSet) -> DataRecord:
    """Return what results say of a set.

    Its fingerprint is that of a packed set, pixels and all. Frames that are made for the model at
    hand do not enter: models that see videos at other sizes are rows of one table.
    """
    splits = [item.split for item in labelled.videos]
    return DataRecord(
        name=labelled.videos.name,
        fingerprint=_fingerprint_of_data(labelled),
        train_videos=splits.count("train"),
        test_videos=splits.count("test"),
        classes=len(labelled.videos.classes),
        note=labelled.note,
    )


def _fingerprint_of_data(labelled: EvaluationSet) -> str:
    if isinstance(labelled.source, FrameStore):
        return labelled.fingerprint()
    sizes = [item.path.stat().st_size if item.path.is_file() else 0 for item in labelled.videos]
    return hashlib.sha256(f"{labelled.videos.fingerprint()} {sizes}".encode()).hexdigest()
