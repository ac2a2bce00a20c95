"""The network in ONNX Runtime, on the CPU, in float32.

Nothing is written: the graph is exported in memory each time, which takes a few seconds.
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from .._util.extras import require_packages
from ..network.architecture import CCLNetwork
from ..network.frame_graph import FrameGraph, FrameMaps
from .engine import CPU_BATCH_FRAMES, EngineInfo
from .runtime import check_model, check_same, cores_to_use
from .tracing import ONNX_PACKAGES, frame_program, onnx_proto


class OnnxEngine:
    """The network in ONNX Runtime; see :class:`ccl_hub.backends.engine.Engine`.

    A call is computed on the core of the thread that calls: use as many threads as cores.

    Args:
        model: A model in eval mode, float32, on the CPU; it is not changed.
        threads: Most calls computed at once, each on one core; 0 for one per core.

    Raises:
        InputError: The model or ``threads`` are not allowed.
        ExportError: A package is missing, or the runtime gives other numbers than torch.
    """

    def __init__(self, model: CCLNetwork, threads: int = 0) -> None:
        check_model(model, "onnx")
        self.calls_at_once = cores_to_use(threads)
        self._free = threading.Semaphore(self.calls_at_once)
        require_packages("the backend onnx", ONNX_PACKAGES, "onnx", "use the backend torch")
        import onnxruntime

        self.model = model
        self.info = EngineInfo("onnx", "cpu", "float32")
        self.batch_frames = CPU_BATCH_FRAMES
        self.clip_head = FrameGraph(model).clip_head
        proto = onnx_proto(frame_program(model), ["frames"], ["vectors", "parts"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        check_same(self)

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        """Compute frames; see :class:`ccl_hub.backends.engine.Engine`."""
        with self._free:
            vectors, parts = self._session.run(["vectors", "parts"], {"frames": frames})
        return FrameMaps(torch.from_numpy(vectors), torch.from_numpy(parts))
