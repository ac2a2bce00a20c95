"""What runs the network on single frames: torch, ONNX Runtime, OpenVINO; and their files."""

from typing import TYPE_CHECKING

from .._util.lazy import lazy_names

if TYPE_CHECKING:
    from .engine import Engine, EngineInfo
    from .export import Exported, export_model
    from .int8_cache import Int8Model, find_int8
    from .make import BACKENDS, TORCH_BACKENDS, make_engine
    from .parity import check_same
    from .quantize import build_int8
    from .runtime import cores_to_use
    from .torch_engine import TorchEngine

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
    "make_engine",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".engine": ["Engine", "EngineInfo"],
        ".export": ["Exported", "export_model"],
        ".int8_cache": ["Int8Model", "find_int8"],
        ".make": ["BACKENDS", "TORCH_BACKENDS", "make_engine"],
        ".parity": ["check_same"],
        ".quantize": ["build_int8"],
        ".runtime": ["cores_to_use"],
        ".torch_engine": ["TorchEngine"],
    },
)
