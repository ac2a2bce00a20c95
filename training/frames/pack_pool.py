"""Packing processes are run here, and replaced when a bad video kills or hangs one."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ccl_hub.errors import OutputError, TrainingError

from ..data.checks import Problem
from ..data.datasets import VideoItem
from .pack_worker import PackOptions, serve


@dataclass
class ShardTask:
    """One shard to write: its file, its videos, its fingerprint, and the videos to skip."""

    path: Path
    items: list[VideoItem]
    plan: str
    skip: dict[str, Problem] = field(default_factory=dict)


@dataclass
class _Worker:
    """A packing process, its task and the video it is on; ``ended`` counts the videos done."""

    process: BaseProcess
    connection: Connection
    task: ShardTask | None = None
    video: str | None = None
    since_seconds: float = 0.0
    ended: int = 0


def run_tasks(
    tasks: list[ShardTask],
    options: PackOptions,
    workers: int,
    video_timeout_seconds: float,
    advance: Callable[[int], None],
) -> None:
    """Write every shard, each in one of several spawned processes.

    A process that dies or exceeds the deadline while on a video is replaced; its shard starts
    again without that video, which is recorded as ``crashed`` or ``timeout``.

    Args:
        tasks: The shards.
        options: Passed to the processes.
        workers: How many processes.
        video_timeout_seconds: Deadline for one video.
        advance: Called with the number of videos done; negative when they must be done again.

    Raises:
        OutputError: A shard cannot be written.
        TrainingError: A process dies before its first video.
    """
    waiting = deque(tasks)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(options))
                _assign(running[-1], waiting.popleft())
            wait([worker.connection for worker in running], timeout=1.0)
            for worker in list(running):
                fault = _pump(worker, video_timeout_seconds, advance)
                if fault is not None:
                    waiting.appendleft(_without_culprit(worker, fault, advance))
                elif worker.task is None and waiting:
                    _assign(worker, waiting.popleft())
                if fault is not None or worker.task is None:
                    running.remove(worker)
                    _stop(worker)
    finally:
        for worker in running:
            _stop(worker)


def _start(options: PackOptions) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, options), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _assign(worker: _Worker, task: ShardTask) -> None:
    worker.task, worker.video, worker.ended = task, None, 0
    worker.since_seconds = time.monotonic()
    worker.connection.send((task.path, task.items, task.plan, task.skip))


def _stop(worker: _Worker) -> None:
    """End a process: by request if it is idle, and at once if it is busy."""
    if worker.task is None and worker.process.is_alive():
        worker.connection.send(None)
        worker.process.join(timeout=10)
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _pump(
    worker: _Worker, video_timeout_seconds: float, advance: Callable[[int], None]
) -> Problem | None:
    """Read the messages of a process; return the problem for which it must be replaced."""
    try:
        while worker.connection.poll():
            event, text = worker.connection.recv()
            if event == "error":
                raise OutputError(text)
            if event == "start":
                worker.video, worker.since_seconds = text, time.monotonic()
            elif event == "end":
                worker.video = None
                worker.ended += 1
                advance(1)
            else:
                worker.task = None
                return None
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode
        return Problem(worker.video or "", "crashed", f"its process died (exit code {code})")
    waited = time.monotonic() - worker.since_seconds
    if worker.video is not None and waited > video_timeout_seconds:
        return Problem(worker.video, "timeout", f"not done after {video_timeout_seconds:g} s")
    return None


def _without_culprit(worker: _Worker, fault: Problem, advance: Callable[[int], None]) -> ShardTask:
    """Return the task of a lost process, in which the video it was on is skipped."""
    task = worker.task
    if task is None or not fault.id or fault.id in task.skip:
        raise TrainingError(
            f"a packing process stopped outside any video: {fault.text}; "
            "free disk space and memory, then run the same command again."
        )
    advance(-worker.ended)
    return ShardTask(task.path, task.items, task.plan, {**task.skip, fault.id: fault})
