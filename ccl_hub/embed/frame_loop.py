"""The network over the frames of one video: some at a time, on every core, and clips of them.

frames -> batches -> engine -> windows    for many videos: :mod:`ccl_hub.batch.pipeline`
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from .._util.checks import whole_number
from .._util.prefetch import in_order
from ..backends.engine import Engine, check_finite, memory_is_enough
from ..backends.make import make_engine
from ..crop import center_crop
from ..errors import DecodeError
from ..network.windows import ClipVectors, WindowAssembler

if TYPE_CHECKING:
    from ..network.architecture import CCLNetwork

    Network: TypeAlias = CCLNetwork | Engine

SHARED_FRAMES = 8
"""Frames in a call where several cores share one video, so that all end at about the same time."""

MOST_CPU_FRAMES = 128
"""Frames that torch computes at once on a CPU with many cores; each takes 4 MB."""


def engine_of(model: Network) -> Engine:
    """Return an engine for a model; an engine is returned as it is.

    Raises:
        InputError: The model is in training mode, or not loaded.
    """
    if hasattr(model, "clip_head"):
        return cast("Engine", model)
    return make_engine(cast("CCLNetwork", model))


def frames_at_once(engine: Engine, batch_size: int | None) -> int:
    """Return how many frames go through the network at once.

    Args:
        engine: Says what suits it, except torch on a CPU, which takes all threads for a video.
        batch_size: Clips at once, or None for what suits the engine.

    Raises:
        InputError: ``batch_size`` is not a whole number >= 1.
    """
    if batch_size is not None:
        return whole_number("batch_size", batch_size) * engine.model.preprocessing.clip_frames
    if engine.calls_at_once > 1:
        return min(engine.batch_frames, SHARED_FRAMES)
    if engine.info.backend != "torch" or engine.info.device != "cpu":
        return engine.batch_frames
    import torch

    return min(engine.batch_frames * torch.get_num_threads(), MOST_CPU_FRAMES)


def assembled(
    engine: Engine,
    windows: WindowAssembler,
    frames: Iterator[np.ndarray],
    batch_frames: int,
) -> Iterator[ClipVectors]:
    """Compute frames and yield the windows that become whole.

    Args:
        engine: Computes (n,S,S,3) uint8 frames.
        windows: Makes the windows, and says which frames it needs.
        frames: These frames, in order, (h,w,3) uint8 RGB, resized but not cropped.
        batch_frames: Most frames n in a call.

    Raises:
        DecodeError: There are too few frames.
        InputError: The device has too little memory for so many at once.
        MemoryError: This machine has too little memory.
        ModelError: The model gives NaN or infinity.
    """
    crop_px = engine.model.preprocessing.crop_px
    cropped = (center_crop(frame, crop_px) for frame in frames)
    at_once = engine.calls_at_once
    # Where a call takes one core, as many run as there are; one more waits, so that none idles.
    threads = 0 if at_once == 1 else at_once
    batches = _batches(cropped, batch_frames)
    for maps in in_order(engine, batches, threads=threads, ahead=at_once, name="ccl-call"):
        with memory_is_enough():
            for piece in windows.add_in_pieces(maps):
                if len(piece.clips):
                    check_finite(engine, *piece)
                    yield piece
    if not windows.finished:
        raise DecodeError("a frame was promised by the index but never decoded.")


def _batches(frames: Iterator[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """Yield (n,S,S,3) frames, n at most ``most``."""
    while batch := list(islice(frames, most)):
        yield np.stack(batch)
