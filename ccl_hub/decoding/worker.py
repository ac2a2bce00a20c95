"""One decoding process of a batch: videos in, resized and cropped frames out.

It runs in a process of its own, so that a decoder that crashes, hangs or eats the memory costs one
video. It is started as ``python -c`` with an inherited connection and not by ``multiprocessing``,
which would run the user's script again in every worker. It imports no torch.

Messages, as tuples. To the worker: ``("video", Job)``, ``("free", slot)``, or None to end. From
it: ``("ready",)``, then for each video ``("plan", ...)``, any number of ``("frames", ...)`` and
``("end", ...)``; at any time ``("failed", ...)`` instead of the rest, or another
``("plan", ...)``, which starts the video again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Preprocessing
from ..crop import centre_crop
from ..errors import DecodeError, MediaError, MediaLimitError, code_and_reason
from ..sampling import ClipPlan, Sampling
from ..video.reader import MediaLimits, SourceFacts, VideoReader
from .shared_memory import SharedMemory

__all__ = [
    "BLOCK_FRAMES",
    "DecodeSettings",
    "Job",
    "frame_bytes",
    "main",
]

BLOCK_FRAMES = 16
"""Frames handed over at once; what one CPU core computes best together."""

SHORT_BYTES = 256 << 20
"""A process that came so near its limit, or used half of a smaller one, may have been refused a
frame, or a few."""

_TOO_LITTLE_MEMORY = (
    "decoding it needs more memory than a worker may take; raise memory_bytes "
    "(--memory-limit), and try what failed again (--retry-failed)."
)


@dataclass(frozen=True)
class DecodeSettings:
    """What every worker of a batch does alike.

    Args:
        preprocessing: Of the model.
        sampling: Which clips.
        limits: Largest media accepted.
        threads: Decoder threads of one worker.
        memory_bytes: Memory a worker may take beyond what it starts with; None for any. Held on
            Linux only.
        slots: Blocks of frames that a worker may be ahead of the network.
    """

    preprocessing: Preprocessing
    sampling: Sampling
    limits: MediaLimits
    threads: int = 1
    memory_bytes: int | None = None
    slots: int = 16


@dataclass(frozen=True)
class Job:
    """One video to decode.

    Args:
        number: Names it in messages.
        path: The file.
    """

    number: int
    path: Path


def frame_bytes(preprocessing: Preprocessing) -> int:
    """Bytes of one cropped frame."""
    return preprocessing.crop_px**2 * 3


class _Worker:
    """The loop of a decoding process."""

    def __init__(
        self,
        connection: Connection,
        memory: SharedMemory,
        own: DecodeSettings,
        limit_bytes: int | None,
    ) -> None:
        self.connection, self.own, self.limit_bytes = connection, own, limit_bytes
        side = own.preprocessing.crop_px
        self.ring = np.frombuffer(memory.buffer, dtype=np.uint8).reshape(
            own.slots, BLOCK_FRAMES, side, side, 3
        )
        self.free = deque(range(own.slots))

    def run(self) -> None:
        """Decode videos until told to end."""
        self.connection.send(("ready",))
        while (message := self.connection.recv()) is not None:
            word, what = message
            if word == "free":
                self.free.append(what)
            else:
                self.decode(what)

    def decode(self, job: Job) -> None:
        """Decode one video and say how it went."""
        try:
            facts = self.attempts(job)
        except MediaError as error:
            self.connection.send(("failed", job.number, error.code, error.reason))
        except MemoryError:
            self.connection.send(("failed", job.number, MediaLimitError.code, _TOO_LITTLE_MEMORY))
        except OSError as error:
            self.connection.send(
                ("failed", job.number, "unreadable", error.strerror or str(error))
            )
        except Exception as error:  # of a library, at input that nobody thought of
            self.connection.send(("failed", job.number, *code_and_reason(error)))
        else:
            self.connection.send(("end", job.number, facts))

    def attempts(self, job: Job) -> SourceFacts:
        """Decode a video, anew if its index lists frames that cannot be decoded, without them.

        A decoder that gets no memory for a frame may call the frame damaged. What looks damaged
        when memory was short is refused, or the result would depend on the limit.
        """
        try:
            try:
                facts = self.attempt(job, decode_index=False)
            except DecodeError:
                if self.was_short_of_memory():
                    raise
                facts = self.attempt(job, decode_index=True)
        except DecodeError as error:
            if self.was_short_of_memory():
                raise MediaLimitError(f"{_TOO_LITTLE_MEMORY} Or {error.reason}") from error
            raise
        if facts.completeness == "incomplete" and self.was_short_of_memory():
            raise MediaLimitError(f"{_TOO_LITTLE_MEMORY} Or it is damaged: {facts.note}")
        return facts

    def was_short_of_memory(self) -> bool:
        """Whether this process came near its limit; the pool then replaces it."""
        if self.limit_bytes is None:
            return False
        words = Path("/proc/self/status").read_text().split()
        peak_bytes = int(words[words.index("VmPeak:") + 1]) * 1024
        short_bytes = min(SHORT_BYTES, (self.own.memory_bytes or 0) // 2)
        return self.limit_bytes - peak_bytes < short_bytes

    def attempt(self, job: Job, decode_index: bool) -> SourceFacts:
        """Send the plan of a video and its frames."""
        own = self.own
        with VideoReader(
            job.path,
            resize=own.preprocessing,
            limits=own.limits,
            threads=own.threads,
            decode_index=decode_index,
        ) as reader:
            info = reader.info
            plan = own.sampling.plan(
                info.seconds, info.duration_seconds, own.preprocessing, own.limits.max_windows
            )
            self.connection.send(("plan", job.number, plan))
            self.send_frames(job, plan, reader)
            info = reader.info  # as it is known after decoding
        return SourceFacts.of(info)

    def send_frames(self, job: Job, plan: ClipPlan, reader: VideoReader) -> None:
        """Put the frames of a plan into shared memory, block by block."""
        wanted = np.unique(plan.indices)
        frames = (
            centre_crop(frame, self.own.preprocessing.crop_px)
            for _, frame in reader.frames(wanted)
        )
        for begin in range(0, len(wanted), BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, len(wanted) - begin)
            block = list(islice(frames, count))  # before a slot is taken: it may fail
            if len(block) < count:
                raise DecodeError("a frame was promised by the index but never decoded.")
            slot = self.free_slot()
            self.ring[slot, :count] = block
            self.connection.send(("frames", job.number, slot, count))

    def free_slot(self) -> int:
        """Wait until the network has taken a block."""
        while not self.free:
            message = self.connection.recv()
            if message is None:
                raise SystemExit
            self.free.append(message[1])
        return self.free.popleft()


def main(connection_handle: int, memory_token: str) -> None:
    """Run a worker; the main function of its process.

    Args:
        connection_handle: Inherited end of the connection, over which the settings come first.
        memory_token: Of the shared memory.
    """
    _die_with_parent()
    with _connection(connection_handle) as connection:
        try:
            own: DecodeSettings = connection.recv()
            size = own.slots * BLOCK_FRAMES * frame_bytes(own.preprocessing)
            memory = SharedMemory(size, memory_token)
            limit_bytes = _limit_memory(own.memory_bytes)
            _Worker(connection, memory, own, limit_bytes).run()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the batch is over


def _connection(handle: int) -> Connection:
    kind: Any = Connection if os.name != "nt" else connections.__dict__["PipeConnection"]
    opened: Connection = kind(handle)
    return opened


def _die_with_parent() -> None:
    """Ask Linux to kill this process with the one that started it, even if it hangs then."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _limit_memory(more_bytes: int | None) -> int | None:
    """Let allocations fail beyond what the process has now and ``more_bytes``; give the limit."""
    if more_bytes is None or sys.platform != "linux":
        return None
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    return most
