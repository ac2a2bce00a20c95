"""Weights that others have published, as a state dict in a file."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ccl_hub.errors import WeightsError

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+")  # as torch.hub names files


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return tensors by name and the file's sha256; no code in the file can run.

    Args:
        path: A state dict, ``.pth`` or ``.safetensors``; a hash in its name, as torch.hub writes
            them, is checked.

    Raises:
        WeightsError: It cannot be read, is damaged, or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check it.") from error
    sha256 = hashlib.sha256(data).hexdigest()
    stated = HASH_IN_NAME.search(path.name)
    if path.suffix == ".pth" and stated and not sha256.startswith(stated[1]):
        raise WeightsError(
            f"{path}: sha256 is {sha256}, its name says {stated[1]}...; the file is damaged, "
            "fetch it again."
        )
    try:
        if path.suffix == ".safetensors":
            values = safetensors.torch.load(data)
        else:
            values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes the readers raise
        reason = f"{type(error).__name__} {str(error).partition(chr(10))[0][:200]}".strip()
        raise WeightsError(
            f"{path}: no readable weights ({reason}); "
            "fetch the file again, or convert it to .safetensors."
        ) from error
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        raise WeightsError(f"{path}: holds no state dict; give that of the network.")
    return values, sha256
