"""Decoding processes under supervision: one that dies or hangs is replaced and costs one video.

    jobs -> workers (processes) -> Planned, Block, Block, ..., Ended | Failed

A worker writes frames into a ring of its own and waits when the ring is full, so that decoding is
never far ahead of the network; that waiting does not count against a video's deadline.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import CCLError, MediaLimitError, code_and_reason
from . import messages
from .messages import DecodeSettings, Job
from .shared_memory import SharedMemory

logger = logging.getLogger(__name__)

RECYCLE_VIDEOS = 256
"""Videos after which a worker is replaced, so that what its libraries leak stays small."""

_START_SECONDS = 120.0
_POLL_SECONDS = 0.5
_FAILED_STARTS = 3
_KILL_SECONDS = 5.0
_PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
from ccl_hub.decoding.worker import main
main(int(sys.argv[1]), sys.argv[2])
"""


@dataclass(frozen=True)
class Block:
    """The next frames of a video, in the memory of a worker.

    Args:
        job: Number of the video.
        frames: (n, S, S, 3) uint8, a view; copy it, then call :meth:`release`.
        release: Gives the memory back to the worker.
    """

    job: int
    frames: npt.NDArray[np.uint8]
    release: Callable[[], None]


Event: TypeAlias = messages.Planned | Block | messages.Ended | messages.Failed | BaseException
"""What the pool tells of a video, in the order of :mod:`.messages`; an error ends the pool."""


@dataclass
class _Worker:
    """A decoding process and the video that it decodes."""

    process: subprocess.Popen[bytes]
    connection: Connection
    ring: npt.NDArray[np.uint8]
    job: Job | None = None
    ready: bool = False
    videos: int = 0
    taken: int = 0  # blocks that the network has not given back
    used_seconds: float = 0.0
    since_seconds: float | None = field(default_factory=time.monotonic)  # None: it waits for us
    lock: threading.Lock = field(default_factory=threading.Lock)

    def busy_seconds(self) -> float:
        """Time spent on its video, or on starting."""
        running = 0.0 if self.since_seconds is None else time.monotonic() - self.since_seconds
        return self.used_seconds + running

    def restart_clock(self, slots: int) -> None:
        """Count from now, or from when one of its slots, all taken, is given back."""
        with self.lock:
            waits = self.taken == slots
            self.used_seconds, self.since_seconds = 0.0, None if waits else time.monotonic()

    def send(self, message: messages.ToWorker) -> None:
        """Send a message, unless the process is dead, which the next look at it will show."""
        try:
            self.connection.send(message)
        except OSError as error:
            logger.debug("decoding process %d: %s", self.process.pid, error)


