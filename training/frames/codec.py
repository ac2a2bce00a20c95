"""Single frames to bytes and back: JPEG without chroma subsampling, or the pixels themselves."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from ccl_hub.errors import TrainingError

CODECS = ("jpeg", "raw")
RGB = 3  # ImageReadMode.RGB of torchvision

JpegDecoder = Callable[[np.ndarray], np.ndarray]


def encode_frame(rgb: np.ndarray, codec: str, quality: int) -> bytes:
    """Return one frame as stored.

    Args:
        rgb: uint8 (h, w, 3).
        codec: ``"jpeg"``: baseline JPEG, 4:4:4; ``"raw"``: the pixels.
        quality: JPEG quality.
    """
    if codec == "raw":
        return np.ascontiguousarray(rgb).tobytes()
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_frames(
    encoded: Sequence[np.ndarray], codec: str, size_px: tuple[int, int], out: np.ndarray
) -> np.ndarray:
    """Decode stored frames.

    Args:
        encoded: One uint8 array (bytes,) per frame.
        codec: One of :data:`CODECS`.
        size_px: Height and width that each frame must have.
        out: Filled; uint8 (k, h, w, 3).

    Returns:
        ``out``.

    Raises:
        TrainingError: A frame is damaged or has another size.
    """
    decode = fast_jpeg() if codec == "jpeg" else None
    for place, data in enumerate(encoded):
        if decode is not None:
            try:
                frame = decode(data)
            except (RuntimeError, OSError, SyntaxError) as error:
                raise TrainingError(f"a damaged JPEG frame ({error})") from error
        elif data.size == size_px[0] * size_px[1] * 3:
            frame = data.reshape(*size_px, 3)
        else:
            raise TrainingError(f"{data.size} bytes for a raw frame of {size_px} px")
        if frame.shape[:2] != size_px:
            raise TrainingError(f"a frame of {frame.shape[:2]} px, expected {size_px}")
        out[place] = frame
    return out


@cache
def fast_jpeg() -> JpegDecoder:
    """Return the fastest JPEG decoder there is.

    torchvision's operator decodes about 1.6 times as many frames a second as Pillow and holds the
    interpreter lock for less time, but its Python function is deprecated since torchvision 0.29;
    without the operator Pillow serves. Both are libjpeg-turbo and give the same pixels (tested).
    """
    return torchvision_jpeg() or pillow_jpeg


def torchvision_jpeg() -> JpegDecoder | None:
    """Return a decoder that uses torchvision's operator, or None where there is none."""
    try:
        import torch
        import torchvision.io  # noqa: F401  (registers the operator)

        operator = torch.ops.image.decode_jpeg.default
    except (ImportError, AttributeError):
        return None

    def decode(data: np.ndarray) -> np.ndarray:
        # A copy, because torch wants memory that could be written; a few kilobytes.
        image = operator(torch.from_numpy(data.copy()), RGB, False)  # (3, h, w)
        return image.permute(1, 2, 0).numpy()  # contiguous: the operator decodes to h, w, c

    return decode


def pillow_jpeg(data: np.ndarray) -> np.ndarray:
    """Decode one JPEG frame, uint8 (bytes,) to (h, w, 3), with Pillow."""
    from PIL import Image

    with Image.open(io.BytesIO(data.tobytes()), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))
