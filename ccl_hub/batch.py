"""Many videos in, embeddings out, in bounded memory and whatever the videos are.

    paths -> decoding processes -> the network -> results          see :mod:`ccl_hub.pipeline`

Decoding and computing overlap; results come as they are ready.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from .backends import TORCH_BACKENDS, make_engine
from .batch_options import BatchItem, BatchOptions, BatchSource
from .engine import Engine
from .errors import InputError
from .model import CCLModel
from .pipeline import Pipeline
from .sampling import Sampling

__all__ = ["BatchItem", "BatchOptions", "BatchSource", "embed_batch", "embed_many", "engines_for"]

MAX_DEVICES = 64


def embed_many(
    paths: Iterable[str | Path],
    model: str | Path | CCLModel = "ccl_r18_mini",
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    backend: str = "torch",
    options: BatchOptions | None = None,
) -> Iterator[BatchItem]:
    """Embed any number of videos, as an iterator in bounded memory.

    A video that cannot be embedded is an item with a reason; it never ends the iteration, also
    if it crashes or hangs the decoder.

    Args:
        paths: Read as they are needed; may be a generator of millions.
        model: Name, folder or Hub id, or a loaded model in eval mode.
        clips: Clips spread evenly over each video (default 10).
        every_seconds: Instead of ``clips``: a clip starting every so many seconds.
        revision: Of a Hub id.
        device: "auto" and "cuda" take every visible GPU; a loaded model stays where it is.
        dtype: "float32", "bfloat16" or "float16".
        backend: See :func:`ccl_hub.backends.make_engine`.
        options: How the batch is run.

    Yields:
        A :class:`BatchItem` for each path, in the order in which they are ready.

    Raises:
        InputError: An argument is not allowed, or the device has too little memory.
        ModelError: The model cannot be had.

    Example:
        >>> from ccl_hub.golden import golden_clip
        >>> for item in embed_many([golden_clip(), "no.mp4"], clips=2):
        ...     print(item.index, item.code, item.embeddings and item.embeddings.clips.shape)
        1 not_found None
        0  (2, 512)
    """
    if isinstance(paths, str | Path):
        raise InputError(f"paths is {str(paths)!r}; allowed: several paths; put one into a list.")
    wanted, own = Sampling(clips, every_seconds), options or BatchOptions()
    engines = engines_for(model, revision, device, dtype, backend, own)
    return embed_batch((BatchSource(path) for path in paths), engines, wanted, own)


def engines_for(
    model: str | Path | CCLModel,
    revision: str | None,
    device: str,
    dtype: str | torch.dtype | None,
    backend: str,
    options: BatchOptions,
    most: int | None = None,
    calibration: Sequence[str | Path] | None = None,
) -> list[Engine]:
    """Load a model once, and put it on every device that is to be used; see :func:`embed_many`.

    Args:
        model: See :func:`embed_many`.
        revision: Likewise.
        device: Likewise.
        dtype: Likewise.
        backend: Likewise.
        options: Gives the threads.
        most: Devices to use at most.
        calibration: Videos for openvino-int8; see :func:`ccl_hub.backends.make_engine`.
    """
    of_torch = backend in TORCH_BACKENDS
    threads = 0 if of_torch else options.thread_count  # torch's are set lane by lane
    if isinstance(model, CCLModel):
        return [make_engine(model, backend, threads, calibration)]
    if not of_torch and device == "auto":
        device = "cpu"
    net = CCLModel.from_pretrained(model, revision, device=device, dtype=dtype)
    engines = [make_engine(net, backend, threads, calibration)]
    if device in ("auto", "cuda") and net.device.type == "cuda":
        for number in range(1, min(torch.cuda.device_count(), most or MAX_DEVICES)):
            engines.append(make_engine(copy.deepcopy(net).to(f"cuda:{number}"), backend))
    return engines


def embed_batch(
    sources: Iterable[BatchSource],
    engines: list[Engine],
    sampling: Sampling,
    options: BatchOptions,
) -> Generator[BatchItem, None, None]:
    """Embed videos with engines already made; see :func:`embed_many`."""
    with closing(Pipeline(engines, sampling, options)) as pipeline:
        waiting = iter(sources)
        outstanding, index, more = 0, 0, True
        while True:
            while more and outstanding < pipeline.most_outstanding:
                source = next(waiting, None)
                if source is None:
                    more = False
                    break
                pipeline.submit(index, source)
                index, outstanding = index + 1, outstanding + 1
            if not outstanding:
                return
            yield pipeline.result()
            outstanding -= 1
