"""What users read a video with: its frames, small and upright, and when each is shown.

Damage is never silent. What an index says is in :class:`VideoInfo`: a file that ends before it
should is ``"incomplete"`` with the number of frames found and expected. What could then not be
decoded is in :attr:`VideoReader.report`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..config import Preprocessing
from ..errors import DecodeError, InputError, MediaError
from ..sampling import ClipPlan, Sampling
from .bars import BarFinder, Bars
from .decode import frames_by_order, frames_by_time
from .file import MediaFile
from .info import VideoInfo, probe
from .open import MediaLimits, Opened, check_file, open_video
from .pixels import Frame, FrameResizer

PathLike = str | Path

DEFAULT_THREADS = 2
"""Decoder threads; more gain little at small sizes and multiply the memory at large ones."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeReport:
    """What the latest :meth:`VideoReader.frames` gave.

    Args:
        wanted: Frames asked for.
        decoded: Frames given so far.
        missing: Frames that could not be decoded.
    """

    wanted: int = 0
    decoded: int = 0
    missing: tuple[int, ...] = ()


class VideoReader:
    """One local video or image file: when its frames are shown, and the frames themselves.

    No file stays open between calls; leaving the ``with`` block ends a decoding in progress.

    Args:
        path: A regular local file; or one opened by :func:`ccl_hub.video.open.open_file`, whose
            descriptor then stays open.
        resize: How frames are resized.
        limits: Largest size; None for the defaults.
        threads: Decoder threads; 0 for one per core.
        decode_index: List the frames by decoding the whole video once, instead of trusting the
            container; frames that cannot be decoded are then left out.

    Raises:
        MediaError: One of its kinds, naming the file.

    Example:
        >>> with VideoReader("video.mp4", resize=Preprocessing()) as reader:  # doctest: +SKIP
        ...     frames = dict(reader.frames([0, 10, 20]))
    """

    def __init__(
        self,
        path: PathLike | MediaFile,
        *,
        resize: Preprocessing,
        limits: MediaLimits | None = None,
        threads: int = DEFAULT_THREADS,
        decode_index: bool = False,
    ) -> None:
        if threads < 0:
            raise InputError(f"threads is {threads}; allowed: 0 (one per core) or more.")
        self._limits = limits or MediaLimits()
        self._threads = threads
        if isinstance(path, MediaFile):
            self._named_path, self._file = path.path, path
        else:
            self._named_path = Path(path)  # as errors name it
            self._file = check_file(path, self._limits)
        self._live: Iterator[tuple[int, Frame]] | None = None
        with _named(self._named_path):
            probed = probe(self._opener, self._file, self._limits, decode_index)
            if probed.is_damaged and threads != 1:
                # Several threads lose frames beside one that is damaged; how many differs.
                self._threads = 1
                probed = probe(self._opener, self._file, self._limits, decode_index)
            self._info, self._index = probed.info, probed.index
            self._listed_note = probed.info.note
            self._resize = FrameResizer(resize, self._limits.max_pixels)
            self._resize.fix_size(self._info.height_px, self._info.width_px)
        self._preprocessing = resize
        self._finder = BarFinder() if resize.bars == "cut" else None
        self._report = DecodeReport()

    @property
    def info(self) -> VideoInfo:
        """What is known of the video; decoding may find it less complete than it looked."""
        return self._info

    @property
    def report(self) -> DecodeReport:
        """What the latest call of :meth:`frames` has given so far."""
        return self._report

    def plan(self, sampling: Sampling) -> ClipPlan:
        """Choose the frames of each clip, of key frames alone if the preprocessing says so.

        Raises:
            MediaLimitError: ``every_seconds`` makes too many windows of this video.
        """
        info, pre, most = self._info, self._preprocessing, self._limits.max_windows
        numbers = np.arange(len(info.seconds))
        if pre.key_frames_only and self._index is not None and len(info.key_frames):
            numbers = info.key_frames
        with _named(self._named_path):
            plan = sampling.plan(info.seconds[numbers], info.duration_seconds, pre, most)
        return replace(plan, indices=numbers[plan.indices])

    def cut_bars(self, bars: Bars) -> None:
        """Cut bars off every frame of the next :meth:`frames`, and look for no more."""
        self._finder = None
        self._resize.cut(bars, self._info.height_px, self._info.width_px)

    def frames(
        self, indices: Sequence[int] | npt.NDArray[np.int64], *, skip_missing: bool = False
    ) -> Iterator[tuple[int, Frame]]:
        """Decode chosen frames.

        Args:
            indices: Frame numbers, strictly ascending, each less than ``len(info.seconds)``.
            skip_missing: Leave out a frame that cannot be decoded, note it in :attr:`report` and
                make :attr:`info` incomplete, instead of raising DecodeError.

        Yields:
            Frame number and (h, w, 3) uint8 RGB, upright and resized.

        Raises:
            InputError: If the indices are not allowed.
            MediaError: One of its kinds, naming the file.
            BarsFoundError: With ``bars`` "cut": there are bars; call :meth:`cut_bars` with them,
                and this method again.
        """
        numbers = _check_indices(indices, len(self._info.seconds))
        self._live = self._decode(numbers, skip_missing)
        return self._live

    def _decode(self, numbers: list[int], skip_missing: bool) -> Iterator[tuple[int, Frame]]:
        self._report = DecodeReport(wanted=len(numbers))
        if self._index is None:
            stream = frames_by_order(self._opener, numbers)
        else:
            only_keys = self._preprocessing.key_frames_only and bool(len(self._info.key_frames))
            stream = frames_by_time(self._opener, self._index, numbers, only_keys)
        with _named(self._named_path), closing(stream):
            for number, frame in stream:
                if frame is not None:
                    small = self._resize(frame)
                    self._report = replace(self._report, decoded=self._report.decoded + 1)
                    self._look_for_bars(small, number == numbers[-1])
                    yield number, small
                    continue
                self._note_missing(number)
                if not skip_missing:
                    raise DecodeError(
                        f"frame {number} of {len(self._info.seconds)}, at "
                        f"{self._info.seconds[number]:.3f} s, cannot be decoded; the file is "
                        "damaged; open it with decode_index=True to leave such frames out."
                    )

    def _look_for_bars(self, frame: Frame, is_last: bool) -> None:
        if self._finder is not None and self._finder.is_looking:
            self._finder.see(frame)
            self._finder.check(is_last)

    def _note_missing(self, number: int) -> None:
        """Keep a frame that could not be decoded, in the report and in the info."""
        missing = (*self._report.missing, number)
        self._report = replace(self._report, missing=missing)
        count = "1 frame" if len(missing) == 1 else f"{len(missing)} frames"
        words = f"{count} could not be decoded, the first is {missing[0]}"
        note = "; ".join(filter(None, (words, self._listed_note)))
        self._info = replace(self._info, completeness="incomplete", note=note)

    def _opener(self) -> AbstractContextManager[Opened]:
        return open_video(self._file, self._limits, self._threads)

    def close(self) -> None:
        """End a decoding in progress."""
        if isinstance(self._live, Generator):
            self._live.close()
        self._live = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def iter_frames(
    path: PathLike,
    preprocessing: Preprocessing,
    limits: MediaLimits | None = None,
    threads: int = DEFAULT_THREADS,
) -> Iterator[tuple[float, Frame]]:
    """Decode a whole video in presentation order, with bounded memory.

    A video that is not complete gives what there is and logs a warning; use
    :class:`VideoReader`, whose arguments and errors are the same, to decide by
    :attr:`VideoInfo.completeness`.

    Yields:
        Seconds from the first frame, and (h, w, 3) uint8 RGB.

    Example:
        >>> frames = list(iter_frames("video.mp4", Preprocessing()))  # doctest: +SKIP
    """
    with VideoReader(path, resize=preprocessing, limits=limits, threads=threads) as reader:
        seconds = reader.info.seconds.tolist()
        for number, frame in reader.frames(range(len(seconds)), skip_missing=True):
            yield seconds[number], frame
        if reader.info.completeness == "incomplete":
            _log.warning("%s: incomplete: %s", reader.info.path, reader.info.note)


