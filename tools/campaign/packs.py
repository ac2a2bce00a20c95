"""The packed sets of a campaign; see :mod:`tools.campaign.stages`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ccl_hub._util.files import file_sha256
from ccl_hub.config import Preprocessing
from ccl_hub.errors import ConfigError
from training.data.datasets import VideoList
from training.data.sources import list_videos
from training.frames.files import stored_facts
from training.frames.pack_worker import PackOptions
from training.frames.packed import FrameStore
from training.frames.packing import pack
from training.run.steps import StoppedError

logger = logging.getLogger("tools.campaign")


def pack_apart(
    data: Path,
    evaluation: Sequence[Path],
    folder: Path,
    preprocessing: Preprocessing,
    stop: Callable[[], bool],
) -> None:
    """Pack training data and labelled sets, which must have no file in common; skip packed sets.

    Args:
        data: Videos to train on: a folder or a list.
        evaluation: Labelled sets: folders of classes, or lists.
        folder: Holds a folder for each set, of the name of the set.
        preprocessing: The resize.
        stop: Asked after every video; True ends the packing, and whole shards are kept.

    Raises:
        ConfigError: A labelled video is in the training data too.
        StoppedError: ``stop`` was true before the end.
        TrainingError: Videos are missing, or the folder holds a packing of others.
        OutputError: It cannot be written.
    """
    options = PackOptions(preprocessing)
    training = list_videos(data, "folder" if data.is_dir() else "manifest")
    labelled = [
        list_videos(path, "classes" if path.is_dir() else "manifest") for path in evaluation
    ]
    for videos in labelled:
        _require_apart(training, videos)
    for videos in (*labelled, training):
        if not _is_packed(folder / videos.name, videos, options):
            _pack(folder / videos.name, videos, options, stop)


def _require_apart(training: VideoList, labelled: VideoList) -> None:
    """Raise ConfigError if a file of the set has the bytes of one to train on."""
    sizes = {item.path.stat().st_size for item in labelled if item.path.is_file()}
    trained = {
        file_sha256(item.path): item.id
        for item in training
        if item.path.is_file() and item.path.stat().st_size in sizes
    }
    for item in labelled:
        same = trained.get(file_sha256(item.path)) if item.path.is_file() else None
        if same is not None:
            raise ConfigError(
                f"{labelled.name}: {item.id} has the same bytes as {same} of {training.name}, and "
                "a model must not be measured on what it was trained on; remove it from one of "
                "the two."
            )


def _is_packed(folder: Path, videos: VideoList, options: PackOptions) -> bool:
    if not (folder / "store.json").is_file():
        return False
    store = FrameStore(folder)
    seen = {*store.names, *(problem.id for problem in store.problems)}
    same = stored_facts(store.preprocessing) == stored_facts(options.preprocessing)
    return same and seen == {item.id for item in videos}


def _pack(folder: Path, videos: VideoList, options: PackOptions, stop: Callable[[], bool]) -> None:
    """Pack a list, to its end or until a stop; whole shards are kept."""

    def check_stop(count: int) -> None:
        if stop():
            raise StoppedError(f"stopped packing {videos.name}; the same command goes on.")

    check_stop(0)  # before processes start
    workers = os.cpu_count() or 1
    report = pack(videos, folder, options, workers=workers, progress=check_stop)
    logger.info(
        "%s: %d videos, %d frames, %d left out",
        *(folder, report.videos, report.frames, report.failed),
    )
