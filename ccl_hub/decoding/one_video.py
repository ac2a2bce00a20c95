"""One video at a time: decoded in a confined process as if it were decoded here, or decoded here.

The process is kept for the next video, and ends when none comes for a while.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..config import Preprocessing
from ..errors import CCLError, DecoderFaultError, InputError, MediaError
from ..sampling import ClipPlan, Sampling
from ..video.bars import BarsFoundError
from ..video.info import SourceFacts
from ..video.open import MediaLimits
from ..video.reader import VideoReader
from . import messages, process, sandbox
from .confinement import Walls, available
from .messages import DecodeSettings, Job
from .pool import Block, DecodePool, Event
from .sandbox import Level, level_of
from .wire import WireError

Decode = Literal["auto", "confined", "in-process"]
"""``auto``: in a confined process where the system can confine one, else here; ``confined``: in
one that is fully confined, or not at all; ``in-process``: here, with all the rights of the caller.
"""

DECODES: tuple[Decode, ...] = ("auto", "confined", "in-process")

_IDLE_SECONDS = 60.0
_START_SECONDS = 120.0
_ERRORS = {kind.code: kind for kind in MediaError.__subclasses__()}


class StartsOverError(Exception):
    """Frames that came before are void; ask for all of them again."""

    def __init__(self) -> None:
        super().__init__("it has black bars, which are cut off from its beginning on")


def takes_process(decode: Decode) -> bool:
    """Return whether a video is decoded in a process of its own; tell once if ``auto`` cannot.

    Raises:
        InputError: ``decode`` is unknown, or this system cannot do it.
    """
    if decode not in DECODES:
        raise InputError(f"decode is {decode!r}; allowed: {', '.join(DECODES)}.")
    if decode == "in-process":
        return False
    walls = available()
    if decode == "confined":
        sandbox.require_full(walls)
    else:
        sandbox.tell_once(walls)
    return level_of(walls) != "none"


def prepare(decode: Decode) -> None:
    """Start the process for the next video now, if it takes one; see :func:`takes_process`."""
    if takes_process(decode) and not _idle.is_there():
        process.start_early()


def open_one(
    path: str | Path, settings: DecodeSettings, decode: Decode, decode_index: bool
) -> OneVideo | VideoHere:
    """Begin to decode a video.

    Args:
        path: A local video or image file.
        settings: What is decoded of it, and how.
        decode: Where.
        decode_index: List its frames by decoding them.

    Raises:
        MediaError: One of its kinds.
        InputError: See :func:`takes_process`.
    """
    if takes_process(decode):
        return OneVideo(path, settings, decode_index)
    return VideoHere(path, settings, decode_index)


class VideoHere:
    """A video that is decoded in this process.

    The arguments are those of :func:`open_one`.
    """

    level: Level = "none"

    def __init__(self, path: str | Path, settings: DecodeSettings, decode_index: bool) -> None:
        self._reader = VideoReader(
            path,
            resize=settings.preprocessing,
            limits=settings.limits,
            threads=settings.threads,
            decode_index=decode_index,
        )
        self.plan = self._reader.plan(settings.sampling)

    def frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames of the plan, each once and in order: (h,w,3) uint8 RGB, resized.

        Raises:
            MediaError: One cannot be decoded.
            StartsOverError: See there.
        """
        try:
            for _, frame in self._reader.frames(np.unique(self.plan.indices)):
                yield frame
        except BarsFoundError as found:
            self._reader.cut_bars(found.bars)
            raise StartsOverError from found

    @property
    def facts(self) -> SourceFacts:
        """What is known of the video; all of it after the last frame."""
        return SourceFacts.of(self._reader.info)

    def close(self) -> None:
        """End a decoding in progress."""
        self._reader.close()


