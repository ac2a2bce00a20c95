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
    encoded: Sequence[np.ndarray], codec: str, size_px: tuple[int, int]
) -> np.ndarray:
    """Decode stored frames.

    Args:
        encoded: One uint8 array (bytes,) for each of k frames.
        codec: One of :data:`CODECS`.
        size_px: Height and width that each frame must have.

    Returns:
        uint8 (k, h, w, 3).

    Raises:
        TrainingError: A frame is damaged or has another size.
    """
    decode = fast_jpeg() if codec == "jpeg" else None
    frames = np.empty((len(encoded), *size_px, 3), np.uint8)
    for number, data in enumerate(encoded):
        if decode is not None:
            try:
                frame = decode(data)
            except (RuntimeError, OSError, SyntaxError) as error:
                raise TrainingError(f"a damaged JPEG frame ({error})") from error
        elif data.size == size_px[0] * size_px[1] * 3:
            frame = data.reshape(*size_px, 3)
        else:
            raise TrainingError(f"a raw frame of {size_px} px has {data.size} bytes")
        if frame.shape[:2] != size_px:
            raise TrainingError(f"a frame has {frame.shape[:2]} px, not {size_px}")
        frames[number] = frame
    return frames


@cache
def fast_jpeg() -> JpegDecoder:
    """Return the faster of the JPEG decoders that are installed.

    torchvision's operator decodes about 1.6 times as many frames a second as Pillow and holds the
    interpreter lock for less time. Its Python function is deprecated since torchvision 0.29, so
    the operator is called directly, and Pillow decodes where it is missing. Both use libjpeg-turbo
    and give the same pixels (a test compares them).
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
        # A copy of a few kilobytes, because torch asks for writable memory.
        image = operator(torch.from_numpy(data.copy()), RGB, False)  # (3, h, w)
        return image.permute(1, 2, 0).numpy()  # contiguous: the operator decodes to h, w, c

    return decode


def pillow_jpeg(data: np.ndarray) -> np.ndarray:
    """Decode one JPEG frame, uint8 (bytes,) to (h, w, 3), with Pillow."""
    from PIL import Image

    with Image.open(io.BytesIO(data.tobytes()), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))
