"""The network in OpenVINO, on the CPU: float32, bfloat16, or 8-bit integers.

The float32 and bfloat16 networks need no torch; the int8 one is made once by
:mod:`ccl_hub.backends.quantize` and read from its cache.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from .._util.extras import require_packages
from ..errors import InputError
from ..network.frame_maps import FrameMaps
from ..network.stored import StoredNetwork
from .engine import CPU_BATCH_FRAMES, EngineInfo
from .int8_cache import Int8Model
from .runtime import cores_to_use, graph_of, must_work

if TYPE_CHECKING:
    from ..network.architecture import CCLNetwork

PRECISIONS = ("float32", "bfloat16")


class OpenVinoEngine:
    """The network in OpenVINO; see :class:`ccl_hub.backends.engine.Engine`.

    Whether the numbers of float32 are torch's is for :mod:`ccl_hub.backends.parity` to say.

    Args:
        model: As it was stored; or a model of torch in eval mode, float32, on the CPU, whose
            later changes do not count.
        precision: "float32", "bfloat16" (where the CPU computes with it), or the int8 model made
            of this model.
        threads: Most calls computed at once, each on one core; 0 for one per core.

    Raises:
        InputError: An argument is not allowed, or the CPU has no bfloat16.
        ExportError: The package is missing.
        UnknownGraphError: The weights are not those of the architecture, or not finite.
        WeightsError: The int8 model is damaged.
    """

    batch_frames = CPU_BATCH_FRAMES

    def __init__(
        self,
        model: CCLNetwork | StoredNetwork,
        precision: str | Int8Model = "float32",
        threads: int = 0,
    ) -> None:
        if not isinstance(precision, Int8Model) and precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}.")
        self.calls_at_once = cores_to_use(threads)
        graph, self.clip_head = graph_of(model, "openvino")
        with must_work("openvino"):
            core = openvino_core()
            if precision == "bfloat16":
                _require_bfloat16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
            self.model = model
            runtime = f"openvino {import_openvino().get_version()}"
            if isinstance(precision, Int8Model):
                network = core.read_model(*precision.read())
                hash = precision.sha256[:12]
                self.info = EngineInfo("openvino-int8", "cpu", "int8", hash, runtime)
            else:
                network = core.read_model(graph)
                self.info = EngineInfo("openvino", "cpu", precision, runtime=runtime)
            self._run = FrameRunner(network, self.info.dtype, self.calls_at_once)

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        """Compute frames; see :class:`ccl_hub.backends.engine.Engine`."""
        return self._run(frames)


class FrameRunner:
    """A network on single frames, compiled; calls may come from several threads at once.

    Args:
        network: An ``openvino.Model``.
        precision: "float32", "bfloat16" or "int8", where what is not int8 is float32.
        cores: Calls computed at once, each on one core; others wait.
    """

    def __init__(self, network: Any, precision: str, cores: int) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            # By default every process binds its threads to the first cores of the machine.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = openvino_core().compile_model(network, "CPU", settings)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(cores):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, frames: np.ndarray) -> FrameMaps:
        """Compute (n,S,S,3) uint8 frames."""
        request = self._idle.get()
        try:
            outputs = request.infer([frames])  # copies, so that the request can be used again
        finally:
            self._idle.put(request)
        return FrameMaps(outputs[0], outputs[1])


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    Raises:
        ExportError: It is not installed.
    """
    require_packages("this backend", ["openvino"], "openvino", "use the backend torch")
    with without_telemetry():
        return import_module("openvino")


def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of this process, which lives as long as it does.

    Each Core with a CPU plugin gives the thread that loads it another stack for signals, and puts
    the one before back when it goes. Two that do not go in the reverse order leave a stack that is
    gone, on which the next signal, such as Ctrl-C, ends the process by SIGSEGV.

    Raises:
        ExportError: OpenVINO is not installed.
    """
    import_openvino()
    with _making_core:  # the cache alone would let two threads make one each
        return _core()


_making_core = threading.Lock()


@cache
def _core() -> Any:
    core = import_openvino().Core()
    core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")  # loads the plugin
    return core


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Let packages be imported as if ``openvino_telemetry`` were not installed.

    Its import alone would report to a server and write to the home folder. What the caller has
    imported before stays as it is.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _require_bfloat16(capabilities: Sequence[str]) -> None:
    if "BF16" not in capabilities:
        raise InputError(
            f"this CPU has no bfloat16 (it has {', '.join(sorted(capabilities))}); allowed here: "
            "the backends openvino and openvino-int8."
        )
