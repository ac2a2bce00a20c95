"""What runs the network on single frames: torch, ONNX Runtime, OpenVINO; and their files."""

from .engine import Engine, EngineInfo
from .export import Exported, export_model
from .int8_cache import Int8Model, find_int8
from .make import BACKENDS, TORCH_BACKENDS, make_engine
from .quantize import build_int8
from .runtime import check_same, cores_to_use
from .torch_engine import TorchEngine
from .tracing import frame_program

__all__ = [
    "BACKENDS",
    "TORCH_BACKENDS",
    "Engine",
    "EngineInfo",
    "Exported",
    "Int8Model",
    "TorchEngine",
    "build_int8",
    "check_same",
    "cores_to_use",
    "export_model",
    "find_int8",
    "frame_program",
    "make_engine",
]