class DecodePool:
    """Decodes videos in several processes, each watched.

    Args:
        settings: What the workers do.
        tell: Called for each event, from the pool's thread; it must return soon.
        workers: How many processes.
        deadline_seconds: Longest a video may take to decode.
        recycle_videos: Videos after which a process is replaced.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        tell: Callable[[Event], None],
        workers: int,
        deadline_seconds: float,
        recycle_videos: int = RECYCLE_VIDEOS,
    ) -> None:
        self._settings, self._tell = settings, tell
        self._workers, self._deadline_seconds = workers, deadline_seconds
        self._recycle_videos = recycle_videos
        self._jobs: deque[Job] = deque()
        self._running: list[_Worker] = []
        self._failed_starts = 0
        self._closing = False
        self._wake_lock = threading.RLock()
        self._woken, self._wake_up = Pipe(duplex=False)
        self.thread = threading.Thread(target=self._run, name="ccl-decode", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Add a video; the caller keeps their number bounded."""
        self._jobs.append(job)
        self._wake()

    def stop(self) -> None:
        """Let the thread end every process and then itself; does not wait."""
        self._closing = True
        self._wake()

    def close(self) -> None:
        """End every process at once."""
        self.stop()
        self.thread.join()

    # The thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        poll_seconds = min(_POLL_SECONDS, max(0.01, self._deadline_seconds / 4))
        try:
            while not self._closing:
                self._assign()
                wait([self._woken, *(w.connection for w in self._running)], poll_seconds)
                while self._woken.poll():
                    self._woken.recv_bytes()
                for worker in list(self._running):
                    self._attend(worker)
        except BaseException as error:
            self._tell(error)
        finally:
            for worker in self._running:
                worker.process.kill()
            for worker in self._running:
                _stop(worker)
            self._running.clear()  # their memory goes with them
            with self._wake_lock:
                self._wake_up.close()
                self._woken.close()

    def _assign(self) -> None:
        """Give videos to idle workers; start workers while there are more videos than workers."""
        idle = [w for w in self._running if w.job is None]
        for worker in idle:
            if self._jobs and worker.ready:
                worker.job = self._jobs.popleft()
                worker.restart_clock(self._settings.slots)
                with worker.lock:  # other threads give blocks back meanwhile
                    worker.send(worker.job)
        waiting = sum(not w.ready for w in self._running)
        while len(self._running) < self._workers and len(self._jobs) > waiting:
            try:
                self._running.append(_start(self._settings))
            except OSError as error:
                raise _cannot_start(str(error)) from error
            waiting += 1

    def _attend(self, worker: _Worker) -> None:
        """Read the messages of a worker; replace it if it is dead, late or due."""
        try:
            while worker.connection.poll():
                self._hear(worker, worker.connection.recv())
        except (EOFError, OSError):
            return self._lose(worker, "crashed", _how_it_died(worker.process))
        except MemoryError as error:  # half of a message may have come
            return self._lose(worker, *code_and_reason(error))
        limit = self._deadline_seconds if worker.ready else _START_SECONDS
        if (worker.job is not None or not worker.ready) and worker.busy_seconds() > limit:
            reason = f"not decoded after {limit:g} s; allow more by deadline_seconds (--deadline)."
            return self._lose(worker, "timeout", reason)
        if worker.job is None and worker.videos >= self._recycle_videos:
            self._running.remove(worker)  # this process holds the memory of waiting blocks, too
            _stop(worker)
        return None

    def _hear(self, worker: _Worker, message: messages.FromWorker) -> None:
        match message:
            case messages.Ready():
                worker.ready, self._failed_starts = True, 0
            case messages.Planned():
                self._tell(message)
            case messages.Decoded(number, slot, count):
                with worker.lock:
                    worker.taken += 1
                    if worker.taken == self._settings.slots and worker.since_seconds is not None:
                        worker.used_seconds, worker.since_seconds = worker.busy_seconds(), None
                frames = worker.ring[slot, :count]
                self._tell(Block(number, frames, lambda: self._release(worker, slot)))
            case messages.Ended() | messages.Failed():
                worker.job, worker.videos = None, worker.videos + 1
                if isinstance(message, messages.Failed) and message.code == MediaLimitError.code:
                    worker.videos = self._recycle_videos  # its memory may be in pieces
                self._tell(message)

    def _release(self, worker: _Worker, slot: int) -> None:
        """Give a block back, from any thread."""
        with worker.lock:
            worker.taken -= 1
            if worker.since_seconds is None:
                worker.since_seconds = time.monotonic()
            worker.send(messages.Free(slot))

    def _wake(self) -> None:
        """Let the thread look at its workers; called from any thread, even after the end."""
        with self._wake_lock:
            if not self._wake_up.closed:
                self._wake_up.send_bytes(b"!")

    def _lose(self, worker: _Worker, code: str, reason: str) -> None:
        """End a worker that died or hangs, and fail its video."""
        self._running.remove(worker)
        _stop(worker)
        if worker.job is not None:
            self._tell(messages.Failed(worker.job.number, code, reason))
        elif not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise _cannot_start(reason)


def _cannot_start(reason: str) -> CCLError:
    return CCLError(
        f"decoding processes cannot start ({reason.rstrip('.')}); look for too little memory or "
        "processes, and for what they wrote to stderr."
    )


def _start(settings: DecodeSettings) -> _Worker:
    """Start a process that inherits a connection and a piece of memory."""
    ours, theirs = Pipe()
    memory = SharedMemory(math.prod(settings.ring_shape))
    handle = theirs.fileno()
    inherited: dict[str, Any] = {"pass_fds": [handle, memory.descriptor]}
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        inherited = {"close_fds": False}
    try:
        with _ctrl_c_blocked():
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, str(handle), memory.token],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # stdout belongs to data
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(_module_folders()),
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                **inherited,
            )
    except BaseException:
        ours.close()
        memory.buffer.close()
        raise
    finally:
        theirs.close()
        memory.close_descriptor()
    ring = np.frombuffer(memory.buffer, dtype=np.uint8).reshape(settings.ring_shape)
    worker = _Worker(process, ours, ring)
    worker.send(settings)
    return worker


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


def _module_folders() -> list[str]:
    """Return the folders from which this process imports, in the same order.

    This package may be from elsewhere: torch.hub forgets the folder that it imports from.
    """
    folders = [folder for folder in sys.path if isinstance(folder, str) and folder]
    parent = str(Path(__file__).absolute().parents[2])
    return folders if parent in folders else [parent, *folders]


def _stop(worker: _Worker) -> None:
    """End a process whatever it does: it writes nothing that could stay half done."""
    worker.process.kill()
    with worker.lock:
        worker.connection.close()
    try:
        worker.process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:  # the system holds it, waiting for a dead disk
        logger.warning("decoding process %d cannot be ended; left behind.", worker.process.pid)


def _how_it_died(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "its decoding process closed the connection."
    if code >= 0:
        return f"its decoding process ended with exit code {code}."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = "the machine may lack memory" if name == "SIGKILL" else "the file crashes the decoder"
    return f"its decoding process was ended by {name}; {why}."