def load_image(
    path: PathLike, preprocessing: Preprocessing, limits: MediaLimits | None = None
) -> Frame:
    """Read a still image, or the first frame of a video, by :class:`VideoReader`.

    Returns:
        (1, h, w, 3) uint8 RGB.

    Raises:
        DecodeError: The file was cut short.
        MediaError: One of its other kinds, naming the file.
    """
    with VideoReader(path, resize=preprocessing, limits=limits, threads=1) as reader:
        if reader.info.completeness == "incomplete":
            raise DecodeError(f"incomplete: {reader.info.note}; copy it again.", reader.info.path)
        for _, frame in reader.frames([0]):
            return frame[None]
    raise DecodeError("no image can be decoded; copy it again.", path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let media errors name the file as the caller did, whatever it resolves to."""
    try:
        yield
    except MediaError as error:
        if error.path == path:
            raise
        raise type(error)(error.reason, path) from error


def _check_indices(indices: Sequence[int] | npt.NDArray[np.int64], count: int) -> list[int]:
    """Return the indices as a list, or raise InputError."""
    numbers = np.asarray(indices)
    if numbers.size == 0:
        return []
    ascending = numbers.ndim == 1 and numbers.dtype.kind in "iu" and np.all(np.diff(numbers) > 0)
    if not ascending or numbers[0] < 0 or numbers[-1] >= count:
        raise InputError(
            f"frame indices have shape {numbers.shape}, dtype {numbers.dtype} and range "
            f"{numbers.min()} to {numbers.max()}; allowed: strictly ascending whole numbers from "
            f"0 to {count - 1}."
        )
    return [int(i) for i in numbers]
