"""Where a network is put, and in which type of number it computes."""

from __future__ import annotations

import torch

from ..errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device to use; None is the CPU, "auto" the best there is.

    Raises:
        InputError: The device is unknown, has no storage, or this machine lacks it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device("cpu" if device is None else device)
        torch.empty(0, device=chosen).cpu()  # "meta" has nothing to copy
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        # torch raises AssertionError in a build without CUDA, TypeError for what is not a name.
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device is {str(device)!r}, which cannot be used here ({reason}); "
            "allowed: auto, cpu, cuda, cuda:N, mps, as the machine has them."
        ) from error
    return chosen


def resolve_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """Return the floating-point type to use; None is float32.

    Raises:
        InputError: It is not one of float32, bfloat16, float16.
    """
    if dtype is None:
        return torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise InputError(f"dtype is {str(dtype)!r}; allowed: {', '.join(DTYPES)}.")
    return chosen
