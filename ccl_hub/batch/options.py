"""What goes into a batch and what comes out of it; importing it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._util import machine
from .._util.checks import whole_number
from ..decoding import sandbox
from ..decoding.sandbox import Sandbox
from ..errors import InputError

if TYPE_CHECKING:
    from ..embed.embeddings import Embeddings
    from ..video.open import MediaLimits

DEFAULT_DEADLINE_SECONDS = 600.0
LEAST_WORKER_BYTES = 128 << 20


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run; nothing here changes an embedding beyond rounding.

    Args:
        workers: Decoding processes; None for one a core.
        threads: Threads of the network on a CPU; None for one a core.
        deadline_seconds: Longest that decoding one video may take.
        memory_bytes: Memory that a decoding process may take, 128 MiB at least; None for a fair
            share, 4 GiB at most. Enforced on Linux only.
        limits: Largest media accepted.
        frames: Also give the vectors of frames; without them long videos with dense windows take
            little memory.
        batch_clips: Frames that go through the network at once, as a number of clips; 16 frames
            at least, and None for what suits the device.
        sandbox: "auto" confines decoding as well as the system can; "require" refuses to run
            where it cannot do so fully; "off" gives decoders the rights of the caller
            (SECURITY.md).
    """

    workers: int | None = None
    threads: int | None = None
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS
    memory_bytes: int | None = None
    limits: MediaLimits | None = None
    frames: bool = True
    batch_clips: int | None = None
    sandbox: Sandbox = "auto"

    def __post_init__(self) -> None:
        for name, least in (
            ("workers", 1),
            ("threads", 1),
            ("memory_bytes", LEAST_WORKER_BYTES),
            ("batch_clips", 1),
        ):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least)
        if not 0 < self.deadline_seconds < float("inf"):
            raise InputError(
                f"deadline_seconds is {self.deadline_seconds}; allowed: more than 0 seconds."
            )
        sandbox.check(self.sandbox)

    @property
    def worker_count(self) -> int:
        """Decoding processes on this machine."""
        return self.workers or machine.worker_count()

    @property
    def thread_count(self) -> int:
        """Threads of the network on this machine's CPU."""
        return self.threads or machine.cpu_count()

    @property
    def worker_bytes(self) -> int | None:
        """Memory of a decoding process on this machine."""
        return self.memory_bytes or machine.worker_bytes(self.worker_count)


@dataclass(frozen=True, eq=False)
class BatchItem:
    """What became of one video.

    Args:
        index: Its position among the paths, from 0; results come as they are ready.
        path: The path as it was passed in.
        embeddings: The result; None if it failed.
        code: "" if there is a result; else why there is none, a short word that never changes: a
            code of :class:`ccl_hub.errors.MediaError`, "crashed", "timeout", "unreadable",
            "internal" (an unforeseen error) or "not_finite".
        reason: The same in words.
        sandbox: How well its decoder was confined: "full", "files only" or "none"; "" where the
            video was not decoded.
    """

    index: int
    path: str | Path
    embeddings: Embeddings | None
    code: str = ""
    reason: str = ""
    sandbox: str = ""
