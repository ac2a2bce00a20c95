"""Which videos are for training and which for testing, where a list does not say it itself."""

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
OWN_SPLIT = "split by hash"  # how the note of such a set begins


def with_splits(videos: VideoList, test_share: float = TEST_SHARE) -> tuple[VideoList, str]:
    """Split a list by a rule that depends on nothing but ids, classes and groups.

    Of each class the videos whose ids have the lowest SHA-256 become test videos: ``test_share``
    of them, rounded, at least one and not all. Where every video has a group (an actor, a place),
    whole groups are chosen so, over all classes: no group is on both sides.

    Args:
        videos: Their own splits are not looked at.
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
    together: dict[str, set[str]] = defaultdict(set)
    for item, name in zip(videos, names, strict=True):
        together["" if grouped else f": class {item.label!r}"].add(name)
    test: set[str] = set()
    for where, members in together.items():
        test |= _lowest_hashes(members, test_share, f"{videos.name}{where}")
    items = (
        dataclasses.replace(item, split="test" if name in test else "train")
        for item, name in zip(videos, names, strict=True)
    )
    what = "groups" if grouped else "each class"
    note = f"{OWN_SPLIT}, {100 * test_share:g} % of {what} for testing"
    return VideoList(videos.name, tuple(items), videos.classes), note


def _lowest_hashes(names: Iterable[str], share: float, where: str) -> set[str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(ordered) < 2:
        raise TrainingError(
            f"{where} has a single video or group ({ordered[0]}); a split into train and test "
            "needs two."
        )
    return set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])


def with_official_split(videos: VideoList, lists: Path, fold: int) -> tuple[VideoList, str]:
    """Give the videos of UCF101 or HMDB51 the classes and splits of one official list.

    So one packed set serves all three splits, and its embeddings are computed once.

    Args:
        videos: With the ids of :func:`training.data.benchmark_sets.ucf101` or ``hmdb51``:
            ``class/file name``.
        lists: Folder with the official lists of one of the two.
        fold: 1, 2 or 3.

    Returns:
        The list, videos the official one does not name in split ``unused``; and one line on
        official videos that are missing, or "".

    Raises:
        TrainingError: The lists are missing, or none of their videos is there.
    """
    read = ucf101 if (lists / "classInd.txt").is_file() else hmdb51
    official = read(lists, lists, fold)  # the videos themselves are not looked for
    named = {item.id: item for item in official}
    there = sum(item.id in named for item in videos)
    if not there:
        raise TrainingError(
            f"{videos.name}: has none of the {len(official)} videos that {lists} names, such as "
            f"{official.items[0].id}; give the lists of this data set."
        )
    items = (
        dataclasses.replace(
            item, **{key: getattr(named[item.id], key) for key in ("label", "group", "split")}
        )
        if item.id in named
        else dataclasses.replace(item, label=None, split="unused")
        for item in videos
    )
    missing = len(official) - there
    note = f"{missing} of {len(official)} official videos are missing" if missing else ""
    return VideoList(official.name, tuple(items), official.classes), note
