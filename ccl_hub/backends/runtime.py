"""What engines of CPU runtimes check, of their arguments and of their numbers."""

from __future__ import annotations

import numpy as np
import torch

from .._util.machine import cpu_count
from ..errors import ExportError, InputError
from ..network.architecture import CCLNetwork
from .engine import Engine
from .torch_engine import TorchEngine
from .tracing import TOLERANCE, relative_difference


def check_model(model: CCLNetwork, backend: str) -> None:
    """Refuse a model that a CPU runtime cannot take over as it is.

    Raises:
        InputError: It is not in float32, not on the CPU, or in training mode.
    """
    if model.training:
        raise InputError("the model is in training mode; call model.eval() before embedding.")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise InputError(
            f"the model is {str(model.dtype).removeprefix('torch.')} on {model.device.type}; the "
            f"backend {backend} takes float32 on the CPU: load it without dtype and device, or "
            "use the backend torch."
        )


def cores_to_use(threads: int) -> int:
    """Return how many cores ``threads`` means: itself, or for 0 all that this process may use.

    Raises:
        InputError: ``threads`` is below 0.
    """
    if threads < 0:
        raise InputError(f"threads is {threads}; allowed: 0 (every core) or more.")
    return threads or cpu_count()


def check_same(engine: Engine) -> None:
    """Compare an engine with torch, on one frame and on several.

    Raises:
        ExportError: Shape or type differ, or the values by more than 1e-4 of the largest.
    """
    side = engine.model.preprocessing.crop_px
    reference = TorchEngine(engine.model)
    for count in (1, 3):
        frames = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
        maps = zip(("vectors", "parts"), engine(frames), reference(frames), strict=True)
        for name, output, expected in maps:
            difference = relative_difference(output, expected)
            if not difference <= TOLERANCE:  # NaN never is
                raise ExportError(
                    f"{engine.info.backend} gives {name} for {count} frames that differ from "
                    f"torch's by {difference:.2g} of the largest value, allowed is "
                    f"{TOLERANCE:g}; use the backend torch, or another version of the runtime."
                )
