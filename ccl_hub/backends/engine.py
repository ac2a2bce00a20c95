"""What runs the network on frames, whatever the runtime: the protocol, and what engines share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import InputError, ModelError
from ..network.frame_maps import ClipHead, FrameMaps
from ..network.stored import NetworkFacts

CPU_BATCH_FRAMES = 16
"""Frames computed at once on a CPU core: more fall out of its cache (62 against 45 frames/s)."""


@dataclass(frozen=True)
class EngineInfo:
    """What decides the numbers of an engine, for provenance.

    Args:
        backend: One of :data:`ccl_hub.backends.BACKENDS`.
        device: Kind of device: "cpu", "cuda" or "mps".
        dtype: Type in which it computes, such as "float32".
        detail: Hash of a quantised model, or "".
        runtime: What computes, and its version, such as "onnxruntime 1.32.0".
    """

    backend: str
    device: str
    dtype: str
    detail: str = ""
    runtime: str = ""


class Engine(Protocol):
    """Runs the network on single frames; several threads may call at once."""

    @property
    def model(self) -> NetworkFacts:
        """The model that is run: its preprocessing, name and hash."""

    @property
    def info(self) -> EngineInfo:
        """What decides the numbers."""

    @property
    def batch_frames(self) -> int:
        """Frames at once that suit the device."""

    @property
    def calls_at_once(self) -> int:
        """Calls that are computed side by side, each on a core of its own."""

    @property
    def clip_head(self) -> ClipHead:
        """What makes clip vectors of the parts, on their device."""

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        """Compute (n, S, S, 3) uint8 RGB frames, S = ``preprocessing.crop_px``.

        Raises:
            InputError: The device has too little memory for so many frames.
        """


@contextmanager
def memory_is_enough() -> Iterator[None]:
    """Tell too little memory, of a device or of the machine, from other errors of torch.

    Raises:
        InputError: The device has too little memory.
        MemoryError: The machine has too little memory, as torch reports it on the CPU.
    """
    try:
        yield
    except RuntimeError as error:  # torch's OutOfMemoryError is one; torch need not be here
        first_line = str(error).partition("\n")[0]
        if type(error).__name__ == "OutOfMemoryError":
            raise InputError(
                f"the device has too little memory ({first_line}); use a smaller batch_size "
                "(batch_clips of a batch), or close what else uses it."
            ) from error
        if "allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise MemoryError(first_line) from error


def check_finite(engine: Engine, *vectors: np.ndarray) -> None:
    """Refuse vectors that a dtype or weights have spoiled.

    Raises:
        ModelError: A vector holds NaN or infinity.
    """
    if not all(np.isfinite(array).all() for array in vectors):
        raise ModelError(
            f"the model {engine.model.name!r} gives NaN or infinity in {engine.info.dtype}; use "
            "float32 or bfloat16, or other weights."
        )
