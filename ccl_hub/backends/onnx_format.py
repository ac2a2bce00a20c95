"""The few messages of the ONNX format that one graph of convolutions needs, as bytes.

Source: onnx/onnx.proto3 of https://github.com/onnx/onnx (field numbers), and the encoding of
Protocol Buffers, https://protobuf.dev/programming-guides/encoding.

The package ``onnx`` does all of this and much more; importing it takes as long as the network
takes for two clips, and it would be needed for nothing else where one video is embedded.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

OPSET = 18
IR_VERSION = 8
"""The oldest version of the format that has the operators of :data:`OPSET`."""

_ELEMENTS = {"float32": 1, "uint8": 2, "int64": 7}
_FLOAT, _INT, _INTS = 1, 2, 7  # AttributeProto.AttributeType


def node(
    operator: str,
    inputs: Sequence[str],
    output: str,
    attributes: Mapping[str, int | float | Sequence[int]],
) -> bytes:
    """Return a NodeProto of one output."""
    return b"".join(
        [
            *(_bytes(1, name.encode()) for name in inputs),
            _bytes(2, output.encode()),
            _bytes(3, output.encode()),
            _bytes(4, operator.encode()),
            *(_bytes(5, _attribute(name, value)) for name, value in attributes.items()),
        ]
    )


def tensor(name: str, values: np.ndarray) -> bytes:
    """Return a TensorProto of float32 or int64 values, which it holds."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return b"".join(
        [
            *(_number(1, size) for size in values.shape),
            _number(2, _ELEMENTS[values.dtype.name]),
            _bytes(8, name.encode()),
            _bytes(9, little.tobytes()),
        ]
    )


def value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    """Return the ValueInfoProto of an input or output; a size that is a name is free."""
    sizes = [
        _bytes(1, _bytes(2, size.encode()) if isinstance(size, str) else _number(1, size))
        for size in shape
    ]
    kind = _bytes(1, _number(1, _ELEMENTS[dtype]) + _bytes(2, b"".join(sizes)))
    return _bytes(1, name.encode()) + _bytes(2, kind)


def model(
    nodes: Sequence[bytes],
    tensors: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
) -> bytes:
    """Return a ModelProto of what :func:`node`, :func:`tensor` and :func:`value` give."""
    fields = ((1, nodes), (5, tensors), (11, inputs), (12, outputs))
    graph = [_bytes(number, item) for number, items in fields for item in items]
    graph.append(_bytes(2, b"ccl_hub"))
    return b"".join(
        [
            _number(1, IR_VERSION),
            _bytes(2, b"ccl_hub"),
            _bytes(7, b"".join(graph)),
            _bytes(8, _number(2, OPSET)),
        ]
    )


def _attribute(name: str, value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, int):
        content, kind = _number(3, value), _INT
    elif isinstance(value, float):
        content, kind = _varint(2 << 3 | 5) + struct.pack("<f", value), _FLOAT
    else:
        content, kind = b"".join(_number(8, item) for item in value), _INTS
    return _bytes(1, name.encode()) + content + _number(20, kind)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Encode a number from 0 on, seven bits a byte, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
