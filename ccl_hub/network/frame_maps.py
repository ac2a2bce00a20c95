"""What the network gives for single frames, and what makes clip vectors of it.

The arrays are of numpy where torch is not needed, as runtimes for CPUs give them, and else tensors
on the engine's device. This module needs neither library, and a command that embeds one video on
a CPU loads numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Array: TypeAlias = npt.NDArray[np.float32] | Tensor

GRAPH_VERSION = 1
"""Version of what engines compute; what was made of another one is made again."""


class FrameMaps(NamedTuple):
    """What the network gives for n frames.

    ``vectors``: (n, D) float32, the frame features.
    ``parts``: (n, P, 3, D), the trunk's P positions under conv6's taps for the frame after, the
    frame itself and the frame before, times BatchNorm's scale; float32, of tensors perhaps the
    engine's dtype.
    """

    vectors: Array
    parts: Array


def unchanged(pooled: Any) -> Any:
    """Return what is given: the map after pooling of networks that have none."""
    return pooled


class ClipHead(NamedTuple):
    """What makes clip vectors of parts, besides sums and means.

    ``shift``: (D,) float32, BatchNorm's shift after conv6. ``output``: the map after pooling,
    (b, D) -> (b, D). Both are of the library, and on the device, of the parts.
    """

    shift: Array
    output: Callable[[Any], Array] = unchanged
