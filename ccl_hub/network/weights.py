"""Read weights into a network of torch, strictly, and write them.

``huggingface_hub.PyTorchModelHubMixin`` is not used: it loads non-strictly and prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .._util.files import make_folder, write_atomically
from ..errors import WeightsError
from .architecture import CCLNetwork
from .model_files import CONFIG_NAME, WEIGHTS_NAME, Source, read_weights

Network = TypeVar("Network", bound=CCLNetwork)


def read_tensors(source: Source) -> tuple[dict[str, Tensor], str]:
    """Read and verify weights.

    Returns:
        The tensors by name, on the CPU, and the sha256 of the file they came from.

    Raises:
        WeightsError: The file cannot be read, its hash is not the published one, or it is not
            valid safetensors.
    """
    import safetensors.torch

    data, sha256 = read_weights(source)
    try:
        return safetensors.torch.load(data), sha256
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{source.weights_path}: not a valid safetensors file ({error}); fetch it again."
        ) from error


def load(
    network_class: type[Network],
    source: Source,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Network:
    """Build a network of this class from its files, in eval mode; device None is the CPU.

    Raises:
        WeightsError: The weights cannot be read, are not the published ones or do not fit.
    """
    tensors, sha256 = read_tensors(source)
    with torch.device("meta"):  # no random initialisation: the caller's generator is untouched
        network = network_class(source.config)
    load_strictly(network, tensors, source.weights_path)
    network.name, network.weights_sha256 = source.name, sha256
    return network.to(device=device, dtype=dtype).eval()


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy every tensor into the model; nothing may be missing, left over or misshapen.

    Args:
        model: On any device. One on "meta" gets memory on the CPU once everything fits, so that
            a configuration which does not belong to the file costs nothing, however large.
        tensors: The tensors by name, on the CPU.
        path: Their file, for messages.

    Raises:
        WeightsError: Names the first few differences.
    """
    expected = model.state_dict()
    wrong = [f"missing {key}" for key in expected if key not in tensors]
    wrong += [f"unexpected {key}" for key in tensors if key not in expected]
    both = [(key, tensor, expected[key]) for key, tensor in tensors.items() if key in expected]
    wrong += [
        f"{key} is {tuple(tensor.shape)}, expected {tuple(other.shape)}"
        for key, tensor, other in both
        if tensor.shape != other.shape
    ]
    wrong += [
        f"{key} is {tensor.dtype}, expected {other.dtype}"
        for key, tensor, other in both
        if tensor.is_floating_point() != other.is_floating_point() or tensor.is_complex()
    ]
    if wrong:
        raise WeightsError(
            f"{path}: does not fit the architecture in {CONFIG_NAME} beside it: "
            f"{'; '.join(wrong[:3])}{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}. "
            "Export the checkpoint again."
        )
    broken = [
        key for key, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()
    ]
    if broken:
        raise WeightsError(f"{path}: {broken[0]} holds NaN or infinity; export an earlier step.")
    if any(tensor.is_meta for tensor in expected.values()):
        # What to_empty() does, without the second that it takes to load sympy.
        untyped = cast("Any", model)
        untyped._apply(lambda t: torch.empty_strided(t.size(), t.stride(), dtype=t.dtype))
    model.load_state_dict(tensors)


def save(model: CCLNetwork, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Write the two files of a model; see :meth:`ccl_hub.CCLModel.save_pretrained`."""
    import safetensors.torch

    make_folder(folder)
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for name in module.state_dict()
    }
    tensors = {}
    for key, tensor in model.state_dict().items():
        convert = dtype is not None and tensor.is_floating_point() and key not in norms
        tensors[key] = tensor.detach().to("cpu", dtype if convert else None).contiguous()
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    # The configuration goes last: a folder without it is refused, so no mixed pair can load.
    write_atomically(folder / WEIGHTS_NAME, data)
    write_atomically(folder / CONFIG_NAME, model.config.to_json())
    return folder
