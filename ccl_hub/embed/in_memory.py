"""Frames and images that are already in memory: arrays, tensors and PIL images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..config import Preprocessing
from ..decoding.one_video import Decode
from ..errors import InputError
from ..network.windows import WindowAssembler
from ..sampling import Sampling
from ..video.bars import MOST_FRAMES, BarFinder
from ..video.open import MediaLimits
from ..video.pixels import resize_rgb
from .embeddings import Embeddings
from .frame_loop import assembled, engine_of, frames_at_once
from .results import gather, make_provenance
from .stream import embed_video

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from .frame_loop import Network

ImageLike: TypeAlias = "str | Path | np.ndarray | Image"


def embed_frames(
    model: Network,
    frames: np.ndarray,
    seconds: Sequence[float] | np.ndarray,
    *,
    clips: int | None = None,
    every_seconds: float | None = None,
    batch_size: int | None = None,
) -> Embeddings:
    """Embed frames that are already in memory, through the same resize as files.

    ``frames`` are (N, H, W, 3) uint8 RGB, N >= 1; ``seconds`` their (N,) ascending presentation
    times. The rest is as in :func:`embed_video`.

    Returns:
        :class:`Embeddings`. The last frame is taken to last as long as the one before it.

    Raises:
        InputError: Shape, dtype, order or number of times is not allowed.
        MediaLimitError: ``every_seconds`` makes too many windows of them.
        ModelError: The model gives NaN or infinity.
    """
    sampling, engine = Sampling(clips, every_seconds), engine_of(model)
    batch_frames = frames_at_once(engine, batch_size)
    frames = _as_array(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise InputError(
            f"frames are {frames.dtype} of shape {frames.shape}; "
            "allowed: uint8 (N, H, W, 3) RGB with N >= 1."
        )
    times = np.asarray(seconds, dtype=np.float64)
    if times.shape != (len(frames),) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise InputError(
            f"seconds have shape {times.shape} for {len(frames)} frames; "
            "allowed: one finite, ascending time for each frame."
        )
    times = times - times[0]
    duration = float(times[-1] + (times[-1] - times[-2] if len(times) > 1 else 0.0))
    pre = engine.model.preprocessing
    plan = sampling.plan(times, duration, pre, MediaLimits().max_windows)
    windows = WindowAssembler(plan.indices, engine.clip_head)
    if pre.bars == "cut":
        frames = _without_bars(frames, pre)
    small = (resize_rgb(frames[i : i + 1], pre)[0] for i in windows.frames)
    pieces = assembled(engine, windows, small, batch_frames)
    provenance = make_provenance(engine, sampling)
    provenance = replace(provenance, source_frames=len(frames), duration_seconds=duration)
    return gather(pieces, plan, lambda: provenance)


def embed_image(model: Network, image: ImageLike, *, decode: Decode = "auto") -> Embeddings:
    """Embed one still image, as a video of one frame (one clip, W = 1).

    A file with several frames (an animation, a video) gives the one clip in its middle.

    Args:
        model: See :func:`embed_video`.
        image: A file, a uint8 (H, W, 3) RGB array, or a PIL image of 8 bits a channel, which is
            treated as its file would be: turned upright by its EXIF tag, on black where
            transparent.
        decode: Where a file is decoded; see :func:`embed_video`.

    Returns:
        :class:`Embeddings` with ``clips`` (1,512); all T frame vectors are equal.

    Raises:
        MediaError: The file cannot be read.
        InputError: The array is not uint8 (H, W, 3), or ``image`` is none of the three.
    """
    if isinstance(image, (str, Path)):
        return embed_video(model, image, clips=1, decode=decode)
    if isinstance(image, np.ndarray) or is_tensor(image):
        array = _as_array(image)
    elif hasattr(image, "getexif"):  # only a PIL image has it, so PIL is there
        array = _pil_pixels(image)
    else:
        raise InputError(
            f"the image is a {type(image).__name__}; allowed: a path, a uint8 (H, W, 3) RGB "
            "array, or a PIL image."
        )
    if array.ndim != 3:
        raise InputError(f"the image has shape {array.shape}; allowed: uint8 (H, W, 3) RGB.")
    return embed_frames(model, array[None], [0.0], clips=1)


def preprocess(
    frames: np.ndarray | torch.Tensor, preprocessing: Preprocessing | None = None
) -> torch.Tensor:
    """Turn raw uint8 frames into the network's input, exactly as ``embed_frames`` does.

    Args:
        frames: (T, H, W, 3) or (B, T, H, W, 3) uint8 RGB.
        preprocessing: ``model.preprocessing``; the paper's by default.

    Returns:
        (B, 3, T, 112, 112) float32, normalised.

    Raises:
        InputError: The frames have another shape or dtype.
    """
    import torch

    from ..transforms import to_clips

    array = _as_array(frames)
    if array.ndim not in (4, 5) or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise InputError(
            f"frames are {array.dtype} of shape {array.shape}; "
            "allowed: uint8 (T, H, W, 3) or (B, T, H, W, 3) RGB."
        )
    pre = preprocessing or Preprocessing()
    flat = array.reshape(-1, *array.shape[-3:])  # (B*T,H,W,3)
    small = resize_rgb(flat, pre)  # (B*T,h,w,3)
    batch = 1 if array.ndim == 4 else len(array)
    return to_clips(torch.from_numpy(small.reshape(batch, -1, *small.shape[1:])), pre)


def _without_bars(frames: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Return (N,H,W,3) frames without black bars, which are looked for as in files."""
    finder = BarFinder()
    for i in range(0, len(frames), max(1, len(frames) // MOST_FRAMES)):
        finder.see(resize_rgb(frames[i : i + 1], preprocessing)[0])
    bars = finder.bars()
    return frames if bars is None else bars.of(frames)


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of torch, which is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_array(frames: Any) -> np.ndarray:
    """Return an array, a list of arrays or a tensor on any device as an array."""
    return np.asarray(frames.cpu() if is_tensor(frames) else frames)


def _pil_pixels(image: Image) -> np.ndarray:
    """Return the uint8 (H,W,3) RGB pixels that the decoder gives for the image's file.

    Raises:
        InputError: The image has more than 8 bits a channel.
    """
    import PIL.Image
    import PIL.ImageOps

    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"the PIL image has mode {image.mode!r}, more than 8 bits a channel; "
            "give its file, or convert it to 'RGB' by the range you mean."
        )
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        black = PIL.Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = PIL.Image.alpha_composite(black, upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB"))
