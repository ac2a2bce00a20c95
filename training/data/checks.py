"""What is wrong with a list of videos: missing, unreadable and duplicate files, in one table."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ccl_hub._util.files import file_sha256
from ccl_hub.errors import TrainingError

from .datasets import VideoItem, VideoList

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Why a video cannot be used as it is.

    Args:
        id: The video.
        code: A word that stays the same from version to version: ``not_found``, ``unreadable``,
            ``empty``, ``duplicate``, ``damaged``, ``incomplete``, ``crashed``, ``timeout``, ...
        text: A short sentence.
    """

    id: str
    code: str
    text: str


def check_videos(videos: VideoList) -> tuple[Problem, ...]:
    """Find missing, unreadable, empty and duplicate files.

    Two entries are duplicates if they lead to the same file, or to files of the same bytes; only
    files of equal size are hashed. Every duplicate but the first is reported.

    Args:
        videos: The list; its order decides which duplicate is the first.

    Returns:
        At most one problem per video, in the order of the list.
    """
    problems: dict[str, Problem] = {}
    first_of_file: dict[Path, str] = {}
    by_size: dict[int, list[VideoItem]] = defaultdict(list)
    for item in videos:
        try:
            if not item.path.is_file():
                problems[item.id] = Problem(item.id, "not_found", f"no file {item.path}")
                continue
            with item.path.open("rb") as file:
                file.read(1)
            size = item.path.stat().st_size
            first = first_of_file.setdefault(item.path.resolve(), item.id)
        except OSError as error:
            problems[item.id] = Problem(item.id, "unreadable", error.strerror or str(error))
            continue
        if size == 0:
            problems[item.id] = Problem(item.id, "empty", "the file has no bytes")
        elif first != item.id:
            problems[item.id] = Problem(item.id, "duplicate", f"same file as {first}")
        else:
            by_size[size].append(item)
    for items in by_size.values():
        problems |= _same_bytes(items) if len(items) > 1 else {}
    return tuple(problems[item.id] for item in videos if item.id in problems)


def missing_videos(videos: VideoList) -> tuple[Problem, ...]:
    """Find the files that are missing, without opening the others: quick for any list."""
    return tuple(
        Problem(item.id, "not_found", f"no file {item.path}")
        for item in videos
        if not item.path.is_file()
    )


def _same_bytes(items: list[VideoItem]) -> dict[str, Problem]:
    """Return the duplicates among files of equal size."""
    first_of_hash: dict[str, str] = {}
    problems = {}
    for item in items:
        try:
            first = first_of_hash.setdefault(file_sha256(item.path), item.id)
        except OSError as error:
            problems[item.id] = Problem(item.id, "unreadable", error.strerror or str(error))
            continue
        if first != item.id:
            problems[item.id] = Problem(item.id, "duplicate", f"same bytes as {first}")
    return problems


def problem_table(problems: Sequence[Problem], rows: int = 20) -> str:
    """Return one text table of problems: a count per code, then the videos.

    Args:
        problems: What to show.
        rows: How many videos of each code are listed; the others are counted.
    """
    by_code: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_code[problem.code].append(problem)
    lines = [f"{'problem':<12} {'videos':>7}  video: what"]
    for code in sorted(by_code):
        group = by_code[code]
        for number, problem in enumerate(group[:rows]):
            head = f"{code:<12} {len(group):>7}" if number == 0 else " " * 20
            lines.append(f"{head}  {problem.id}: {problem.text}")
        if len(group) > rows:
            lines.append(f"{' ' * 20}  ... and {len(group) - rows} more")
    return "\n".join(lines)


def usable_videos(videos: VideoList, problems: Sequence[Problem], allow: bool) -> VideoList:
    """Return the videos without problems, or refuse.

    Args:
        videos: The list that was checked.
        problems: Of :func:`check_videos`; logged as one table.
        allow: Go on without the videos that have problems, instead of refusing.

    Raises:
        TrainingError: There are problems and ``allow`` is false, nothing is left, or a class lost
            its last video.
    """
    if not problems:
        return videos
    table = problem_table(problems)
    if not allow:
        raise TrainingError(
            f"{videos.name}: {len(problems)} of {len(videos)} videos cannot be used; repair the "
            f"list, or leave them out (in a recipe: data.allow_problems = true).\n{table}"
        )
    logger.warning("%s: leaving out %d videos\n%s", videos.name, len(problems), table)
    bad = {problem.id for problem in problems}
    kept = tuple(item for item in videos if item.id not in bad)
    usable = VideoList(videos.name, kept, videos.classes)
    usable.require_full_classes()
    return usable
