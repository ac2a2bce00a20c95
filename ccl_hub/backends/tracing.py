"""Networks as programs that other runtimes read: traced, converted."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .onnx_format import OPSET

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def trace(module: nn.Module, example: Tensor, axes: dict[str, dict[int, Any]]) -> ExportedProgram:
    """Trace a module of one input, and drop what tells of this machine.

    Args:
        module: The module, in eval mode.
        example: An input.
        axes: The name of the input, and its free axes.
    """
    program = torch.export.export(module, (example,), dynamic_shapes=axes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds paths of the source files
    return program


def onnx_proto(program: ExportedProgram, inputs: list[str], outputs: list[str]) -> Any:
    """Convert a program, and drop what tells of this machine.

    Args:
        program: A program of :func:`trace`.
        inputs: Names of its inputs.
        outputs: Names of its outputs.

    Returns:
        An ``onnx.ModelProto``.
    """
    import onnx

    exported = torch.onnx.export(
        program,
        input_names=inputs,
        output_names=outputs,
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    proto = cast("torch.onnx.ONNXProgram", exported).model_proto
    # The oldest that the operators allow: torch states a newer one, which older readers refuse.
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    graph = proto.graph
    graph.ClearField("value_info")
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("metadata_props")  # how torch came to each node, with source files
    return proto