class OneVideo:
    """A video that is decoded in a process of its own.

    The arguments are those of :func:`open_one`.
    """

    def __init__(self, path: str | Path, settings: DecodeSettings, decode_index: bool) -> None:
        self._path = path
        self._decoder: _Decoder | None = _idle.take(settings) or _Decoder(settings)
        self._facts: SourceFacts | None = None
        self.level: Level = "none"
        self.plan: ClipPlan
        try:
            # One that is dropped without an end takes its process along.
            self._finalizer = weakref.finalize(self, self._decoder.pool.stop)
            self._decoder.begin(Path(path).absolute(), decode_index, settings.sampling)
            match self._next():
                case messages.Planned(_, plan):
                    self.plan = plan
                case _:
                    raise CCLError(f"{path}: its frames came before its plan.")
        except BaseException as error:
            self._give_back(is_over=isinstance(error, MediaError))
            raise

    def frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames of the plan, each once and in order: (S,S,3) uint8 RGB, cropped.

        Raises:
            MediaError: One cannot be decoded.
            StartsOverError: See there.
        """
        while True:
            match self._next():
                case Block(_, frames, release):
                    own = frames.copy()
                    release()
                    yield from own
                case messages.Planned(_, plan):
                    self.plan = plan
                    raise StartsOverError
                case messages.Ended(_, facts):
                    self._facts = facts
                    self._give_back(is_over=True)
                    return

    @property
    def facts(self) -> SourceFacts:
        """What is known of the video; frames that were not asked for are passed over.

        Raises:
            MediaError: One cannot be decoded.
        """
        while self._facts is None:
            with contextlib.suppress(StartsOverError):
                for _ in self.frames():
                    pass
        return self._facts

    def close(self) -> None:
        """End a decoding in progress."""
        self._give_back(is_over=False)

    def _next(self) -> Event:
        """Return the next event of the video."""
        if self._decoder is None:
            raise CCLError(f"{self._path}: its frames were read before.")
        event = self._decoder.events.get()
        self.level = level_of(self._decoder.pool.walls or Walls())
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, messages.Failed):
            self._give_back(is_over=True)
            raise _error(event, self._path)
        return event

    def _give_back(self, is_over: bool) -> None:
        """Keep the process for the next video, or end it in the midst of this one."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            self._finalizer.detach()
            _idle.keep(decoder) if is_over else decoder.pool.close()


def _error(failure: messages.Failed, path: str | Path) -> MediaError:
    """Return what is wrong with a video as an error."""
    return _ERRORS.get(failure.code, DecoderFaultError)(failure.reason, path)


class _Decoder:
    """A pool of one process, which takes one video at a time."""

    def __init__(self, settings: DecodeSettings) -> None:
        self.settings, self._number = settings, 0
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.pool = DecodePool(
            settings, self.events.put, 1, float("inf"), idle_seconds=_IDLE_SECONDS
        )

    def begin(self, path: Path, decode_index: bool, sampling: Sampling) -> None:
        self.pool.submit(Job(self._number, path, decode_index, sampling))
        self._number += 1


class _Idle:
    """The decoder that waits for the next video, if there is one."""

    def __init__(self) -> None:
        self._decoder: _Decoder | None = None
        self._lock = threading.Lock()

    def is_there(self) -> bool:
        return self._decoder is not None

    def take(self, settings: DecodeSettings | None) -> _Decoder | None:
        """Return the decoder if it has these settings, whatever the clips; None stands for any."""
        with self._lock:
            decoder = self._decoder
            if decoder is None:
                return None
            same = settings and replace(settings, sampling=decoder.settings.sampling)
            if same not in (None, decoder.settings):
                return None
            self._decoder = None
            return decoder

    def keep(self, decoder: _Decoder) -> None:
        with self._lock:
            before, self._decoder = self._decoder, decoder
        if before is not None:  # of another thread, or with other settings
            before.pool.close()

    def forget(self) -> None:
        """Leave it to the process that this one was forked from."""
        self._decoder, self._lock = None, threading.Lock()


_idle = _Idle()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.forget)


def close_idle() -> None:
    """End the process that waits for the next video, if there is one."""
    if (decoder := _idle.take(None)) is not None:
        decoder.pool.close()
    process.stop_early()


atexit.register(close_idle)


def walls_here() -> Walls:
    """Start a decoding process, and return the walls around it.

    Raises:
        CCLError: It does not start.
        OSError: There can be no process.
    """
    settings = DecodeSettings(Preprocessing(), Sampling(), MediaLimits())
    worker = process.start(settings)
    try:
        wait([worker.connection], _START_SECONDS)
        for message in worker.receive():
            if isinstance(message, messages.Ready):
                return message.walls
    except (EOFError, OSError, WireError) as error:
        raise CCLError(f"a decoding process does not start: {worker.how_it_died()}") from error
    finally:
        worker.stop()
    raise CCLError(f"a decoding process is not ready after {_START_SECONDS:g} s.")
