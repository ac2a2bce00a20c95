"""Which runtime computes the network: torch, or one of two that are faster on a CPU.

    torch            any device and dtype of the model
    torch-compile    the same fused by torch.compile, for GPUs; the first call takes a minute
    onnx             ONNX Runtime, float32                     pip install 'ccl-hub[onnx]'
    openvino         OpenVINO, float32                         pip install 'ccl-hub[openvino]'
    openvino-bf16    OpenVINO, bfloat16, where the CPU has it
    openvino-int8    OpenVINO, 8-bit integers, calibrated once on real videos and kept on disk

All run :class:`ccl_hub.network.frame_graph.FrameGraph`, so frames, clips and sampling do not
depend on the choice. Each one in float32 is compared with torch when it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..network.architecture import CCLNetwork
from .engine import Engine
from .int8_cache import Int8Model, cache_folder, find_int8, tensors_sha256
from .runtime import check_model
from .torch_engine import TorchEngine

TORCH_BACKENDS = ("torch", "torch-compile")
BACKENDS = (*TORCH_BACKENDS, "onnx", "openvino", "openvino-bf16", "openvino-int8")


def make_engine(
    model: CCLNetwork,
    backend: str = "torch",
    threads: int = 0,
    calibration: Int8Model | Sequence[str | Path] | None = None,
    batch_frames: int | None = None,
) -> Engine:
    """Return what computes a model.

    Args:
        model: A model in eval mode, as :meth:`ccl_hub.CCLModel.from_pretrained` gives it; every
            backend but those of torch needs it in float32 on the CPU.
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
    from .openvino_engine import OpenVinoEngine, import_openvino

    if backend == "openvino-int8":
        check_model(model, backend)
        import_openvino()
        return OpenVinoEngine(model, _int8_model(model, calibration), threads)
    return OpenVinoEngine(model, "bfloat16" if backend == "openvino-bf16" else "float32", threads)


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
