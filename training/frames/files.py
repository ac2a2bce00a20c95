"""Frames read straight from video files, without packing them first."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccl_hub.config import Preprocessing
from ccl_hub.errors import DecodeError, MediaError

from ..data.checks import Problem, check_videos, usable_videos
from ..data.datasets import VideoItem, VideoList
from ..data.sources import list_videos
from .packed import FrameSource

if TYPE_CHECKING:
    from ccl_hub.video import VideoReader

LARGEST_SHIFT_SECONDS = 0.002
"""A frame whose time differs by more has moved."""


def stored_facts(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what a store and its hash keep of a preprocessing, as JSON values.

    A store has every frame of its videos, so the choice of frames for a clip is left out.
    """
    return replace(preprocessing, frame_choice="nearest").identity()


class VideoFolderStore(FrameSource):
    """Videos decoded as they are needed. Several threads may read from it.

    Opening lists the frames of every video (milliseconds each). Reading decodes from the nearest
    key frame, which takes several times as long as reading a packed store: pack what is used more
    than a few times.

    Args:
        videos: The videos, or a folder or manifest to list
            (:func:`training.data.sources.list_videos`).
        preprocessing: The resize; the defaults for None.
        workers: Threads that open the videos.
        allow_problems: Leave out missing, unreadable, duplicate and incomplete videos, and log
            them in one table, instead of refusing to start.

    Raises:
        TrainingError: Videos cannot be used and ``allow_problems`` is false, or none is left.

    Example:
        >>> store = VideoFolderStore("videos")  # doctest: +SKIP
        >>> store.read(0, [0, 4, 8]).shape  # doctest: +SKIP
        (3, 128, 171, 3)
    """

    def __init__(
        self,
        videos: VideoList | str | Path,
        preprocessing: Preprocessing | None = None,
        *,
        workers: int = 2,
        allow_problems: bool = False,
    ) -> None:
        if not isinstance(videos, VideoList):
            videos = list_videos(videos)
        self.preprocessing = preprocessing or Preprocessing()
        problems = {problem.id: problem for problem in check_videos(videos)}
        whole = [item for item in videos if item.id not in problems]
        with ThreadPoolExecutor(max(1, workers)) as pool:
            opened = pool.map(self._open, whole)
            readers = dict(zip((item.id for item in whole), opened, strict=True))
        for name, reader in readers.items():
            if isinstance(reader, Problem):
                problems[name] = reader
        self.problems = tuple(problems[name] for name in videos.ids if name in problems)
        self.videos = usable_videos(videos, self.problems, allow_problems)
        self._readers: list[VideoReader] = [readers[name] for name in self.names]
        self._locks = [threading.Lock() for _ in self._readers]
        self._sizes = [self._size(reader) for reader in self._readers]

    def _open(self, item: VideoItem) -> VideoReader | Problem:
        """Return a reader that knows the video's frames, or the problem of the video."""
        from ccl_hub.video import VideoReader

        try:
            reader = VideoReader(item.path, resize=self.preprocessing, threads=1)
        except MediaError as error:
            return Problem(item.id, error.code, error.reason)
        except OSError as error:
            return Problem(item.id, "unreadable", error.strerror or str(error))
        if reader.info.completeness == "incomplete":
            return Problem(item.id, "incomplete", reader.info.note)
        return reader

    def _size(self, reader: VideoReader) -> tuple[int, int]:
        """Return the size of a video's frames; decodes one if it depends on the video."""
        preprocessing = self.preprocessing
        if preprocessing.resize == "stretch":
            return preprocessing.resize_height_px, preprocessing.resize_width_px
        with reader:  # leaving ends the decoding; the reader can be used again
            _, frame = next(reader.frames([0]))
        return frame.shape[0], frame.shape[1]

    def _decoded_reader(self, video: int) -> VideoReader:
        """Replace a reader that the packets misled by one that has decoded the whole video.

        Raises:
            MediaError: Its frames have other times than the packets, as in a damaged file.
        """
        from ccl_hub.video import VideoReader

        before = self._readers[video].info
        reader = VideoReader(before.path, resize=self.preprocessing, threads=1, decode_index=True)
        now = reader.info
        same = len(now.seconds) == len(before.seconds) and now.completeness != "incomplete"
        if not same or np.abs(now.seconds - before.seconds).max() > LARGEST_SHIFT_SECONDS:
            raise DecodeError(
                "its frames have other times than its packets say; convert the video.",
                before.path,
            )
        self._readers[video] = reader
        return reader

    def seconds(self, video: int) -> np.ndarray:
        """Return the presentation times of a video, float64 (n,), from 0 upwards."""
        return self._readers[video].info.seconds

    def duration(self, video: int) -> float:
        """Return the end of a video's last frame in seconds."""
        return self._readers[video].info.duration_seconds

    def frame_size(self, video: int) -> tuple[int, int]:
        """Return height and width of a video's frames in pixels."""
        return self._sizes[video]

    def read(self, video: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames of a video in the order of ``indices``, uint8 RGB (k, h, w, 3).

        Raises:
            MediaError: A frame cannot be decoded; the message names the file.
        """
        unique, positions = np.unique(np.asarray(indices, np.int64), return_inverse=True)
        with self._locks[video]:
            try:
                frames = [frame for _, frame in self._readers[video].frames(unique)]
            except DecodeError:
                frames = [frame for _, frame in self._decoded_reader(video).frames(unique)]
        return np.stack(frames)[positions]

    def fingerprint(self) -> str:
        """Return a hash of names, labels, file sizes, resize and decoder."""
        from ccl_hub.video import DECODER_VERSION

        sizes = [reader.info.size_bytes for reader in self._readers]
        facts = stored_facts(self.preprocessing)
        sources = [self.videos.fingerprint(), sizes, facts, DECODER_VERSION]
        return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
