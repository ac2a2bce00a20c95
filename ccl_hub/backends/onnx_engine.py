"""The network in ONNX Runtime, on the CPU, in float32; torch is not needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from .._util.extras import require_packages
from ..network.frame_maps import FrameMaps
from ..network.stored import StoredNetwork
from .engine import CPU_BATCH_FRAMES, EngineInfo
from .runtime import cores_to_use, graph_of, must_work

if TYPE_CHECKING:
    from ..network.architecture import CCLNetwork


class OnnxEngine:
    """The network in ONNX Runtime; see :class:`ccl_hub.backends.engine.Engine`.

    A call is computed on the core of the thread that calls: use as many threads as cores. Whether
    the numbers are torch's is for :mod:`ccl_hub.backends.parity` to say.

    Args:
        model: As it was stored; or a model of torch in eval mode, float32, on the CPU, whose
            later changes do not count.
        threads: Most calls computed at once, each on one core; 0 for one per core.

    Raises:
        InputError: The model or ``threads`` are not allowed.
        ExportError: The package is missing.
        UnknownGraphError: The weights are not those of the architecture, or not finite.
    """

    batch_frames = CPU_BATCH_FRAMES

    def __init__(self, model: CCLNetwork | StoredNetwork, threads: int = 0) -> None:
        self.calls_at_once = cores_to_use(threads)
        self._free = threading.Semaphore(self.calls_at_once)
        require_packages("the backend onnx", ["onnxruntime"], "onnx", "use the backend torch")
        graph, self.clip_head = graph_of(model, "onnx")
        with must_work("onnx"):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        self.model = model
        runtime = f"onnxruntime {onnxruntime.__version__}"
        self.info = EngineInfo("onnx", "cpu", "float32", runtime=runtime)

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        """Compute frames; see :class:`ccl_hub.backends.engine.Engine`."""
        try:
            with self._free:
                return FrameMaps(*self._session.run(["vectors", "parts"], {"frames": frames}))
        except Exception as error:  # the runtime's classes have no other base
            if "allocate memory" not in str(error):
                raise
            raise MemoryError(str(error).partition("\n")[0]) from error
