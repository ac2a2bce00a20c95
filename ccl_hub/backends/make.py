"""Which runtime computes the network: torch, or one of two that are faster on a CPU.

    torch            any device and dtype of the model
    torch-compile    the same fused by torch.compile, for GPUs; the first call takes a minute
    onnx             ONNX Runtime, float32                     pip install 'ccl-hub[onnx]'
    openvino         OpenVINO, float32                         pip install 'ccl-hub[openvino]'
    openvino-bf16    OpenVINO, bfloat16, where the CPU has it
    openvino-int8    OpenVINO, 8-bit integers, calibrated once on real videos and kept on disk

All compute the same of single frames, so clips and sampling do not depend on the choice. Those in
float32 have been compared with torch; :mod:`ccl_hub.backends.parity` says how. ``auto`` is not one
more: :func:`runtime_engine` chooses.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .._util.machine import cache_folder
from ..errors import ExportError, InputError
from ..network.stored import StoredNetwork, tensors_sha256
from .engine import Engine
from .frame_onnx import UnknownGraphError
from .int8_cache import Int8Model, find_int8
from .parity import check_same
from .runtime import check_model

if TYPE_CHECKING:
    from ..network.architecture import CCLNetwork

logger = logging.getLogger(__name__)

TORCH_BACKENDS = ("torch", "torch-compile")
STORED_BACKENDS = ("onnx", "openvino", "openvino-bf16")
"""Backends that compute a :class:`~ccl_hub.network.stored.StoredNetwork`, without torch."""
FLOAT32_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""What ``auto`` takes on a CPU, that which starts sooner first, and the package of each."""
BACKENDS = (*TORCH_BACKENDS, "onnx", "openvino", "openvino-bf16", "openvino-int8")


def make_engine(
    model: CCLNetwork | StoredNetwork,
    backend: str = "torch",
    threads: int = 0,
    calibration: Int8Model | Sequence[str | Path] | None = None,
    batch_frames: int | None = None,
) -> Engine:
    """Return what computes a model.

    Args:
        model: A model in eval mode, as :meth:`ccl_hub.CCLModel.from_pretrained` gives it; every
            backend but those of torch needs it in float32 on the CPU. For one of
            :data:`STORED_BACKENDS` also a model as it was stored.
        backend: One of :data:`BACKENDS`.
        threads: Cores to use, each for one call at a time, made by a thread of the caller; 0 for
            all. Torch has one number for the whole process, ``torch.set_num_threads``, and only
            0 is allowed here.
        calibration: For ``openvino-int8`` alone: videos to calibrate on, unless the cache holds
            the int8 model already; or an int8 model. None takes it from the cache.
        batch_frames: Frames at once, for torch's backends; None for what suits the device. For
            torch-compile batches are cut and filled up to this size.

    Raises:
        InputError: The backend is unknown; the model, ``threads``, ``calibration`` or the CPU do
            not suit it; or there is no int8 model.
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
            f"calibration was given for the backend {backend!r}; only openvino-int8 needs it; "
            "leave it out."
        )
    if isinstance(model, StoredNetwork):
        if backend not in STORED_BACKENDS:
            raise InputError(f"the backend {backend} needs torch; load {model.name!r} with it.")
        return _runtime_engine(model, backend, threads)
    if backend in TORCH_BACKENDS:
        if threads:
            raise InputError(
                f"threads is {threads} for the backend {backend}; allowed: 0. Call "
                "torch.set_num_threads() for the whole process instead."
            )
        from .torch_engine import TorchEngine

        return TorchEngine(model, backend == "torch-compile", batch_frames)
    if backend == "openvino-int8":
        from .openvino_engine import OpenVinoEngine, import_openvino

        check_model(model, backend)
        import_openvino()
        return OpenVinoEngine(model, _int8_model(model, calibration), threads)
    return _runtime_engine(model, backend, threads)


def runtime_engine(model: CCLNetwork | StoredNetwork, threads: int = 0) -> Engine | None:
    """Return the first installed runtime in float32 whose numbers are torch's, if there is one.

    Args:
        model: As it was stored, or in float32 on the CPU.
        threads: See :func:`make_engine`.
    """
    for backend, package in FLOAT32_RUNTIMES.items():
        if importlib.util.find_spec(package) is None:
            continue
        try:
            return make_engine(model, backend, threads)
        except ExportError as error:
            logger.warning("%s", error)
        except UnknownGraphError as error:
            logger.info("%s: torch is asked (%s)", model.name, error)
            return None
    return None


def _runtime_engine(model: CCLNetwork | StoredNetwork, backend: str, threads: int) -> Engine:
    """Return an engine of a runtime for CPUs, compared with torch if it is to be the same."""
    engine: Engine
    if backend == "onnx":
        from .onnx_engine import OnnxEngine

        engine = OnnxEngine(model, threads)
    else:
        from .openvino_engine import OpenVinoEngine

        precision = "bfloat16" if backend == "openvino-bf16" else "float32"
        engine = OpenVinoEngine(model, precision, threads)
    if backend in FLOAT32_RUNTIMES:
        check_same(engine)
    return engine


def _int8_model(
    model: CCLNetwork, calibration: Int8Model | Sequence[str | Path] | None
) -> Int8Model:
    """Return the int8 model to use: the one given, the one in the cache, or a new one."""
    if isinstance(calibration, Int8Model):
        facts = calibration.facts
        expected = tensors_sha256(model), model.config.fingerprint()
        if (facts.tensors_sha256, facts.config_fingerprint) != expected:
            raise InputError(
                f"{calibration.path}: made of {facts.model!r}, whose weights or preprocessing "
                f"are not those of {model.name!r}; build one with build_int8(model, videos)."
            )
        return calibration
    if calibration is not None:
        from .quantize import build_int8

        return build_int8(model, calibration)
    cached = find_int8(model)
    if cached is None:
        raise InputError(
            f"there is no int8 model of {model.name!r} in {cache_folder()}; make one with "
            "'ccl-hub quantize MODEL VIDEOS' or "
            "ccl_hub.backends.quantize.build_int8(model, videos)."
        )
    return cached
