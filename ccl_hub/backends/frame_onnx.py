"""The network on single frames as an ONNX graph, written in milliseconds and without torch.

What :class:`ccl_hub.network.frame_graph.FrameGraph` computes, for runtimes other than torch:

    frames (n,S,S,3) uint8 -> trunk -+-> spatial mean -> output -> vectors (n,D)
                                     +-> three taps             -> parts   (n,P,3,D)

BatchNorm is folded into the convolution before it. Every weight of the file is named here and must
have its shape, so that a file which torch would refuse is refused, too. Whether the numbers are
torch's is for :mod:`ccl_hub.backends.parity` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from ..config import Architecture, CCLConfig
from ..errors import ModelError
from ..network.frame_maps import ClipHead, unchanged
from ..network.lite_stages import BATCHNORM_EPSILON, STAGES
from . import onnx_format

TORCH_EPSILON = 1e-5
"""Of torch's BatchNorm, where a network names no other."""


class UnknownGraphError(ModelError):
    """Weights that are not those of a graph this module writes; torch may know more of them."""


class Weights:
    """The arrays of a network, each taken by its name and once.

    Args:
        arrays: In float32, by name; counters of BatchNorm in int64.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)

    def take(self, name: str, *shape: int, dtype: str = "float32") -> np.ndarray:
        """Return an array and strike it off the list.

        Raises:
            UnknownGraphError: It is missing, has another shape or type, or is not finite.
        """
        array = self._arrays.pop(name, None)
        if array is None or array.shape != shape or array.dtype != dtype:
            raise UnknownGraphError(f"{name} is not {dtype} of shape {shape}.")
        if not np.isfinite(array).all():
            raise UnknownGraphError(f"{name} holds NaN or infinity.")
        return array

    def norm(self, name: str, channels: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        """Take a BatchNorm; return its (C,) float32 scale and shift."""
        weight, bias, mean, variance = (
            self.take(f"{name}.{kind}", channels).astype(np.float64)
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        self.take(f"{name}.num_batches_tracked", dtype="int64")
        scale = weight / np.sqrt(variance + epsilon)
        return _float32(scale), _float32(bias - mean * scale)

    def finish(self) -> None:
        """Refuse weights that nothing has taken.

        Raises:
            UnknownGraphError: There are some.
        """
        if self._arrays:
            raise UnknownGraphError(f"{next(iter(self._arrays))} belongs to nothing.")


class _Graph:
    """Nodes and tensors as they are added; each node is named by its number."""

    def __init__(self) -> None:
        self.nodes: list[onnx_format.Message] = []
        self.tensors: list[onnx_format.Message] = []

    def add(
        self, operator: str, *inputs: str | np.ndarray, **attributes: int | Sequence[int]
    ) -> str:
        """Add a node; return the name of its output."""
        names = [self._constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx_format.node(operator, names, output, attributes))
        return output

    def conv(
        self,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ) -> str:
        """Add a square convolution; ``padding`` lies before and behind both axes."""
        before, behind = padding
        return self.add(
            "Conv",
            *(x, _float32(weight), bias),
            kernel_shape=[weight.shape[2]] * 2,
            strides=[stride] * 2,
            pads=[before, before, behind, behind],
            group=groups,
        )

    def _constant(self, values: np.ndarray) -> str:
        name = f"constant_{len(self.tensors)}"
        self.tensors.append(onnx_format.tensor(name, values))
        return name


def frame_onnx(config: CCLConfig, arrays: Mapping[str, np.ndarray]) -> tuple[bytes, ClipHead]:
    """Write the graph of a network.

    Args:
        config: Its architecture and preprocessing.
        arrays: Its weights by name, in float32, and nothing else.

    Returns:
        An ONNX model with ``frames`` (n,S,S,3) uint8 in, ``vectors`` (n,D) and ``parts``
        (n,P,3,D) float32 out; and the head for what it gives, in numpy.

    Raises:
        UnknownGraphError: The weights are not those of the architecture, or not finite.
    """
    arch, pre = config.architecture, config.preprocessing
    weights, graph = Weights(arrays), _Graph()
    dim, side = arch.feature_dim, pre.crop_px
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (pre.mean, pre.std))
    x = graph.add("Transpose", "frames", perm=[0, 3, 1, 2])  # (n,3,S,S)
    x = graph.add("Cast", x, to=1)
    x = graph.add("Div", graph.add("Sub", x, _float32(255 * mean)), _float32(255 * std))
    maps = _TRUNKS[arch.trunk](graph, weights, arch, x)  # (n,D,h,w)
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", maps), axis=1)  # (n,D)
    vectors, output = pooled, unchanged
    if arch.output == "whitened":
        centre = weights.take("output.mean", dim)
        matrix = weights.take("output.weight", dim, dim)
        vectors = graph.add("Gemm", graph.add("Sub", pooled, centre), matrix, transB=1)
        output = partial(_whitened, centre, matrix)
    scale, shift = weights.norm("head.bn6", dim, TORCH_EPSILON)
    taps = weights.take("head.conv6.weight", dim, dim, 3, 1)[..., 0] * scale[:, None, None]
    matrix = _float32(taps.transpose(1, 2, 0).reshape(dim, 3 * dim))  # (D_in,3,D) -> (D_in,3D)
    x = graph.add("Transpose", maps, perm=[0, 2, 3, 1])  # (n,h,w,D)
    x = graph.add("Reshape", x, np.array([0, -1, dim], np.int64))  # (n,P,D)
    shape = np.array([0, -1, 3, dim], np.int64)
    parts = graph.add("Reshape", graph.add("MatMul", x, matrix), shape)
    _take_projections(weights, arch)
    weights.finish()
    outputs: dict[str, tuple[str, list[int | str]]] = {
        "vectors": (vectors, ["n", dim]),
        "parts": (parts, ["n", "positions", 3, dim]),
    }
    for name, (result, _) in outputs.items():
        graph.nodes.append(onnx_format.node("Identity", [result], name, {}))
    data = onnx_format.model(
        graph.nodes,
        graph.tensors,
        [onnx_format.value("frames", "uint8", ["n", side, side, 3])],
        [onnx_format.value(name, "float32", shape) for name, (_, shape) in outputs.items()],
    )
    return data, ClipHead(shift, output)


def _whitened(centre: np.ndarray, matrix: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """(b,D) -> (b,D), float32."""
    whitened: np.ndarray = (pooled - centre) @ matrix.T
    return whitened


def _take_projections(weights: Weights, arch: Architecture) -> None:
    """Take what the loss alone needs."""
    hidden, dim = arch.projection_hidden, arch.projection_dim
    names = ["projection"] if arch.projection_shared else ["projection", "video_projection"]
    for name in names:
        weights.take(f"{name}.fc1.weight", hidden, arch.feature_dim)
        weights.take(f"{name}.fc1.bias", hidden)
        if arch.projection_norm:
            weights.norm(f"{name}.norm", hidden, TORCH_EPSILON)
        weights.take(f"{name}.fc2.weight", dim, hidden)
        weights.take(f"{name}.fc2.bias", dim)


def _float32(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)


# ResNet-18: ccl_hub.network.resnet --------------------------------------------------------------


def _resnet18(graph: _Graph, weights: Weights, arch: Architecture, x: str) -> str:
    """(n,3,S,S) -> (n,D,S/16,S/16)."""
    widths = arch.stage_channels
    channels = widths[0]

    def conv_norm(x: str, conv: str, norm: str, shape: tuple[int, int, int], stride: int) -> str:
        out, into, kernel = shape
        weight = weights.take(f"{conv}.weight", out, into, kernel, kernel)
        scale, shift = weights.norm(norm, out, TORCH_EPSILON)
        pad = kernel // 2
        return graph.conv(x, weight * scale[:, None, None, None], shift, stride, (pad, pad))

    x = graph.add("Relu", conv_norm(x, "trunk.conv1", "trunk.bn1", (channels, 3, 7), 2))
    for stage, (width, depth) in enumerate(zip(widths, arch.stage_blocks, strict=True)):
        for block in range(depth):
            name = f"trunk.res{stage + 2}.{block}"
            stride = 2 if stage and not block else 1
            y = conv_norm(x, f"{name}.conv1", f"{name}.bn1", (width, channels, 3), stride)
            y = graph.add("Relu", y)
            y = conv_norm(y, f"{name}.conv2", f"{name}.bn2", (width, width, 3), 1)
            if stride != 1 or channels != width:
                shortcut = f"{name}.shortcut"
                shape = (width, channels, 1)
                x = conv_norm(x, f"{shortcut}.0", f"{shortcut}.1", shape, stride)
            x = graph.add("Relu", graph.add("Add", y, x))
            channels = width
    return x


# EfficientNet-Lite0: ccl_hub.network.efficientnet_lite ------------------------------------------


def _efficientnet_lite0(graph: _Graph, weights: Weights, arch: Architecture, x: str) -> str:
    """(n,3,S,S) -> (n,D,S/32,S/32)."""
    *widths, last, features = arch.stage_channels

    def conv_norm(
        x: str, name: str, shape: tuple[int, int, int], stride: int = 1, groups: int = 1
    ) -> str:
        out, into, kernel = shape
        weight = weights.take(f"{name}.0.weight", out, into // groups, kernel, kernel)
        scale, shift = weights.norm(f"{name}.1", out, BATCHNORM_EPSILON)
        total = kernel - stride
        padding = (total // 2, total - total // 2)
        return graph.conv(x, weight * scale[:, None, None, None], shift, stride, padding, groups)

    def relu6(x: str) -> str:
        return graph.add("Clip", x, np.array(0, np.float32), np.array(6, np.float32))

    channels = 2 * widths[0]
    x = relu6(conv_norm(x, "trunk.stem", (channels, 3, 3), 2))
    stages = zip(widths, arch.stage_blocks, STAGES, strict=True)
    for stage, (width, depth, shape) in enumerate(stages):
        for block in range(depth):
            name = f"trunk.stages.{stage}.{block}"
            stride, hidden, y = 1 if block else shape.stride, channels * shape.expansion, x
            if shape.expansion != 1:
                y = relu6(conv_norm(y, f"{name}.expand", (hidden, channels, 1)))
            kernel = (hidden, hidden, shape.kernel_px)
            y = relu6(conv_norm(y, f"{name}.depthwise", kernel, stride, groups=hidden))
            y = conv_norm(y, f"{name}.narrow", (width, hidden, 1))
            x = graph.add("Add", x, y) if stride == 1 and channels == width else y
            channels = width
    x = relu6(conv_norm(x, "trunk.last", (last, channels, 1)))
    weight = weights.take("trunk.features.weight", features, last, 1, 1)
    return graph.add("Relu", graph.conv(x, weight, weights.take("trunk.features.bias", features)))


_TRUNKS: dict[str, Callable[[_Graph, Weights, Architecture, str], str]] = {
    "resnet18": _resnet18,
    "efficientnet_lite0": _efficientnet_lite0,
}
