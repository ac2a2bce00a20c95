"""Many videos in, embeddings out, in bounded memory and whatever the videos are.

:mod:`ccl_hub.batch.pipeline` decodes and computes at the same time; results come as they are
ready.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._util.machine import may_have_gpu
from ..backends.engine import Engine
from ..backends.frame_onnx import UnknownGraphError
from ..backends.make import STORED_BACKENDS, TORCH_BACKENDS, make_engine, runtime_engine
from ..decoding.messages import BLOCK_FRAMES
from ..errors import InputError
from ..hub_options import HubOptions
from ..network.model_files import Source, resolve
from ..network.stored import read_network
from ..registry import DEFAULT_MODEL
from ..sampling import Sampling
from .options import BatchItem, BatchOptions
from .pipeline import Pipeline

if TYPE_CHECKING:
    import torch

    from ..network.architecture import CCLNetwork

logger = logging.getLogger(__name__)

MAX_DEVICES = 64
PATIENCE_SECONDS = 1.0
_NO_MORE: Any = object()


def embed_many(
    paths: Iterable[str | Path],
    model: str | Path | CCLNetwork = DEFAULT_MODEL,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    backend: str = "torch",
    options: BatchOptions | None = None,
    hub: HubOptions | None = None,
) -> Iterator[BatchItem]:
    """Embed any number of videos, as an iterator in bounded memory.

    A video that cannot be embedded is an item with a reason; it never ends the iteration, even if
    it crashes or hangs the decoder.

    Args:
        paths: Read some ahead of the results; may be a generator of millions.
        model: Name, folder or Hub id, or a loaded model in eval mode.
        clips: Clips spread evenly over each video (default 10).
        every_seconds: Instead of ``clips``: a clip starting every so many seconds.
        revision: Revision of a Hub id.
        device: "auto" and "cuda" take every visible GPU; a loaded model stays where it is.
        dtype: "float32", "bfloat16" or "float16".
        backend: See :func:`ccl_hub.backends.make_engine`; or "auto": on a CPU onnx, or
            openvino, where it is installed and gives torch's numbers in float32, else torch.
        options: How the batch is run.
        hub: How the model's files are fetched from the Hub: token, cache, subfolder.

    Yields:
        A :class:`BatchItem` for each path, in the order in which they are ready.

    Raises:
        InputError: An argument is not allowed, or the device has too little memory.
        ModelError: The model cannot be loaded.
        Exception: What reading ``paths`` raised, once the videos before it are done.

    Example:
        >>> from ccl_hub.publish.golden import golden_clip
        >>> for item in embed_many([golden_clip(), "no.mp4"], clips=2):
        ...     print(item.index, item.code, item.embeddings and item.embeddings.clips.shape)
        1 not_found None
        0  (2, 512)
    """
    if isinstance(paths, str | Path):
        raise InputError(f"paths is {str(paths)!r}; allowed: several paths; put one into a list.")
    sampling, options = Sampling(clips, every_seconds), options or BatchOptions()
    engines = engines_for(model, revision, device, dtype, backend, options, hub=hub)
    return embed_batch(paths, engines, sampling, options)


def engines_for(
    model: str | Path | CCLNetwork,
    revision: str | None,
    device: str,
    dtype: str | torch.dtype | None,
    backend: str,
    options: BatchOptions,
    most: int | None = None,
    calibration: Sequence[str | Path] | None = None,
    hub: HubOptions | None = None,
) -> list[Engine]:
    """Load a model once and put it on every device to be used.

    The arguments are those of :func:`ccl_hub.embed_many`, of whose ``options`` ``threads`` and
    ``batch_clips`` count here. At most ``most`` devices are used; ``calibration`` are the videos
    for :func:`ccl_hub.backends.make_engine`.

    Raises:
        InputError: An argument is not allowed, or there is no such device or backend.
        ModelError: The model cannot be loaded.
    """
    if not isinstance(model, str | Path):
        if not hasattr(model, "state_dict"):
            raise InputError(f"model is a {type(model).__name__}; allowed: a name or a CCLModel.")
        return [_engine_of_loaded(model, backend, options, calibration)]
    source = None
    if _needs_no_torch(device, dtype, backend):
        source = resolve(model, revision, hub)
        engine = _engine_of_stored(source, backend, options, calibration)
        if engine is not None:
            return [engine]
    from ..network import weights
    from ..network.architecture import CCLNetwork
    from ..network.devices import resolve_device, resolve_dtype

    if backend not in ("auto", *TORCH_BACKENDS) and device == "auto":
        device = "cpu"
    first_device, dtype = resolve_device(device), resolve_dtype(dtype)
    if source is None:
        source = resolve(model, revision, hub)
        if backend == "auto" and _needs_no_torch(first_device.type, dtype, backend):
            engine = _engine_of_stored(source, backend, options, calibration)  # there is no GPU
            if engine is not None:
                return [engine]
    backend = "torch" if backend == "auto" else backend
    network = weights.load(CCLNetwork, source, first_device, dtype)
    engines = [_engine_of_loaded(network, backend, options, calibration)]
    if device in ("auto", "cuda") and first_device.type == "cuda":
        import torch

        frames = _batch_frames(network, options)
        for number in range(1, min(torch.cuda.device_count(), most or MAX_DEVICES)):
            other = copy.deepcopy(network).to(f"cuda:{number}")
            engines.append(make_engine(other, backend, batch_frames=frames))
    return engines


def _needs_no_torch(device: str, dtype: str | torch.dtype | None, backend: str) -> bool:
    """Whether a runtime for CPUs may compute the model as it was stored."""
    is_float32 = dtype is None or str(dtype).removeprefix("torch.") == "float32"
    if not is_float32 or device not in ("auto", "cpu"):
        return False
    if backend == "auto":
        return device == "cpu" or not may_have_gpu()
    return backend in STORED_BACKENDS


def _engine_of_stored(
    source: Source,
    backend: str,
    options: BatchOptions,
    calibration: Sequence[str | Path] | None,
) -> Engine | None:
    """Return an engine without torch, or None where torch has to compute, or to say why not."""
    try:
        network = read_network(source)
        if backend == "auto":
            return runtime_engine(network, options.thread_count)
        return make_engine(network, backend, options.thread_count, calibration)
    except UnknownGraphError as error:
        logger.info("%s: torch is asked (%s)", source.weights_path, error)
        return None


def _engine_of_loaded(
    model: CCLNetwork,
    backend: str,
    options: BatchOptions,
    calibration: Sequence[str | Path] | None,
) -> Engine:
    """Return the engine of a model of torch."""
    if backend == "auto":
        on_cpu = model.device.type == "cpu" and str(model.dtype) == "torch.float32"
        engine = runtime_engine(model, options.thread_count) if on_cpu else None
        if engine is not None:
            return engine
        backend = "torch"
    threads = 0 if backend in TORCH_BACKENDS else options.thread_count  # torch's, lane by lane
    return make_engine(model, backend, threads, calibration, _batch_frames(model, options))


def _batch_frames(model: CCLNetwork, options: BatchOptions) -> int | None:
    if options.batch_clips is None:
        return None
    return max(BLOCK_FRAMES, options.batch_clips * model.preprocessing.clip_frames)


def embed_batch(
    paths: Iterable[str | Path],
    engines: list[Engine],
    sampling: Sampling,
    options: BatchOptions,
) -> Generator[BatchItem, None, None]:
    """Embed videos with engines already made; see :func:`embed_many`."""
    with closing(embed_patiently(_paths(paths), engines, sampling, options)) as items:
        yield from (item for item in items if item is not None)


def _paths(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    """Refuse None among paths, which would move the results of all that follow."""
    for index, path in enumerate(paths):
        if path is None:
            raise InputError(f"path {index} is None; leave out rows that name no file.")
        yield path


def embed_patiently(
    paths: Iterable[str | Path | None],
    engines: list[Engine],
    sampling: Sampling,
    options: BatchOptions,
) -> Generator[BatchItem | None, None, None]:
    """Like :func:`embed_batch`, but let the caller do other things while nothing is ready.

    ``paths`` may give None while the next video is searched for. Yields results, and None after
    every second without one.
    """
    with closing(Pipeline(engines, sampling, options)) as pipeline:
        unread, more, failed = iter(paths), True, None
        outstanding = index = 0
        last = time.monotonic()
        while more or outstanding:
            reads = more and outstanding < pipeline.most_outstanding
            # Results that are ready do not wait for the next path while more than half of the
            # videos that may be under way are.
            item = pipeline.result(0.0 if reads else PATIENCE_SECONDS)
            while item is not None:
                outstanding -= 1
                yield item
                last = time.monotonic()
                enough = reads and 2 * outstanding > pipeline.most_outstanding
                item = pipeline.result(0.0) if enough else None
            if time.monotonic() - last >= PATIENCE_SECONDS:
                yield None
                last = time.monotonic()
            if not reads:
                continue
            try:
                path = next(unread, _NO_MORE)
            except Exception as error:
                failed, more = error, False
                continue
            if path is _NO_MORE:
                more = False
            elif path is not None:
                pipeline.submit(index, path)
                index, outstanding = index + 1, outstanding + 1
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # its traceback knows this frame
