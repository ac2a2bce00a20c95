"""A trained network as its files say it: configuration and arrays of numpy, without torch.

torch takes two seconds to import. What needs the weights alone, such as a runtime that computes
them, takes this instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from ..config import CCLConfig, Preprocessing
from ..errors import WeightsError
from .model_files import Source, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .architecture import CCLNetwork

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


class NetworkFacts(Protocol):
    """What is known of a network, whoever computes it; a CCLNetwork has it, too."""

    @property
    def name(self) -> str:
        """What it was loaded from."""

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights' file, or ""."""

    @property
    def config(self) -> CCLConfig:
        """Its configuration."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How frames are prepared for it."""


@dataclass(frozen=True)
class StoredNetwork:
    """A network that was read from its files.

    Args:
        source: Where they are.
        weights_sha256: Hash of the weights' file.
        arrays: Its weights by name, in float32 (counters in int64).
    """

    source: Source
    weights_sha256: str
    arrays: Mapping[str, np.ndarray]

    @property
    def name(self) -> str:
        """What the user asked for."""
        return self.source.name

    @property
    def config(self) -> CCLConfig:
        """Its configuration."""
        return self.source.config

    @property
    def preprocessing(self) -> Preprocessing:
        """How frames are prepared for it."""
        return self.config.preprocessing


def read_network(source: Source) -> StoredNetwork:
    """Read and verify the weights of a model.

    Whether they fit the configuration is for those to say who use them.

    Raises:
        WeightsError: The file cannot be read, its hash is not the published one, it is not valid
            safetensors, or numbers are stored in another way than networks are.
    """
    import safetensors

    data, sha256 = read_weights(source)
    try:
        stored = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{source.weights_path}: not a valid safetensors file ({error}); fetch it again."
        ) from error
    for name, values in stored:
        if values["dtype"] not in _DTYPES:
            raise WeightsError(
                f"{source.weights_path}: {name} is stored as {values['dtype']}; allowed: "
                f"{', '.join(_DTYPES)}; save the model in float32, float16 or bfloat16."
            )
    arrays = {name: _array(**values) for name, values in stored}
    return StoredNetwork(source, sha256, arrays)


def tensors_sha256(network: NetworkFacts) -> str:
    """Hash the weights themselves, so that a model changed after loading counts as another.

    A network in float32 has the same hash in torch and as it was stored.
    """
    digest = hashlib.sha256()
    if isinstance(network, StoredNetwork):
        for name, array in sorted(network.arrays.items()):
            digest.update(f"{name} torch.{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
    import torch

    for name, tensor in sorted(cast("CCLNetwork", network).state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy())
    return digest.hexdigest()


def _array(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    """Return a stored tensor, floating-point numbers in float32."""
    values = np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values if dtype == "I64" else values.astype(np.float32, copy=False)
