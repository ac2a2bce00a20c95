"""Memory of this process and all it started, looked at twenty times a second (Linux)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

__all__ = ["PeakMemory"]

_PAUSE_SECONDS = 0.05


class PeakMemory:
    """The largest sum of resident memory seen while the block ran, in ``bytes``.

    ``ru_maxrss`` of children will not do: it counts what a child had before it became another
    program, that is, the memory of its parent.
    """

    def __init__(self) -> None:
        self.bytes = self.before_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self.before_bytes = _resident(os.getpid())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            self.bytes = max(self.bytes, _resident(os.getpid()))


def _resident(process: int, parent: bytes = b"") -> int:
    """Sum over a process and its descendants.

    A child that has not become another program yet, and so has the command line of its parent,
    shares the memory of that and does not count.
    """
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        if command == parent:
            return 0
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        tasks = Path(f"/proc/{process}/task").iterdir()
        children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except (OSError, IndexError):  # it has just ended
        return 0
    own = pages * os.sysconf("SC_PAGE_SIZE")
    return own + sum(_resident(child, command) for child in children)
