"""One decoding process, seen from the process that started it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import messages, wire
from .confinement import Refusals
from .messages import DecodeSettings, Job
from .shared_memory import SharedMemory

logger = logging.getLogger(__name__)

_KILL_SECONDS = 5.0
_SEND_SECONDS = 5
_READ_BYTES = 1 << 16
_REFUSALS_AT_ONCE = 16
_PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
from ccl_hub.decoding.worker import main
main(int(sys.argv[1]), sys.argv[2])
"""


class Worker:
    """A decoding process, what it shares with this one, and the video that it decodes.

    Once it has opened a video it may be in the hands of that video. So nothing here waits for it,
    and nothing that it sends is believed without a look.
    """

    def __init__(self) -> None:
        self.process, self.connection, self._memory = _spawn()
        self.ring: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self.refusals: Refusals | None = None
        self.refused: list[str] = []  # calls, during this video
        self.job: Job | None = None
        self.ready = False
        self.videos = 0
        self.taken: set[int] = set()  # slots of blocks that the network has not given back
        self.attempts = 0
        self.promised = 0  # frames of the plan that have not come
        self.used_seconds = 0.0
        self.since_seconds: float | None = time.monotonic()  # None: it waits for us
        self.lock = threading.Lock()
        self._inbox = wire.Inbox()

    def configure(self, settings: DecodeSettings) -> None:
        """Say what it is to do; once, before anything else."""
        self._settings = settings
        memory = self._memory.map(settings.ring_bytes)
        self.ring = np.frombuffer(memory, dtype=np.uint8).reshape(settings.ring_shape)
        self.since_seconds = time.monotonic()
        self.send(settings)

    def busy_seconds(self) -> float:
        """Time spent on its video, or on starting."""
        running = 0.0 if self.since_seconds is None else time.monotonic() - self.since_seconds
        return self.used_seconds + running

    def begin(self, job: Job) -> None:
        """Expect the messages of a video."""
        self.job, self.refused, self.attempts, self.promised = job, [], 0, 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count from now, or from when one of its slots, all taken, is given back."""
        with self.lock:
            waits = len(self.taken) == self._settings.slots
            self.used_seconds, self.since_seconds = 0.0, None if waits else time.monotonic()

    def send(self, message: messages.ToWorker, descriptor: int | None = None) -> None:
        """Send a message, and a descriptor, unless the process is dead or does not read.

        The next look at it will show that.
        """
        try:
            self.connection.send(message)
            if descriptor is not None:
                with closing(socket.fromfd(self.connection.fileno(), *_STREAM)) as line:
                    socket.send_fds(line, [b"\0"], [descriptor])
        except OSError as error:
            logger.debug("decoding process %d: %s", self.process.pid, error)
            self.process.kill()  # half a message may be under way

    def receive(self) -> Iterator[messages.FromWorker]:
        """Yield what has come, without waiting for more.

        Raises:
            EOFError: It has ended.
            OSError: It has ended, too.
            wire.WireError: It sent what is no message.
        """
        if sys.platform == "win32":
            while self.connection.poll():
                yield wire.unpacked(self.connection.recv_bytes(wire.MOST_BYTES), self._settings)
            return
        if not self.connection.poll():
            return
        # The first message, from before any video, may have a descriptor behind it, which would
        # be lost by reading on.
        if not self.ready:
            ready = wire.unpacked(self.connection.recv_bytes(wire.MOST_BYTES), self._settings)
            if isinstance(ready, messages.Ready) and ready.is_watched:
                with closing(socket.fromfd(self.connection.fileno(), *_STREAM)) as line:
                    descriptors = socket.recv_fds(line, 1, 1)[1]
                if not descriptors:  # it died, or this process has no number left for one
                    raise EOFError
                self.refusals = Refusals(descriptors[0])
            yield ready
            return
        with closing(socket.fromfd(self.connection.fileno(), *_STREAM)) as line:
            try:
                data = line.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError as error:  # what is ready holds no data
                raise wire.WireError("nothing where something was announced") from error
        if not data:
            raise EOFError
        for message in self._inbox.add(data):
            yield wire.unpacked(message, self._settings)

    def note_refusals(self) -> None:
        """Refuse the calls that wait for it, and keep their names."""
        for _ in range(_REFUSALS_AT_ONCE):
            name = self.refusals.take() if self.refusals is not None else None
            if name is None:
                return
            logger.debug("decoding process %d: refused %s", self.process.pid, name)
            self.refused.append(name)

    def check(self, message: messages.FromWorker) -> None:
        """Refuse a message that does not belong where it comes.

        Raises:
            wire.WireError: It does not.
        """
        if isinstance(message, messages.Ready) or not self.ready:
            if self.ready or not isinstance(message, messages.Ready):
                raise wire.WireError("the process is ready once, and first")
            return
        if self.job is None or message.job != self.job.number:
            raise wire.WireError("of another video than that under way")
        match message:
            case messages.Planned(_, plan):
                self.attempts += 1
                if self.attempts > self._most_attempts:
                    raise wire.WireError("another attempt")
                sampling = self.job.sampling or self._settings.sampling
                if not sampling.can_give(plan, self._settings.limits.max_windows):
                    raise wire.WireError("clips that nobody asked for")
                self.promised = len(np.unique(plan.indices))
            case messages.Decoded(_, slot, frames):
                if slot in self.taken or frames > self.promised:
                    raise wire.WireError("more frames than there can be")
                self.promised -= frames
            case messages.Ended():
                if self.promised or not self.attempts:
                    raise wire.WireError("the end before all frames")

    @property
    def _most_attempts(self) -> int:
        """With frames as listed, then as decoded; with bars, then without."""
        listings = 2 if self.job is not None and self.job.decode_index is None else 1
        return listings * (2 if self._settings.preprocessing.bars == "cut" else 1)

    def stop(self) -> None:
        """End the process whatever it does: it writes nothing that could stay half done."""
        self.process.kill()
        with self.lock:
            self.connection.close()
        self._memory.close()
        if self.refusals is not None:
            self.refusals.close()
            self.refusals = None
        try:
            self.process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:  # the system holds it, waiting for a dead disk
            logger.warning("decoding process %d cannot be ended; left behind.", self.process.pid)

    def how_it_died(self) -> str:
        """Return why it is dead, in words."""
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "its decoding process closed the connection."
        if code >= 0:
            return f"its decoding process ended with exit code {code}."
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        why = (
            "the machine may lack memory" if name == "SIGKILL" else "the file crashes the decoder"
        )
        return f"its decoding process was ended by {name}; {why}."


if sys.platform != "win32":
    _STREAM = (socket.AF_UNIX, socket.SOCK_STREAM)


class _Spare:
    """A process that was started before it is known what it is to do."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock, suppress(OSError):
            if self._worker is not None and self._worker.process.poll() is not None:
                self._worker.stop()
                self._worker = None
            if self._worker is None:
                self._worker = Worker()

    def take(self) -> Worker | None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None and worker.process.poll() is not None:
            worker.stop()
            return None
        return worker

    def forget(self) -> None:
        """Leave the process to the one that this one was forked from."""
        self._worker, self._lock = None, threading.Lock()


