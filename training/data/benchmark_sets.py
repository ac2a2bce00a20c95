"""Published data sets, by their official split files: Kinetics-400, UCF101, HMDB51 and MMAct.

None of the videos comes with this project. Every function returns all videos the official files
name, whether or not they are on disk; ``VideoList.select("train")`` gives those of one split.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from ccl_hub.errors import TrainingError

from .datasets import VideoItem, VideoList, require_folder, table_rows, video_files

KINETICS_COLUMNS = {"youtube_id", "time_start", "time_end", "split"}
HMDB51_SPLITS = {"0": "unused", "1": "train", "2": "test"}
MMACT_TRAIN_SUBJECTS = 16  # of 20: subjects 1 to 16
MMACT_TRAIN_SHARE = 0.8  # of each subject's sessions in ascending order: 1 to 4 of 5


class _Files:
    """Finds the videos of a folder by relative path, or else by their unique stem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in video_files(folder):
            self.by_stem[path.stem].append(path)

    def find(self, relative: str) -> Path:
        """Return the path of a video, or the one it should have if it is missing."""
        expected = self.folder / relative
        if expected.is_file():
            return expected
        same_stem = self.by_stem.get(Path(relative).stem, [])
        if len(same_stem) > 1:
            raise TrainingError(
                f"{same_stem[0]}: is it {relative}, or is {same_stem[1]}? Two files have that "
                "name; keep one."
            )
        return same_stem[0] if same_stem else expected


