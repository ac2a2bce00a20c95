"""What a source of frames gives: single frames of many videos. A packed store is one.

A packed store is a folder made by :mod:`training.pack`::

    store.json             what it holds: preprocessing, codec, fingerprints, shard sizes, failures
    index.arrow            one row per video: names, times, and where each frame lies in its shard
    shard-00000.arrow ...  Arrow IPC files, one record batch per video, one binary value per frame

Everything is memory-mapped, so opening costs nothing and only the frames asked for are read.
Arrow IPC was chosen over LMDB and LitData by measurement (``benchmarks/loader.py --stores``):
eight random frames take 0.04 ms against 0.02 and 0.34 ms, all little beside the 1.3 ms of decoding
them, and training has pyarrow anyway.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccl_hub.config import Preprocessing, parse_dataclass
from ccl_hub.errors import ConfigError, TrainingError

from ..data.checks import Problem, problem_table
from ..data.datasets import VideoItem, VideoList
from .codec import CODECS, decode_frames

logger = logging.getLogger(__name__)

STORE_FORMAT = "ccl-frame-store"
STORE_VERSION = 1
META_KEYS = frozenset(
    "name classes videos frames codec preprocessing fingerprint shards problems".split()
)


class FrameSource(ABC):
    """Videos whose times are known without pixels, and whose frames are read singly.

    A video is known by its position in ``videos``.
    """

    videos: VideoList

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def names(self) -> list[str]:
        """The id of every video."""
        return self.videos.ids

    def frames_of(self, video: int) -> int:
        """Return the number of frames of a video."""
        return len(self.seconds(video))

    @abstractmethod
    def seconds(self, video: int) -> np.ndarray:
        """Return the presentation times of a video, float64 (n,), from 0 upwards."""

    @abstractmethod
    def duration(self, video: int) -> float:
        """Return the end of a video's last frame in seconds."""

    @abstractmethod
    def frame_size(self, video: int) -> tuple[int, int]:
        """Return height and width of a video's frames in pixels."""

    @abstractmethod
    def read(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames of a video in the order of ``indices``, uint8 RGB (k, h, w, 3)."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the videos and of how their frames were made."""


@dataclass(frozen=True)
class _Index:
    """The columns of ``index.arrow`` as arrays; N videos, F frames in all."""

    shard: np.ndarray  # int64 (N,)
    height_px: np.ndarray  # int64 (N,)
    width_px: np.ndarray  # int64 (N,)
    duration_seconds: np.ndarray  # float64 (N,)
    first: np.ndarray  # int64 (N + 1,): frames of video i are first[i] .. first[i + 1] - 1
    seconds: np.ndarray  # float64 (F,)
    start_bytes: np.ndarray  # int64 (F,): where the frame begins in its shard file
    size_bytes: np.ndarray  # int64 (F,)


class FrameStore(FrameSource):
    """A packed store; see the module docstring. Several threads may read from it.

    Videos that could not be packed, and duplicates, are logged in one table on opening.

    Args:
        folder: A folder written by ``python -m training.pack``.

    Raises:
        TrainingError: The folder holds no finished store or one of another version, or a shard
            is missing or differs from its recorded size.

    Example:
        >>> store = FrameStore("packed/ucf101")  # doctest: +SKIP
        >>> store.read(0, [0, 4, 8]).shape  # doctest: +SKIP
        (3, 128, 171, 3)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta = _read_meta(self.folder)
        self.codec: str = self.meta["codec"]
        self.preprocessing: Preprocessing = parse_preprocessing(
            self.meta["preprocessing"], self.folder / "store.json"
        )
        self.videos, self._index = _read_index(self.folder / "index.arrow", self.meta)
        self.problems = tuple(Problem(**problem) for problem in self.meta["problems"])
        if self.problems:
            table = problem_table(self.problems)
            logger.warning("%s: problems found when it was packed\n%s", self.folder, table)
        self._shards = [_map_shard(self.folder, shard) for shard in self.meta["shards"]]

    @property
    def frames(self) -> int:
        """Number of frames of all videos."""
        return len(self._index.seconds)

    def seconds(self, video: int) -> np.ndarray:
        """Return the presentation times of a video, float64 (n,), from 0 upwards."""
        return self._index.seconds[self._index.first[video] : self._index.first[video + 1]]

    def duration(self, video: int) -> float:
        """Return the end of a video's last frame in seconds."""
        return float(self._index.duration_seconds[video])

    def frame_size(self, video: int) -> tuple[int, int]:
        """Return height and width of a video's frames in pixels."""
        return int(self._index.height_px[video]), int(self._index.width_px[video])

    def encoded(self, video: int, frame: int) -> np.ndarray:
        """Return one frame as stored: uint8 (bytes,), a view of the mapped file.

        Raises:
            TrainingError: The video has no such frame.
        """
        count = self.frames_of(video)
        if not 0 <= frame < count:
            raise TrainingError(
                f"{self.names[video]}: has no frame {frame}; give 0 to {count - 1}."
            )
        position = int(self._index.first[video]) + int(frame)
        start, size = int(self._index.start_bytes[position]), int(self._index.size_bytes[position])
        return self._shards[self._index.shard[video]][start : start + size]

    def read(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames of a video.

        Args:
            video: Index of the video.
            indices: k frame indices in any order; repeated ones are decoded once.

        Returns:
            uint8 RGB (k, h, w, 3).

        Raises:
            TrainingError: An index is out of range or a frame is damaged.
        """
        unique, positions = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        encoded = [self.encoded(video, frame) for frame in unique]
        try:
            return decode_frames(encoded, self.codec, self.frame_size(video))[positions]
        except TrainingError as error:
            raise TrainingError(
                f"{self.names[video]} in {self.folder}: {error}; pack the videos again."
            ) from error

    def fingerprint(self) -> str:
        """Return the hash of source bytes, order, labels, preprocessing, decoder and codec."""
        return str(self.meta["fingerprint"])


def parse_preprocessing(values: dict[str, Any], where: Path) -> Preprocessing:
    """Return the preprocessing recorded in a store.

    Raises:
        TrainingError: A value is unknown or not allowed.
    """
    try:
        return parse_dataclass(Preprocessing, values, "preprocessing")
    except ConfigError as error:
        raise TrainingError(f"{where}: {error}") from error


def _read_meta(folder: Path) -> dict[str, Any]:
    """Return ``store.json`` after checking format and version."""
    path = folder / "store.json"
    if not path.is_file():
        raise TrainingError(
            f"{folder}: holds no finished packed store (store.json is missing); "
            f"make or finish it with 'python -m training.pack SOURCE --out {folder}'."
        )
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TrainingError(f"{path}: is not JSON ({error}); pack the videos again.") from error
    if not isinstance(meta, dict) or meta.get("format") != STORE_FORMAT:
        raise TrainingError(f"{path}: does not describe a packed store; give the folder of one.")
    if meta.get("version") != STORE_VERSION:
        raise TrainingError(
            f"{path}: store version {meta.get('version')!r}, this program reads {STORE_VERSION}; "
            "pack the videos again."
        )
    missing = sorted(META_KEYS - meta.keys())
    if missing:
        raise TrainingError(f"{path}: {missing[0]!r} is missing; pack the videos again.")
    if meta["codec"] not in CODECS:
        raise TrainingError(
            f"{path}: codec is {meta['codec']!r}; allowed: {' or '.join(CODECS)}. "
            "Pack the videos again."
        )
    return meta


def _map_shard(folder: Path, shard: dict[str, Any]) -> np.ndarray:
    """Map one shard file as bytes after checking its size."""
    path = folder / shard["file"]
    size = path.stat().st_size if path.is_file() else -1
    if size != shard["bytes"]:
        seen = "is missing" if size < 0 else f"has {size} bytes, not {shard['bytes']}"
        raise TrainingError(f"{path}: the shard {seen}; run the same packing command again.")
    return np.memmap(path, dtype=np.uint8, mode="r")


def _read_index(path: Path, meta: dict[str, Any]) -> tuple[VideoList, _Index]:
    """Return videos and arrays of ``index.arrow``; the arrays are views of the mapped file."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            table = pyarrow.ipc.open_file(file).read_all()
        (batch,) = table.to_batches()
        if batch.num_rows != meta["videos"]:
            raise ValueError(f"{batch.num_rows} videos, not {meta['videos']}")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise TrainingError(f"{path}: unusable index ({error}); pack the videos again.") from error
    text = {name: batch.column(name).to_pylist() for name in ("id", "label", "group", "split")}
    items = tuple(
        VideoItem(id=name, path=Path(name), label=label, group=group, split=split)
        for name, label, group, split in zip(*text.values(), strict=True)
    )
    videos = VideoList(meta["name"], items, tuple(meta["classes"]))

    def numbers(name: str) -> np.ndarray:
        return batch.column(name).to_numpy(zero_copy_only=True)

    def values(name: str) -> np.ndarray:
        return batch.column(name).values.to_numpy(zero_copy_only=True)

    index = _Index(
        **{key: numbers(key) for key in ("shard", "height_px", "width_px", "duration_seconds")},
        first=batch.column("seconds").offsets.to_numpy(zero_copy_only=True),
        **{key: values(key) for key in ("seconds", "start_bytes", "size_bytes")},
    )
    return videos, index


def open_store(
    folder: str | Path, preprocessing: Preprocessing, any_size: bool = False
) -> FrameStore:
    """Open a packed store, and refuse one whose frames were resized differently.

    Args:
        folder: As :class:`FrameStore` takes it.
        preprocessing: Of the recipe, or of the model to be measured.
        any_size: Whole frames squashed to another size will do.

    Raises:
        TrainingError: As :class:`FrameStore`.
        ConfigError: Kind or size of the resize differ.
    """
    store = FrameStore(folder)
    names = ["resize", "resize_height_px"]
    if preprocessing.resize == "stretch":
        names = names[:1] if any_size else [*names, "resize_width_px"]
    for name in names:
        packed, required = getattr(store.preprocessing, name), getattr(preprocessing, name)
        if packed != required:
            raise ConfigError(
                f"{store.folder}: packed with {name} = {packed!r}, but the recipe or model asks "
                f"for {required!r}; pack the videos again with that, use them unpacked, or change "
                "the recipe."
            )
    return store
