"""Which videos are for training and which for testing, where a list leaves it open."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ccl_hub.errors import TrainingError

from .benchmark_sets import hmdb51, ucf101
from .datasets import VideoList

TEST_SHARE = 0.3
OWN_SPLIT = "split by hash"  # the note of a set that is split here begins so


def with_splits(videos: VideoList, test_share: float = TEST_SHARE) -> tuple[VideoList, str]:
    """Split a list by a rule that depends on ids, classes and groups alone.

    Of each class the videos whose ids have the lowest SHA-256 become test videos: ``test_share``
    of them, rounded, at least one and not all. Where every video has a group (an actor, a scene),
    whole groups are chosen in this way, over all classes: no group is on both sides.

    Args:
        videos: Splits that they have are ignored.
        test_share: Between 0 and 1.

    Returns:
        The list with splits ``train`` and ``test``, and one line that says how they were made.

    Raises:
        TrainingError: A class, or the whole list, has only one video or group.

    Example:
        >>> from training.data.datasets import VideoItem
        >>> items = tuple(VideoItem(str(i), Path(str(i)), "run") for i in range(10))
        >>> split, note = with_splits(VideoList("x", items, ("run",)), 0.3)
        >>> [item.id for item in split.select("test")]
        ['4', '8', '9']
    """
    grouped = all(item.group for item in videos)
    names = [item.group if grouped else item.id for item in videos]
    split_together: dict[str, set[str]] = defaultdict(set)
    for item, name in zip(videos, names, strict=True):
        split_together["" if grouped else f": class {item.label!r}"].add(name)
    test: set[str] = set()
    for suffix, members in split_together.items():
        test |= _lowest_hashes(members, test_share, f"{videos.name}{suffix}")
    items = (
        dataclasses.replace(item, split="test" if name in test else "train")
        for item, name in zip(videos, names, strict=True)
    )
    share_of = "groups" if grouped else "each class"
    note = f"{OWN_SPLIT}, {100 * test_share:g} % of {share_of} for testing"
    return VideoList(videos.name, tuple(items), videos.classes), note


def _lowest_hashes(names: Iterable[str], share: float, where: str) -> set[str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(ordered) < 2:
        raise TrainingError(
            f"{where} has a single video or group ({ordered[0]}); give two or more, as a split "
            "into train and test needs."
        )
    return set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])


def with_official_split(videos: VideoList, lists: Path, fold: int) -> tuple[VideoList, str]:
    """Give the videos of UCF101 or HMDB51 the classes and splits of one official list.

    One packed set then serves all three splits, and its embeddings are computed once.

    Args:
        videos: With the ids of :func:`training.data.benchmark_sets.ucf101` or ``hmdb51``:
            ``class/file name``.
        lists: Folder with the official lists of one of the two.
        fold: 1, 2 or 3.

    Returns:
        The list, with videos that the official one leaves out in split ``unused``; and one line on
        official videos that are missing, or "".

    Raises:
        TrainingError: The lists are missing, or the list has none of their videos.
    """
    read = ucf101 if (lists / "classInd.txt").is_file() else hmdb51
    official = read(lists, lists, fold)  # reads the lists alone: the folder holds no videos
    official_items = {item.id: item for item in official}
    present = sum(item.id in official_items for item in videos)
    if not present:
        raise TrainingError(
            f"{videos.name}: has none of the {len(official)} videos that {lists} names, such as "
            f"{official.items[0].id}; give the lists of this data set."
        )
    items = (
        dataclasses.replace(official_items[item.id], path=item.path)
        if item.id in official_items
        else dataclasses.replace(item, label=None, split="unused")
        for item in videos
    )
    missing = len(official) - present
    note = f"{missing} of {len(official)} official videos are missing" if missing else ""
    return VideoList(official.name, tuple(items), official.classes), note
