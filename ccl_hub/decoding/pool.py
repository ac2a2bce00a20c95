"""Decoding processes under supervision: one that dies or hangs is replaced and costs one video.

    jobs -> workers (processes) -> Planned, Block, Block, ..., Ended | Failed

A worker writes frames into a ring of its own and waits when the ring is full, so that decoding is
never far ahead of the network; that waiting does not count against a video's deadline.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import CCLError, MediaError, MediaLimitError, code_and_reason
from ..video.open import open_file
from . import messages, process, sandbox
from .confinement import Walls
from .messages import DecodeSettings, Job
from .process import Worker
from .wire import WireError

RECYCLE_VIDEOS = 256
"""Videos after which a worker is replaced, so that what its libraries leak stays small."""

_START_SECONDS = 120.0
_POLL_SECONDS = 0.5
_FAILED_STARTS = 3
_OPEN_SECONDS = 5.0
_MOST_REFUSALS = 1_000


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


class DecodePool:
    """Decodes videos in several processes, each watched.

    Args:
        settings: What the workers do.
        tell: Called for each event, from the pool's thread; it must return soon.
        workers: How many processes.
        deadline_seconds: Longest a video may take to decode.
        recycle_videos: Videos after which a process is replaced.
        idle_seconds: Time after which a process without a video is ended.

    Raises:
        InputError: The settings ask for a sandbox that this system does not offer.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        tell: Callable[[Event], None],
        workers: int,
        deadline_seconds: float,
        recycle_videos: int = RECYCLE_VIDEOS,
        idle_seconds: float = float("inf"),
    ) -> None:
        sandbox.check(settings.sandbox)
        self.walls: Walls | None = None  # around the workers, once there is one
        self._settings, self._tell = settings, tell
        self._workers, self._deadline_seconds = workers, deadline_seconds
        self._recycle_videos, self._idle_seconds = recycle_videos, idle_seconds
        self._jobs: deque[Job] = deque()
        self._running: list[Worker] = []
        self._opening: set[threading.Thread] = set()
        self._unopened: deque[tuple[Worker, messages.Failed]] = deque()
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
                refusals = [w.refusals.fileno() for w in self._running if w.refusals is not None]
                connections = (w.connection for w in self._running)
                wait([self._woken, *connections, *refusals], poll_seconds)
                while self._woken.poll():
                    self._woken.recv_bytes()
                while self._unopened:
                    self._end(*self._unopened.popleft())
                for worker in list(self._running):
                    self._attend(worker)
        except BaseException as error:
            self._tell(error)
        finally:
            for worker in self._running:
                worker.process.kill()
            for worker in self._running:
                worker.stop()
            self._running.clear()  # their memory goes with them
            for thread in list(self._opening):
                thread.join(_OPEN_SECONDS)
            with self._wake_lock:
                self._wake_up.close()
                self._woken.close()

    def _assign(self) -> None:
        """Give videos to idle workers; start workers while there are more videos than workers."""
        idle = [w for w in self._running if w.job is None]
        for worker in idle:
            if self._jobs and worker.ready:
                self._begin(worker, self._jobs.popleft())
        waiting = sum(not w.ready for w in self._running)
        while len(self._running) < self._workers and len(self._jobs) > waiting:
            try:
                self._running.append(process.start(self._settings))
            except OSError as error:
                raise _cannot_start(str(error)) from error
            waiting += 1

    def _begin(self, worker: Worker, job: Job) -> None:
        """Let a worker decode a video."""
        worker.begin(job)
        if not self._settings.gets_descriptors:
            with worker.lock:  # other threads give blocks back meanwhile
                worker.send(job)
            return
        # In a thread of its own: a dead disk may hold it for ever.
        thread = threading.Thread(
            target=self._open, args=(worker, job), name="ccl-open", daemon=True
        )
        self._opening.add(thread)
        thread.start()

    def _open(self, worker: Worker, job: Job) -> None:
        """Open a video, and hand its descriptor to a worker."""
        try:
            with open_file(job.path, self._settings.limits) as media, worker.lock:
                worker.send(replace(job, path=media.path), media.descriptor)
        except MediaError as error:
            failure = messages.Failed(job.number, error.code, error.reason)
            self._unopened.append((worker, failure))
            self._wake()
        except Exception as error:
            failure = messages.Failed(job.number, *code_and_reason(error))
            self._unopened.append((worker, failure))
            self._wake()
        finally:
            self._opening.discard(threading.current_thread())

    def _attend(self, worker: Worker) -> None:
        """Read the messages of a worker; replace it if it is dead, late or due."""
        try:
            worker.note_refusals()
            for message in worker.receive():
                worker.check(message)
                self._hear(worker, message)
        except (EOFError, OSError):
            return self._lose(worker, "crashed", worker.how_it_died())
        except WireError as error:
            reason = (
                f"its decoding process does not keep to the rules ({error}); distrust the file."
            )
            return self._lose(worker, "internal", reason)
        except MemoryError as error:  # half of a message may have come
            return self._lose(worker, *code_and_reason(error))
        if len(worker.refused) > _MOST_REFUSALS:
            return self._lose(worker, "internal", "its decoder tries again and again.")
        limit = self._deadline_seconds if worker.ready else _START_SECONDS
        if (worker.job is not None or not worker.ready) and worker.busy_seconds() > limit:
            reason = f"not decoded after {limit:g} s; allow more by deadline_seconds (--deadline)."
            return self._lose(worker, "timeout", reason)
        idle = worker.ready and worker.job is None
        if idle and (
            worker.videos >= self._recycle_videos or worker.busy_seconds() > self._idle_seconds
        ):
            self._running.remove(worker)  # this process holds the memory of waiting blocks, too
            worker.stop()
        return None

    def _hear(self, worker: Worker, message: messages.FromWorker) -> None:
        match message:
            case messages.Ready(walls):
                worker.ready, self._failed_starts, self.walls = True, 0, walls
                worker.restart_clock()
                self._judge(walls)
            case messages.Planned():
                self._tell(message)
            case messages.Decoded(number, slot, count):
                with worker.lock:
                    worker.taken.add(slot)
                    full = len(worker.taken) == self._settings.slots
                    if full and worker.since_seconds is not None:
                        worker.used_seconds, worker.since_seconds = worker.busy_seconds(), None
                frames = worker.ring[slot, :count]
                self._tell(Block(number, frames, lambda: self._release(worker, slot)))
            case messages.Ended() | messages.Failed():
                worker.videos += 1
                self._end(worker, message)

    def _judge(self, walls: Walls) -> None:
        """Compare the walls around a worker with what was asked for."""
        if self._settings.sandbox == "require":
            sandbox.require_full(walls)
        elif self._settings.sandbox == "auto":
            sandbox.tell_once(walls)

    def _end(self, worker: Worker, message: messages.Ended | messages.Failed) -> None:
        """Tell of the end of a video, unless the worker was lost with it."""
        if worker.job is None or worker.job.number != message.job:
            return
        worker.job = None
        worker.restart_clock()
        if isinstance(message, messages.Failed):
            if message.code == MediaLimitError.code:
                worker.videos = self._recycle_videos  # its memory may be in pieces
            message = _blamed(message, worker)
        self._tell(message)

    def _release(self, worker: Worker, slot: int) -> None:
        """Give a block back, from any thread."""
        with worker.lock:
            worker.taken.discard(slot)
            if worker.since_seconds is None:
                worker.since_seconds = time.monotonic()
            worker.send(messages.Free(slot))

    def _wake(self) -> None:
        """Let the thread look at its workers; called from any thread, even after the end."""
        with self._wake_lock:
            if not self._wake_up.closed:
                self._wake_up.send_bytes(b"!")

    def _lose(self, worker: Worker, code: str, reason: str) -> None:
        """End a worker that died or hangs, and fail its video."""
        self._running.remove(worker)
        worker.stop()
        if worker.job is not None:
            failure = messages.Failed(worker.job.number, code, reason)
            worker.job = None
            self._tell(_blamed(failure, worker))
        elif not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise _cannot_start(reason)


def _blamed(failure: messages.Failed, worker: Worker) -> messages.Failed:
    """Return the failure of a video; its confinement may have caused it if it refused a call."""
    if not worker.refused:
        return failure
    names = ", ".join(sorted(set(worker.refused))[:8])
    return messages.Failed(
        failure.job,
        "internal",
        f"its decoder was refused a system call by its sandbox ({names}): {failure.reason} If you "
        "trust the file, decode it with sandbox='off' (--sandbox off), and please report this.",
    )


def _cannot_start(reason: str) -> CCLError:
    return CCLError(
        f"decoding processes cannot start ({reason.rstrip('.')}); look for too little memory or "
        "processes, and for what they wrote to stderr."
    )
