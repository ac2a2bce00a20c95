"""One decoding process of a batch: videos in, resized and cropped frames out.

It runs in a process of its own, so that a decoder that crashes, hangs or eats the memory costs one
video. It is started as ``python -c`` with an inherited connection and not by ``multiprocessing``,
which would run the user's script again in every worker. It imports no torch.

Before its first video it locks itself in (:mod:`.confinement`): from then on it opens no file, not
even a module. :mod:`.messages` has what it is told and what it answers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections import deque
from itertools import islice
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.ma

from ..crop import center_crop
from ..errors import DecodeError, MediaError, MediaLimitError, code_and_reason
from ..sampling import ClipPlan
from ..video.bars import BarsFoundError
from ..video.file import MediaFile
from ..video.info import SourceFacts
from ..video.reader import VideoReader
from . import messages
from .confinement import Walls, available, confine
from .messages import BLOCK_FRAMES, DecodeSettings, Job
from .shared_memory import SharedMemory
from .wire import packed

SHORT_BYTES = 256 << 20
"""A process that came so near its limit, or used half of a smaller one, may have been refused a
frame, or a few."""

_CHARACTER_SETS = (
    *("ISO6937", *(f"ISO-8859-{part}" for part in range(5, 16)), "UCS-2BE"),
    *("KSC_5601", "GB2312", "BIG5"),
)
"""Of the names in transport streams (ETSI EN 300 468, annex A)."""

_TOO_LITTLE_MEMORY = (
    "decoding it needs more memory than a worker may take; raise memory_bytes "
    "(--memory-limit), and try what failed again (--retry-failed)."
)


class _Worker:
    """The loop of a decoding process."""

    def __init__(
        self, connection: Connection, memory: SharedMemory, settings: DecodeSettings
    ) -> None:
        self.connection, self.settings = connection, settings
        buffer = memory.map(settings.ring_bytes)
        self.ring = np.frombuffer(buffer, dtype=np.uint8).reshape(settings.ring_shape)
        self.free = deque(range(settings.slots))
        self.limit_bytes = _limit_memory(settings.memory_bytes)
        # What is needed of the system later is opened now.
        self.line = _line(connection) if settings.gets_descriptors else None
        self.status = os.open("/proc/self/status", os.O_RDONLY) if self.limit_bytes else None
        self.converters = _open_converters()

    def send(self, message: messages.FromWorker) -> None:
        self.connection.send_bytes(packed(message))

    def run(self) -> None:
        """Give up what no decoder needs; then decode videos until told to end."""
        walls, refusals = Walls(), None
        if self.settings.sandbox != "off" and available() != Walls():
            _close_stderr()
            walls, refusals = confine()
        self.send(messages.Ready(walls, refusals is not None))
        if refusals is not None and self.line is not None:
            socket.send_fds(self.line, [b"\0"], [refusals])
            os.close(refusals)  # whoever holds it could let calls pass
        while True:
            message: messages.ToWorker = self.connection.recv()
            match message:
                case Job(path=path) if self.line is not None:
                    (descriptor,) = socket.recv_fds(self.line, 1, 1)[1]
                    try:
                        self.decode(message, MediaFile(path, descriptor))
                    finally:
                        os.close(descriptor)
                case Job(path=path):
                    self.decode(message, path)
                case messages.Free(slot):
                    self.free.append(slot)
                case _:
                    return

    def decode(self, job: Job, file: MediaFile | Path) -> None:
        """Decode one video and say how it went."""
        number = job.number
        try:
            facts = self.attempts(job, file)
        except MediaError as error:
            self.send(messages.Failed(number, error.code, error.reason))
        except MemoryError:
            self.send(messages.Failed(number, MediaLimitError.code, _TOO_LITTLE_MEMORY))
        except OSError as error:
            self.send(messages.Failed(number, "unreadable", error.strerror or str(error)))
        except Exception as error:  # of a library, at unforeseen input
            self.send(messages.Failed(number, *code_and_reason(error)))
        else:
            self.send(messages.Ended(number, facts))

    def attempts(self, job: Job, file: MediaFile | Path) -> SourceFacts:
        """Decode a video; if its index lists frames that cannot be decoded, again without them.

        A decoder that gets no memory for a frame may call the frame damaged. What looks damaged
        when memory was short is refused, or the result would depend on the limit.
        """
        try:
            try:
                facts = self.attempt(job, file, decode_index=bool(job.decode_index))
            except DecodeError:
                if job.decode_index is not None or self.was_short_of_memory():
                    raise
                facts = self.attempt(job, file, decode_index=True)
        except DecodeError as error:
            if self.was_short_of_memory():
                raise MediaLimitError(f"{_TOO_LITTLE_MEMORY} Or {error.reason}") from error
            raise
        if facts.completeness == "incomplete" and self.was_short_of_memory():
            raise MediaLimitError(f"{_TOO_LITTLE_MEMORY} Or it is damaged: {facts.note}")
        return facts

    def was_short_of_memory(self) -> bool:
        """Whether this process came near its limit; the pool then replaces it."""
        if self.limit_bytes is None or self.status is None:
            return False
        words = os.pread(self.status, 1 << 14, 0).split()
        peak_bytes = int(words[words.index(b"VmPeak:") + 1]) * 1024
        short_bytes = min(SHORT_BYTES, (self.settings.memory_bytes or 0) // 2)
        return self.limit_bytes - peak_bytes < short_bytes

    def attempt(self, job: Job, file: MediaFile | Path, decode_index: bool) -> SourceFacts:
        """Send the plan of a video and its frames."""
        settings = self.settings
        with VideoReader(
            file,
            resize=settings.preprocessing,
            limits=settings.limits,
            threads=settings.threads,
            decode_index=decode_index,
        ) as reader:
            plan = reader.plan(job.sampling or settings.sampling)
            self.send(messages.Planned(job.number, plan))
            try:
                self.send_frames(job, plan, reader)
            except BarsFoundError as found:
                reader.cut_bars(found.bars)
                self.send(messages.Planned(job.number, plan))  # starts the job over
                self.send_frames(job, plan, reader)
            info = reader.info  # as it is known after decoding
        return SourceFacts.of(info)

    def send_frames(self, job: Job, plan: ClipPlan, reader: VideoReader) -> None:
        """Put the frames of a plan into shared memory, block by block."""
        indices = np.unique(plan.indices)
        crop_px = self.settings.preprocessing.crop_px
        frames = (center_crop(frame, crop_px) for _, frame in reader.frames(indices))
        for begin in range(0, len(indices), BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, len(indices) - begin)
            block = list(islice(frames, count))  # before a slot is taken: it may fail
            if len(block) < count:
                raise DecodeError("a frame was promised by the index but never decoded.")
            slot = self.free_slot()
            self.ring[slot, :count] = block
            self.send(messages.Decoded(job.number, slot, count))

    def free_slot(self) -> int:
        """Wait until the network has taken a block."""
        while not self.free:
            message: messages.Free | None = self.connection.recv()
            if message is None:
                raise SystemExit
            self.free.append(message.slot)
        return self.free.popleft()


def main(connection_handle: int, memory_token: str) -> None:
    """Run a worker; the main function of its process.

    Args:
        connection_handle: Inherited end of the connection, over which the settings come first.
        memory_token: Token of the shared memory.
    """
    _die_with_parent()
    _leave_no_core()
    with contextlib.ExitStack() as opened:
        connection = opened.enter_context(_connection(connection_handle))
        try:
            settings: DecodeSettings = connection.recv()
            worker = _Worker(connection, SharedMemory(memory_token), settings)
            if worker.line is not None:
                opened.enter_context(worker.line)
            worker.run()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the batch is over


def _leave_no_core() -> None:
    """Let a crash write no file: what the kernel writes is beyond any confinement."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _connection(handle: int) -> Connection:
    kind: Any = Connection if os.name != "nt" else connections.__dict__["PipeConnection"]
    opened: Connection = kind(handle)
    return opened


def _line(connection: Connection) -> socket.socket:
    """Return the socket of a connection, over which descriptors come."""
    return socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)


def _close_stderr() -> None:
    """Say nothing more to stderr, which may be a terminal that obeys what is written to it."""
    if sys.stderr is not None:
        sys.stderr.flush()
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _open_converters() -> list[int | None]:
    """Open what converts the names in transport streams: libc loads a module for each.

    Without them FFmpeg goes on without the names, but it would look for them in vain.
    """
    if sys.platform != "linux":
        return []
    import ctypes

    libc = ctypes.CDLL(None)
    libc.iconv_open.restype = ctypes.c_void_p
    return [libc.iconv_open(b"UTF-8", name.encode()) for name in _CHARACTER_SETS]


def _die_with_parent() -> None:
    """Ask Linux to kill this process with the one that started it, even if it hangs then."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _limit_memory(more_bytes: int | None) -> int | None:
    """Let allocations fail beyond ``more_bytes`` more than now; return the limit."""
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
