"""Frames and images that are already in memory: arrays, tensors and PIL images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..config import Preprocessing
from ..errors import InputError
from ..transforms import to_clips
from ..video.pixels import resize_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["as_array", "pil_pixels", "preprocess"]


def as_array(frames: object) -> np.ndarray:
    """Return an array, a list of arrays or a tensor on any device as an array."""
    return np.asarray(frames.cpu() if isinstance(frames, torch.Tensor) else frames)


def pil_pixels(image: Image) -> np.ndarray:
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
        InputError: Another shape or dtype.
    """
    array = as_array(frames)
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
