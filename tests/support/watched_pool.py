"""A decoding pool whose events are kept, for tests."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ccl_hub.config import Preprocessing
from ccl_hub.decoding.messages import DecodeSettings, Ended, Failed, Job, Planned
from ccl_hub.decoding.pool import Block, DecodePool, Event
from ccl_hub.sampling import ClipPlan, Sampling
from ccl_hub.video import MediaLimits, SourceFacts

PAPER = Preprocessing()
GOOD = ("", "")


class Watched:
    """A pool, and what it tells.

    Args:
        hold: Keep the blocks until :meth:`give_back`.
        settings: Of the workers, and of the pool.
    """

    def __init__(
        self,
        workers: int = 1,
        deadline: float = 60.0,
        hold: bool = False,
        recycle: int = 256,
        **settings: Any,
    ) -> None:
        self.hold, self.held = hold, []
        self.plans: dict[int, ClipPlan] = {}
        self.frames: dict[int, list[np.ndarray]] = {}
        self.over: queue.Queue[tuple[int, tuple[str, str]]] = queue.Queue()
        self.facts: dict[int, SourceFacts] = {}
        self.error: BaseException | None = None
        values = {"preprocessing": PAPER, "sampling": Sampling(), "limits": MediaLimits()}
        values |= settings
        self.pool = DecodePool(DecodeSettings(**values), self._hear, workers, deadline, recycle)

    def _hear(self, event: Event) -> None:
        match event:
            case Planned(number, plan):
                self.plans[number], self.frames[number] = plan, []
            case Block(number, frames, release):
                self.frames[number].append(frames if self.hold else frames.copy())
                self.held.append(event) if self.hold else release()
            case Ended(number, facts):
                self.facts[number] = facts
                self.over.put((number, GOOD))
            case Failed(number, code, reason):
                self.over.put((number, (code, reason)))
            case BaseException():
                self.error = event
                self.over.put((-1, ("broken", str(event))))

    def give_back(self) -> None:
        """Release what is held, and from now on everything at once."""
        self.hold = False
        while self.held:
            self.held.pop(0).release()

    def decode(self, paths: Iterable[Path], first: int = 0) -> list[tuple[str, str]]:
        """Decode some videos; return how each ended, in order."""
        numbers = range(first, first)
        for number, path in enumerate(paths, first):
            self.pool.submit(Job(number, path))
            numbers = range(first, number + 1)
        outcomes: dict[int, tuple[str, str]] = {}
        while len(outcomes) < len(numbers):
            number, outcome = self.over.get(timeout=120)
            assert number not in outcomes, "a video ended twice"
            assert number >= 0, outcome[1]
            outcomes[number] = outcome
        return [outcomes[number] for number in numbers]


@contextmanager
def watched(**options: Any) -> Iterator[Watched]:
    one = Watched(**options)
    try:
        yield one
    finally:
        one.pool.close()