def _lines(path: Path) -> list[str]:
    """Return the non-empty lines of an official list."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: the official list is missing; put it there.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: unreadable list ({error}); fetch it again.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def ucf101(folder: str | Path, lists: str | Path, fold: int = 1) -> VideoList:
    """List UCF101 by its official ``ucfTrainTestlist``.

    Args:
        folder: The videos, in class folders or flat.
        lists: Folder with ``classInd.txt``, ``trainlist0N.txt`` and ``testlist0N.txt``.
        fold: Split 1, 2 or 3.

    Returns:
        13,320 videos; ``split`` is train or test, ``group`` is the official group (``g01``).

    Raises:
        TrainingError: A folder or list is missing, or a line is not of the official form.
    """
    _require_fold(fold)
    files = _Files(require_folder(folder, "UCF101"))
    lists = require_folder(lists, "UCF101 lists")
    classes = tuple(line.partition(" ")[2] for line in _lines(lists / "classInd.txt"))
    items = []
    for split in ("train", "test"):
        path = lists / f"{split}list{fold:02d}.txt"
        for line in _lines(path):
            relative = line.split()[0]
            matched = re.fullmatch(r"([^/]+)/v_.+_(g\d+)_c\d+\.\w+", relative)
            if matched is None:
                raise _not_official(path, line)
            label, group = matched.groups()
            items.append(VideoItem(relative, files.find(relative), label, group, split))
    return VideoList(f"UCF101 split {fold}", tuple(items), classes)


def hmdb51(folder: str | Path, lists: str | Path, fold: int = 1) -> VideoList:
    """List HMDB51 by its official 70/30 ``testTrainMulti`` files.

    Args:
        folder: The videos, in class folders or flat.
        lists: Folder with ``<class>_test_split<N>.txt`` for every class.
        fold: Split 1, 2 or 3.

    Returns:
        6,766 videos; ``split`` is train (70 a class), test (30 a class) or unused.

    Raises:
        TrainingError: A folder or list is missing, or a line is not of the official form.
    """
    _require_fold(fold)
    files = _Files(require_folder(folder, "HMDB51"))
    lists = require_folder(lists, "HMDB51 lists")
    ending = f"_test_split{fold}.txt"
    paths = sorted(lists.glob(f"*{ending}"))
    if not paths:
        raise TrainingError(f"{lists}: no list named <class>{ending}; give the official folder.")
    items, classes = [], tuple(path.name.removesuffix(ending) for path in paths)
    for path, label in zip(paths, classes, strict=True):
        for line in _lines(path):
            name, _, code = line.rpartition(" ")
            if code not in HMDB51_SPLITS or not name:
                raise _not_official(path, line)
            relative = f"{label}/{name.strip()}"
            items.append(
                VideoItem(relative, files.find(relative), label, split=HMDB51_SPLITS[code])
            )
    return VideoList(f"HMDB51 split {fold}", tuple(items), classes)


def kinetics400(folder: str | Path, table: str | Path) -> VideoList:
    """List Kinetics-400 by an official csv file.

    Args:
        folder: Holds the clips at any depth, named ``<youtube_id>_<start>_<end>.mp4`` with
            six-digit seconds.
        table: Csv with ``youtube_id``, ``time_start``, ``time_end``, ``split`` and, except for
            the test set, ``label``.

    Returns:
        One video per row; ``group`` is the YouTube id.

    Raises:
        TrainingError: The folder or file is missing, or a column or value is not of the official
            form.
    """
    files, path = _Files(require_folder(folder, "Kinetics-400")), Path(table)
    rows = table_rows(path)
    lacking = sorted(KINETICS_COLUMNS - set(rows[0])) if rows else []
    if lacking:
        raise TrainingError(f"{path}: no column {lacking[0]!r}; give the official csv.")
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            span = f"{int(row['time_start']):06d}_{int(row['time_end']):06d}"
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"{path}: row {number} needs whole seconds ({error}); give the official csv."
            ) from error
        label = row.get("label") or None
        split = {"validate": "val", "validation": "val"}.get(row["split"], row["split"])
        name = f"{row['youtube_id']}_{span}.mp4"
        relative = "/".join(part for part in (split, label, name) if part)
        items.append(VideoItem(relative, files.find(relative), label, row["youtube_id"], split))
    classes = tuple(sorted({item.label for item in items if item.label is not None}))
    return VideoList("Kinetics-400", tuple(items), classes)


def mmact(folder: str | Path, protocol: str = "cross-subject") -> VideoList:
    """List the trimmed RGB videos of MMAct by one of its two protocols.

    The data set (Kong et al., ICCV 2019) is published without list files: a split is a rule on
    folder names. Cross-subject trains on subjects 1-16 of 20 and tests on 17-20; cross-session
    trains on sessions 1-4 of each subject's 5 and tests on the last.

    Sources: the layout, the session numbers, and class names that differ in case from file to
    file are those of the authors' own example (github.com/mmact19/challenge,
    utils/time_series_classifiers.py); both rules are those of the lists published with SAKDN
    (github.com/YangLiu9208/SAKDN), which compares with that paper. One rule is ours: a subject
    with another number of sessions trains on the first 80 % of them, rounded down. The MMAct
    Challenge is another benchmark (cross-scene, cross-view). For other lists, write a manifest.

    Args:
        folder: The folder that holds ``subject1`` or ``subject01``; below it
            ``subject<S>/cam<C>/scene<N>/session<M>/<action>.mp4``.
        protocol: ``"cross-subject"`` or ``"cross-session"``.

    Returns:
        All videos of the folder; classes are actions in lower case, ``group`` is
        ``subject<S>/session<M>``.

    Raises:
        TrainingError: The folder is missing or laid out differently, or the protocol is unknown.
    """
    if protocol not in ("cross-subject", "cross-session"):
        raise TrainingError(
            f"MMAct protocol is {protocol!r}; allowed: 'cross-subject' and 'cross-session'."
        )
    root = require_folder(folder, "MMAct")
    pattern = re.compile(r"subject(\d+)/cam\d+/scene\d+/session(\d+)/([^/]+)\.\w+")
    videos: list[tuple[str, int, int, str]] = []  # path, subject, session, action
    for path in video_files(root):
        relative = path.relative_to(root).as_posix()
        matched = pattern.fullmatch(relative)
        if matched is None:
            raise TrainingError(
                f"{path}: expected subject<S>/cam<C>/scene<N>/session<M>/<action>.mp4 in {root}; "
                "give the folder that holds the subjects."
            )
        action = matched[3].strip().lower()
        videos.append((relative, int(matched[1]), int(matched[2]), action))
    sessions: dict[int, set[int]] = defaultdict(set)
    for _, subject, session, _ in videos:
        sessions[subject].add(session)
    trains = {
        subject: set(sorted(numbers)[: int(len(numbers) * MMACT_TRAIN_SHARE)])
        for subject, numbers in sessions.items()
    }
    items = []
    for relative, subject, session, action in videos:
        by_subject = protocol == "cross-subject"
        train = subject <= MMACT_TRAIN_SUBJECTS if by_subject else session in trains[subject]
        group = f"subject{subject}/session{session}"
        split = "train" if train else "test"
        items.append(VideoItem(relative, root / relative, action, group, split))
    classes = tuple(sorted({action for *_, action in videos}))
    return VideoList(f"MMAct {protocol}", tuple(items), classes)


def _require_fold(fold: int) -> None:
    if fold not in (1, 2, 3):
        raise TrainingError(f"split {fold}; the official splits are 1, 2 and 3.")


def _not_official(path: Path, line: str) -> TrainingError:
    return TrainingError(
        f"{path}: {line!r} is not a line of the official list; fetch the list again."
    )
