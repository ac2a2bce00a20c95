"""How the messages of a decoding process travel: as JSON and arrays, checked field by field.

A decoder that is taken over by its file may write anything. What is not a message is refused
before it is used; unpickling would run it.
"""

from __future__ import annotations

import json
import struct
import unicodedata
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from ..errors import MediaError
from ..sampling import ClipPlan
from ..video.info import Completeness, SourceFacts
from .confinement import Walls
from .messages import (
    BLOCK_FRAMES,
    Decoded,
    DecodeSettings,
    Ended,
    Failed,
    FromWorker,
    Planned,
    Ready,
)

MOST_BYTES = 256 << 20
"""Longest message: the plan of a million windows, the most that there may be, takes 144 MB."""

CODES = frozenset(kind.code for kind in MediaError.__subclasses__())
"""What may be wrong with a video, as far as its decoder can tell."""

_MOST_WINDOWS = 1_000_000
_MOST_TEXT = 8_000
_MOST_HEAD = 1 << 18
_MOST_SECONDS = 1e10  # 300 years
_STEERING = {"Cc", "Cf", "Zl", "Zp"}  # control, direction of writing, ends of lines
_LENGTH = struct.Struct("!i")  # how multiprocessing.connection frames what is below 2 GiB


class WireError(Exception):
    """What came is not a message."""


def packed(message: FromWorker) -> bytes:
    """Return a message of a worker as bytes."""
    arrays = b""
    match message:
        case Ready(walls, is_watched):
            fields: list[Any] = [walls.landlock, walls.seccomp, is_watched]
        case Planned(job, plan):
            fields = [job, *plan.indices.shape]
            seconds = plan.clip_seconds, plan.frame_seconds
            arrays = plan.indices.astype(np.int64).tobytes()
            arrays += b"".join(part.astype(np.float64).tobytes() for part in seconds)
        case Decoded(job, slot, frames):
            fields = [job, slot, frames]
        case Ended(job, facts):
            fields = [job, facts.size_bytes, facts.frames, facts.duration_seconds]
            fields += [facts.completeness, facts.note[:_MOST_TEXT]]
            fields += [facts.width_px, facts.height_px]
        case Failed(job, code, reason):
            fields = [job, code, reason[:_MOST_TEXT]]
    return json.dumps([type(message).__name__, *fields]).encode() + b"\n" + arrays


def unpacked(data: bytes, settings: DecodeSettings) -> FromWorker:
    """Return the message that a worker with some settings sent.

    Raises:
        WireError: It is none.
    """
    head, _, arrays = data.partition(b"\n")
    if len(head) > _MOST_HEAD:
        raise WireError(f"a head of {len(head)} bytes")
    try:
        kind, *fields = json.loads(head)
        return _message(kind, fields, arrays, settings)
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"{error} in {head[:80]!r}") from error


def _message(kind: str, fields: list[Any], arrays: bytes, settings: DecodeSettings) -> FromWorker:
    match kind, fields:
        case "Ready", [landlock, seccomp, is_watched]:
            return Ready(Walls(_count(landlock), _truth(seccomp)), _truth(is_watched))
        case "Planned", [job, windows, frames]:
            return Planned(_count(job), _plan(_count(windows), _count(frames), arrays, settings))
        case "Decoded", [job, slot, frames]:
            slot, frames = _count(slot, settings.slots - 1), _positive(frames, BLOCK_FRAMES)
            return Decoded(_count(job), slot, frames)
        case "Ended", [job, size, frames, duration, completeness, note, width, height]:
            if completeness not in get_args(Completeness):
                raise ValueError("unknown completeness")
            facts = SourceFacts(
                _count(size),
                _count(frames),
                _seconds(duration),
                completeness,
                _text(note),
                _positive(width),
                _positive(height),
            )
            return Ended(_count(job), facts)
        case "Failed", [job, code, reason]:
            if code not in CODES:
                raise ValueError("unknown code")
            return Failed(_count(job), code, _text(reason) or "no reason given.")
    raise ValueError("unknown message")


def _plan(windows: int, frames: int, arrays: bytes, settings: DecodeSettings) -> ClipPlan:
    """Return the plan in the bytes of a message."""
    length = settings.preprocessing.clip_frames
    if not 1 <= windows <= _MOST_WINDOWS or frames != length:
        raise ValueError("a plan of another size")
    if len(arrays) != 8 * windows * (2 * length + 2):
        raise ValueError("a plan of another length")
    indices = np.frombuffer(arrays, np.int64, windows * length)
    seconds = np.frombuffer(arrays, np.float64, offset=indices.nbytes)
    # Written so that NaN is refused, too.
    if indices.min() < 0 or not np.abs(seconds).max() <= _MOST_SECONDS:
        raise ValueError("a plan of other values")
    spans, instants = seconds[: 2 * windows], seconds[2 * windows :]
    return ClipPlan(_owned(indices, windows), _owned(spans, windows), _owned(instants, windows))


def _owned(values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    return values.reshape(rows, -1).copy()


def _count(value: object, most: int = 2**63 - 1) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a count")
    return value


def _positive(value: object, most: int = 2**63 - 1) -> int:
    if _count(value, most) == 0:
        raise ValueError("nothing")
    return _count(value, most)


def _truth(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("not true or false")
    return value


def _seconds(value: object) -> float:
    if type(value) is not float or not 0 <= value <= _MOST_SECONDS:
        raise ValueError("not a duration")
    return value


def _text(value: object) -> str:
    """Return words without what could steer a terminal, and that can be stored as UTF-8."""
    if type(value) is not str or len(value) > _MOST_TEXT:
        raise ValueError("not a text")
    value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(" " if unicodedata.category(c) in _STEERING else c for c in value)


class Inbox:
    """Puts what is read from a connection together: whoever writes may stop in mid-message."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> Iterator[bytes]:
        """Take what has come; yield the messages that are whole.

        Raises:
            WireError: A message is too long.
        """
        self._data += data
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            if not 0 <= length <= MOST_BYTES:
                raise WireError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._data) < end:
                return
            message = bytes(self._data[_LENGTH.size : end])
            del self._data[:end]
            yield message
