"""The few messages of the ONNX format that one graph of convolutions needs, as bytes.

Source: onnx/onnx.proto3 of https://github.com/onnx/onnx (field numbers), and the encoding of
Protocol Buffers, https://protobuf.dev/programming-guides/encoding.

The package ``onnx`` does all of this and much more; importing it takes as long as the network
takes for two clips, and it would be needed for nothing else where one video is embedded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

OPSET = 18
IR_VERSION = 8
"""The oldest version of the format that has the operators of :data:`OPSET`."""

Message: TypeAlias = list[bytes | memoryview]
"""A message in pieces, joined once and at the end: weights are large."""

_ELEMENTS = {"float32": 1, "uint8": 2, "int64": 7}
_INT, _INTS = 2, 7  # AttributeProto.AttributeType


def node(
    operator: str,
    inputs: Sequence[str],
    output: str,
    attributes: Mapping[str, int | Sequence[int]],
) -> Message:
    """Return a NodeProto of one output."""
    message = [piece for name in inputs for piece in _text(1, name)]
    message += _text(2, output) + _text(3, output) + _text(4, operator)
    for name, value in attributes.items():
        message += _nested(5, _attribute(name, value))
    return message


def tensor(name: str, values: np.ndarray) -> Message:
    """Return a TensorProto of float32 or int64 values, which it holds."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    sizes = [_number(1, size) for size in values.shape]
    kind = _number(2, _ELEMENTS[values.dtype.name])
    return [*sizes, kind, *_text(8, name), *_nested(9, [little.reshape(-1).view(np.uint8).data])]


def value(name: str, dtype: str, shape: Sequence[int | str]) -> Message:
    """Return the ValueInfoProto of an input or output; a size that is a name is free."""
    sizes: Message = []
    for size in shape:
        sizes += _nested(1, _text(2, size) if isinstance(size, str) else [_number(1, size)])
    kind = _nested(1, [_number(1, _ELEMENTS[dtype]), *_nested(2, sizes)])
    return [*_text(1, name), *_nested(2, kind)]


def model(
    nodes: Sequence[Message],
    tensors: Sequence[Message],
    inputs: Sequence[Message],
    outputs: Sequence[Message],
) -> bytes:
    """Return a ModelProto of what :func:`node`, :func:`tensor` and :func:`value` give."""
    graph = _text(2, "ccl_hub")
    for field, messages in ((1, nodes), (5, tensors), (11, inputs), (12, outputs)):
        for message in messages:
            graph += _nested(field, message)
    opset = _nested(8, [_number(2, OPSET)])
    return b"".join([_number(1, IR_VERSION), *_text(2, "ccl_hub"), *_nested(7, graph), *opset])


def _attribute(name: str, value: int | Sequence[int]) -> Message:
    if isinstance(value, int):
        return [*_text(1, name), _number(3, value), _number(20, _INT)]
    return [*_text(1, name), *(_number(8, item) for item in value), _number(20, _INTS)]


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, text: str) -> Message:
    return _nested(field, [text.encode()])


def _nested(field: int, message: Message) -> Message:
    """Return a field that is bytes, text or another message."""
    return [_varint(field << 3 | 2) + _varint(sum(map(len, message))), *message]


def _varint(value: int) -> bytes:
    """Encode a number from 0 on, seven bits a byte, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
