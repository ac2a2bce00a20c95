"""What runs the network on single frames: torch, ONNX Runtime, OpenVINO; and their files."""

from __future__ import annotations

from .make import BACKENDS, TORCH_BACKENDS, check_same, cores_to_use, frame_program, make_engine

__all__ = [
    "BACKENDS",
    "TORCH_BACKENDS",
    "check_same",
    "cores_to_use",
    "frame_program",
    "make_engine",
]