_spare = _Spare()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_spare.forget)


def start_early() -> None:
    """Start a process for the next video now: it is ready when the caller is, too.

    Only the main thread does: Linux ends a process with the thread that started it.
    """
    if threading.current_thread() is threading.main_thread():
        _spare.start()


def stop_early() -> None:
    """End the process of :func:`start_early` if nothing has taken it."""
    if (worker := _spare.take()) is not None:
        worker.stop()


def start(settings: DecodeSettings) -> Worker:
    """Return a process that decodes as the settings say.

    Raises:
        OSError: It cannot be started.
    """
    worker = _spare.take() or Worker()
    worker.configure(settings)
    return worker


def _spawn() -> tuple[subprocess.Popen[bytes], Connection, SharedMemory]:
    """Start a process that inherits a connection and a piece of memory."""
    ours, theirs = Pipe()
    memory = SharedMemory()
    handle = theirs.fileno()
    inherited: dict[str, Any] = {"pass_fds": [handle, memory.descriptor]}
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        inherited = {"close_fds": False}
    else:
        # What a hostile process does not read must not make this one wait for long.
        with closing(socket.fromfd(ours.fileno(), *_STREAM)) as line:
            wait = struct.pack("ll", _SEND_SECONDS, 0)  # a timeval
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
    try:
        with _ctrl_c_blocked():
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(handle), memory.token],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # stdout belongs to data
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(module_folders()),
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                **inherited,
            )
    except BaseException:
        ours.close()
        memory.close()
        raise
    finally:
        theirs.close()
    return process, ours, memory


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Block Ctrl-C in this thread and in what it starts, which ignores it by itself only later."""
    if sys.platform == "win32":
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def module_folders() -> list[str]:
    """Return the folders from which this process imports, in the same order.

    This package may be from elsewhere: torch.hub forgets the folder that it imports from.
    """
    folders = [folder for folder in sys.path if isinstance(folder, str) and folder]
    parent = str(Path(__file__).absolute().parents[2])
    return folders if parent in folders else [parent, *folders]
