"""What engines of CPU runtimes ask of their arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._util.machine import cpu_count
from ..errors import CCLError, ExportError, InputError
from ..network.frame_maps import ClipHead
from ..network.stored import StoredNetwork
from .frame_onnx import frame_onnx

if TYPE_CHECKING:
    from ..network.architecture import CCLNetwork


def graph_of(model: CCLNetwork | StoredNetwork, backend: str) -> tuple[bytes, ClipHead]:
    """Return a model's :func:`~ccl_hub.backends.frame_onnx.frame_onnx` graph.

    Raises:
        InputError: It is not in float32, not on the CPU, or in training mode.
        UnknownGraphError: Its weights are not those of its architecture, or not finite.
    """
    if isinstance(model, StoredNetwork):
        return frame_onnx(model.config, model.arrays)
    check_model(model, backend)
    arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return frame_onnx(model.config, arrays)


@contextmanager
def must_work(backend: str) -> Iterator[None]:
    """Tell a runtime that is installed and does not work from other errors.

    Raises:
        ExportError: It cannot be imported, or cannot take the graph.
    """
    try:
        yield
    except (MemoryError, CCLError):
        raise
    except Exception as error:  # the classes of runtimes have no other base
        raise ExportError(
            f"the backend {backend} does not work here ({error}); use the backend torch, or "
            "install its package again."
        ) from error


def check_model(model: CCLNetwork, backend: str) -> None:
    """Refuse a model that a CPU runtime cannot take over as it is.

    Raises:
        InputError: It is not in float32, not on the CPU, or in training mode.
    """
    if model.training:
        raise InputError("the model is in training mode; call model.eval() before embedding.")
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != "float32" or model.device.type != "cpu":
        raise InputError(
            f"the model is {dtype} on {model.device.type}; the backend {backend} takes float32 on "
            "the CPU: load it without dtype and device, or use the backend torch."
        )


def cores_to_use(threads: int) -> int:
    """Return how many cores ``threads`` means: itself, or for 0 all that this process may use.

    Raises:
        InputError: ``threads`` is below 0.
    """
    if threads < 0:
        raise InputError(f"threads is {threads}; allowed: 0 (every core) or more.")
    return threads or cpu_count()
