"""From resized frames to the network's input: crop, scale and normalise (paper, Section 4.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .config import Preprocessing
from .crop import center_crop
from .errors import InputError

__all__ = ["center_crop", "to_clips"]


def to_clips(
    frames: Tensor | npt.NDArray[np.uint8],
    preprocessing: Preprocessing,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Turn resized uint8 clips into the normalised input of the network.

    In float32 and in this order: centre crop, divide by 255, subtract the mean, divide by the
    standard deviation; only then the cast to ``dtype``. The result depends on no other clip.

    Args:
        frames: (B, T, H, W, 3) uint8 RGB, resized as ``preprocessing`` says; H and W at least
            ``crop_px``.
        preprocessing: Gives ``crop_px``, ``mean`` and ``std``.
        dtype: Floating type of the result.

    Returns:
        (B, 3, T, crop_px, crop_px) on the device of ``frames``, contiguous.

    Raises:
        InputError: If the shape or dtype differs.

    Example:
        >>> clips = torch.zeros(2, 8, 128, 171, 3, dtype=torch.uint8)
        >>> to_clips(clips, Preprocessing()).shape
        torch.Size([2, 3, 8, 112, 112])
    """
    clips = torch.as_tensor(frames)
    if clips.ndim != 5 or clips.dtype != torch.uint8:
        raise InputError(
            f"frames have shape {tuple(clips.shape)} and dtype {clips.dtype}; allowed: "
            "(B, T, H, W, 3) of torch.uint8."
        )
    if not dtype.is_floating_point:
        raise InputError(f"dtype is {dtype}; allowed: a floating type such as torch.float32.")
    crop = center_crop(clips, preprocessing.crop_px).permute(0, 4, 1, 2, 3)  # (B, 3, T, h, w)
    mean = torch.tensor(preprocessing.mean, device=crop.device).view(3, 1, 1, 1)
    std = torch.tensor(preprocessing.std, device=crop.device).view(3, 1, 1, 1)
    pixels = crop.to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.div_(255).sub_(mean).div_(std).to(dtype)
