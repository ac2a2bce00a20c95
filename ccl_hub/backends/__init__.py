"""What runs the network on single frames: torch, ONNX Runtime, OpenVINO; and their files."""

from __future__ import annotations

from .engine import Engine, EngineInfo
from .make import BACKENDS, TORCH_BACKENDS, make_engine
from .runtime import check_same, cores_to_use
from .torch_engine import TorchEngine
from .tracing import frame_program

__all__ = [
    "BACKENDS",
    "TORCH_BACKENDS",
    "Engine",
    "EngineInfo",
    "TorchEngine",
    "check_same",
    "cores_to_use",
    "frame_program",
    "make_engine",
]
