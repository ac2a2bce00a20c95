"""What the pool and a decoding process say to each other, in this order.

    to the worker      DecodeSettings; then Job and Free, any number of them; None to end
    from the worker    Ready; then for each Job: Planned, any number of Decoded, Ended

``Failed`` may come instead of the rest of a job, and another ``Planned`` starts the job over.
What a worker says is read by :mod:`.wire`, which trusts none of it.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..config import Preprocessing
from ..sampling import ClipPlan, Sampling
from ..video.info import SourceFacts
from ..video.open import MediaLimits
from .confinement import Walls
from .sandbox import Sandbox

BLOCK_FRAMES = 16
"""Frames handed over at once; what one CPU core computes best together."""


@dataclass(frozen=True)
class DecodeSettings:
    """What every worker of a batch does alike.

    Args:
        preprocessing: Preprocessing of the model.
        sampling: Which clips are embedded.
        limits: Largest media accepted.
        threads: Decoder threads of one worker.
        memory_bytes: Memory a worker may take beyond what it starts with; None for any. Enforced
            on Linux only.
        slots: Blocks of frames that a worker may be ahead of the network.
        sandbox: Whether a worker is confined.
    """

    preprocessing: Preprocessing
    sampling: Sampling
    limits: MediaLimits
    threads: int = 1
    memory_bytes: int | None = None
    slots: int = 16
    sandbox: Sandbox = "auto"

    @property
    def gets_descriptors(self) -> bool:
        """Whether a worker gets each video open, by a descriptor behind its :class:`Job`."""
        return sys.platform == "linux" and self.sandbox != "off"

    @property
    def ring_shape(self) -> tuple[int, int, int, int, int]:
        """(slots, BLOCK_FRAMES, S, S, 3): the uint8 frames that a worker shares with the pool."""
        side = self.preprocessing.crop_px
        return self.slots, BLOCK_FRAMES, side, side, 3

    @property
    def ring_bytes(self) -> int:
        """Their size."""
        return math.prod(self.ring_shape)


@dataclass(frozen=True)
class Job:
    """One video to decode.

    Args:
        number: Names it in messages.
        path: The file.
        decode_index: Whether its frames are listed by decoding them; None to do that only if some
            of those listed otherwise cannot be decoded.
        sampling: Its clips, if they are not those of the settings.
    """

    number: int
    path: Path
    decode_index: bool | None = None
    sampling: Sampling | None = None


class Free(NamedTuple):
    """The network has taken the block in this slot of the ring."""

    slot: int


class Ready(NamedTuple):
    """The process has started, and these walls are around it.

    ``is_watched``: a descriptor for :class:`.confinement.Refusals` follows.
    """

    walls: Walls = Walls()
    is_watched: bool = False


class Planned(NamedTuple):
    """Decoding begins, or begins again: these are the clips."""

    job: int
    plan: ClipPlan


class Decoded(NamedTuple):
    """The next ``frames`` frames of the plan, each once and in order, are in this slot."""

    job: int
    slot: int
    frames: int


class Ended(NamedTuple):
    """All frames have been sent."""

    job: int
    facts: SourceFacts


class Failed(NamedTuple):
    """The video cannot be decoded."""

    job: int
    code: str
    reason: str


ToWorker = DecodeSettings | Job | Free | None
FromWorker = Ready | Planned | Decoded | Ended | Failed
