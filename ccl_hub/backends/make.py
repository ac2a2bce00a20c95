"""Which runtime computes the network: torch, or one of two that are faster on a CPU.

    torch            any device and dtype of the model
    torch-compile    the same fused by torch.compile, for GPUs; the first call takes a minute
    onnx             ONNX Runtime, float32                     pip install 'ccl-hub[onnx]'
    openvino         OpenVINO, float32                         pip install 'ccl-hub[openvino]'
    openvino-bf16    OpenVINO, bfloat16, where the CPU has it
    openvino-int8    OpenVINO, 8-bit integers, calibrated once on real videos and kept on disk

All run :class:`ccl_hub.backends.engine.FrameGraph`, so frames, clips and sampling do not depend on
the choice. Of the float32 ones each is compared with torch when it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._util.machine import cpu_count
from ..errors import ExportError, InputError
from .engine import Engine, FrameGraph, TorchEngine
from .export import TOLERANCE, relative_difference, trace

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from ..model import CCLModel
    from .int8_cache import Int8Model

__all__ = [
    "BACKENDS",
    "TORCH_BACKENDS",
    "check_same",
    "cores_to_use",
    "frame_program",
    "make_engine",
]

OPENVINO_PRECISIONS = {
    "openvino": "float32",
    "openvino-bf16": "bfloat16",
    "openvino-int8": "int8",
}
TORCH_BACKENDS = ("torch", "torch-compile")
BACKENDS = (*TORCH_BACKENDS, "onnx", *OPENVINO_PRECISIONS)


def make_engine(
    model: CCLModel,
    backend: str = "torch",
    threads: int = 0,
    calibration: Int8Model | Sequence[str | Path] | None = None,
    batch_frames: int | None = None,
) -> Engine:
    """Return what computes a model.

    Args:
        model: In eval mode, as :meth:`CCLModel.from_pretrained` gives it; for every backend but
            those of torch in float32 on the CPU.
        backend: One of :data:`BACKENDS`.
        threads: Cores to use, each for one call at a time; 0 for all. Callers bring the threads
            that call. Torch has one such number for the whole process,
            ``torch.set_num_threads``, and takes no other.
        calibration: Of ``openvino-int8`` alone: videos to calibrate on, unless the cache holds
            the int8 model already; or an int8 model. None takes it from the cache.
        batch_frames: Frames at once, of torch's backends; None for what suits the device. What
            torch-compile gets is cut and filled up to it.

    Raises:
        InputError: Unknown backend; model, threads or calibration do not suit it; the CPU cannot
            do it; or there is no int8 model.
        ExportError: A package is missing, or the runtime gives other numbers than torch.
        WeightsError: The int8 model in the cache is damaged.

    Example:
        >>> from ccl_hub import CCLModel
        >>> make_engine(CCLModel().eval()).info.backend
        'torch'
    """
    if isinstance(model, str | Path):
        raise InputError(f"model is {str(model)!r}; load it first: CCLModel.from_pretrained(...).")
    if backend not in BACKENDS:
        raise InputError(f"backend is {backend!r}; allowed: {', '.join(BACKENDS)}.")
    if calibration is not None and backend != "openvino-int8":
        raise InputError(
            f"calibration was given for the backend {backend!r}; only openvino-int8 needs it."
        )
    if backend in TORCH_BACKENDS:
        if threads:
            raise InputError(
                f"threads is {threads} for the backend {backend}; allowed: 0. Call "
                "torch.set_num_threads() for the whole process instead."
            )
        return TorchEngine(model, backend == "torch-compile", batch_frames)
    if backend == "onnx":
        from .onnx_engine import OnnxEngine

        return OnnxEngine(model, threads)
    from .openvino_engine import OpenVinoEngine

    return OpenVinoEngine(model, OPENVINO_PRECISIONS[backend], threads, calibration)


def check_model(model: CCLModel, backend: str) -> None:
    """Refuse a model that a CPU runtime cannot take over as it is.

    Raises:
        InputError: Not in float32, not on the CPU, or in training mode.
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
        InputError: Below 0.
    """
    if threads < 0:
        raise InputError(f"threads is {threads}; allowed: 0 (every core) or more.")
    return threads or cpu_count()


def frame_program(model: CCLModel) -> ExportedProgram:
    """Trace :class:`FrameGraph` for any number of frames: frames -> vectors, parts."""
    side = model.preprocessing.crop_px
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    axes = {"frames": {0: torch.export.Dim("n", min=1)}}
    with torch.no_grad():
        return trace(FrameGraph(model).eval(), example, axes)


def check_same(engine: Engine) -> None:
    """Compare an engine with torch, on one frame and on several.

    Raises:
        ExportError: Another shape or type, or a difference above 1e-4 of the largest value.
    """
    side = engine.model.preprocessing.crop_px
    wanted = TorchEngine(engine.model)
    for count in (1, 3):
        frames = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
        for name, one, other in zip(
            ("vectors", "parts"), engine(frames), wanted(frames), strict=True
        ):
            difference = float("inf")
            if one.shape == other.shape and one.dtype == other.dtype:
                difference = relative_difference(one, other)
            if not difference <= TOLERANCE:  # NaN never is
                raise ExportError(
                    f"{engine.info.backend} gives {name} for {count} frames that differ from "
                    f"torch's by {difference:.2g} of the largest value, allowed is "
                    f"{TOLERANCE:g}; use the backend torch, or another version of the runtime."
                )
