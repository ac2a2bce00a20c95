"""The central square of a frame; of arrays and tensors alike, so this needs neither library."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

__all__ = ["center_crop"]

Pixels = TypeVar("Pixels", "Tensor", "npt.NDArray[np.uint8]")


def center_crop(frames: Pixels, crop_px: int) -> Pixels:
    """Cut the central square out of channels-last frames, as a view.

    An odd margin leaves the larger part at the bottom and at the right: the crop starts at
    ``(height - crop) // 2`` and ``(width - crop) // 2``.

    Args:
        frames: (..., h, w, 3), a tensor of any dtype or a uint8 array.
        crop_px: Side of the square, at most h and w.

    Returns:
        (..., crop_px, crop_px, 3), sharing memory with ``frames``.

    Raises:
        InputError: If the frames are not channels-last RGB or are smaller than the crop.

    Example:
        >>> import torch
        >>> center_crop(torch.zeros(2, 128, 171, 3, dtype=torch.uint8), 112).shape
        torch.Size([2, 112, 112, 3])
    """
    if frames.ndim < 3 or frames.shape[-1] != 3:
        raise InputError(f"frames have shape {tuple(frames.shape)}; allowed: (..., h, w, 3).")
    height, width = frames.shape[-3:-1]
    if not 1 <= crop_px <= min(height, width):
        raise InputError(
            f"crop_px is {crop_px} for frames of {height} x {width}; allowed: 1 to "
            f"{min(height, width)}."
        )
    top, left = (height - crop_px) // 2, (width - crop_px) // 2
    return frames[..., top : top + crop_px, left : left + crop_px, :]
