"""A decoding pool whose events are kept, for tests."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ccl_hub.config import Preprocessing
from ccl_hub.decoding.messages import DecodeSettings, Job
from ccl_hub.decoding.pool import Block, DecodeEvents, DecodePool
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
        events = DecodeEvents(
            plan=self._plan,
            frames=self._frames,
            end=self._end,
            failed=lambda number, code, reason: self.over.put((number, (code, reason))),
            broken=self._broken,
        )
        values |= settings
        self.pool = DecodePool(DecodeSettings(**values), events, workers, deadline, recycle)

    def _plan(self, number: int, plan: ClipPlan) -> None:
        self.plans[number], self.frames[number] = plan, []

    def _frames(self, number: int, block: Block) -> None:
        self.frames[number].append(block.frames if self.hold else block.frames.copy())
        self.held.append(block) if self.hold else block.release()

    def _end(self, number: int, facts: SourceFacts) -> None:
        self.facts[number] = facts
        self.over.put((number, GOOD))

    def _broken(self, error: BaseException) -> None:
        self.error = error
        self.over.put((-1, ("broken", str(error))))

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
