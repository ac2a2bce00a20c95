"""Models for other runtimes: one ONNX or torch.export file that gives the model's own numbers.

    model -> torch.export program -+-> bytes of a .pt2  -+-> read back, compared -> written
                                   +-> bytes of a .onnx -+

Both take ``clips`` (B, 3, T, H, W) of any batch, length and size, and give ``frames`` (B, T, 512)
and ``video`` (B, 512), all float32. The bytes are read back and compared with the model at many
shapes before anything is written, so a file that differs never exists. What a user of the file
must know, above all how to prepare pixels, travels inside it: as ``metadata_props`` of ONNX, as
the extra file ``ccl.json`` of a .pt2.

Neither kind is ever loaded as weights by this package: that is safetensors alone. An ONNX file
holds no code; it states the oldest version of the format that its operators allow, so that
runtimes some years old read it. A .pt2 of ours holds no pickle either, but ``torch.export.load``
would run the pickles in one that does: open only a .pt2 whose origin you trust.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .._util.extras import require_packages
from .._util.files import check_writable, write_atomically
from .._version import __version__
from ..config import FRAME_CHOICES, Preprocessing
from ..errors import ExportError, InputError
from ..network.architecture import CCLNetwork
from .parity import TOLERANCE, relative_difference
from .tracing import ONNX_PACKAGES, onnx_proto, trace

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
METADATA_NAME = "ccl.json"  # of a .pt2; an ONNX file has the same keys in its metadata
AXES = {0: "batch", 2: "time", 3: "height", 4: "width"}  # of the input, all free
# (B, T, H, W): one and several of each, not square, and sides that 16 does not divide.
SHAPES = (
    (1, 1, 64, 64),
    (2, 3, 64, 96),
    (3, 1, 96, 64),
    (1, 3, 75, 101),
    (2, 1, 33, 50),
    (3, 8, 64, 80),
    (1, 8, 160, 112),
    (1, 1, 160, 160),
)

Run = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how close it is to the model.

    Args:
        path: The file.
        format: ``"onnx"`` or ``"torch-export"``.
        size_bytes: Its size; everything is in this one file.
        sha256: Its hash, by which others can trust a copy.
        shapes: Number of input shapes compared.
        difference: Largest difference of any output, as a share of its largest value.
    """

    path: str
    format: str
    size_bytes: int
    sha256: str
    shapes: int
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.size_bytes / 1e6:.1f} MB, sha256 {self.sha256}; differs from the "
            f"model by {self.difference:.1g} at {self.shapes} shapes (allowed {TOLERANCE:g})"
        )


class _Portable(nn.Module):
    """The model with a plain tensor in and a dictionary of plain tensors out."""

    def __init__(self, model: CCLNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """(B,3,T,H,W) -> frames (B,T,D) and video (B,D)."""
        output = self.model(clips)
        return {"frames": output.frames, "video": output.video}


def export_model(model: CCLNetwork, path: str | Path, format: str) -> Exported:
    """Write a model as one file for another runtime, in float32.

    Args:
        model: On any device and of any dtype; it is not changed.
        path: Ends in ``.onnx`` or ``.pt2``, as the format says; replaced if it exists.
        format: ``"onnx"`` (needs ``pip install 'ccl-hub[onnx]'``) or ``"torch-export"``.

    Returns:
        Facts about the file.

    Raises:
        InputError: The format is unknown, or the name does not fit it.
        ExportError: A package is missing, or the file gives other numbers than the model; nothing
            is written then.
        OutputError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> from ccl_hub import Architecture, CCLConfig, CCLModel
        >>> model = CCLModel(CCLConfig(Architecture(stage_channels=(4, 4, 8, 8))))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export_model(model, f"{folder}/tiny.pt2", "torch-export")
        >>> exported.difference <= TOLERANCE
        True
    """
    path = Path(path)
    check_target(path, format)
    check_writable(path)
    # Contiguous weights: a .pt2 stores only these whole.
    plain = copy.deepcopy(model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    plain.eval().requires_grad_(False)
    del plain.projection  # the loss alone needs it
    plain.video_projection = None
    program, facts = _program(plain), describe(model)
    data = _onnx_bytes(program, facts) if format == "onnx" else _pt2_bytes(program, facts)
    run = _onnx_runner(data) if format == "onnx" else _pt2_runner(data)
    pre = model.preprocessing
    smallest = model.smallest_side_px
    shapes = [(b, t, max(h, smallest), max(w, smallest)) for b, t, h, w in SHAPES]
    shapes.append((2, pre.clip_frames, pre.crop_px, pre.crop_px))
    difference = max(_compared(plain, run, shape, path) for shape in shapes)
    write_atomically(path, data)
    sha256 = hashlib.sha256(data).hexdigest()
    return Exported(str(path), format, len(data), sha256, len(shapes), difference)


def describe(model: CCLNetwork) -> dict[str, Any]:
    """Return what travels inside the file, as JSON values: which model, and how to feed it.

    ``weights_sha256`` is of the file that the model was loaded from; "" without one.
    """
    pre = model.preprocessing
    return {
        # Of a folder the last name alone: a file for others must not tell paths of this machine.
        "name": model.config.provenance.name or Path(model.name).name,
        "trained_on": model.config.provenance.trained_on,
        "weights_sha256": model.weights_sha256,
        "preprocessing": asdict(pre),
        "input": _input_in_words(pre, model.smallest_side_px),
        "outputs": "frames (batch, time, D) and video (batch, D), float32; compare vectors by "
        "cosine similarity. A video of several clips: the mean of their video vectors.",
        "written_by": f"ccl_hub {__version__}, torch {torch.__version__}",
    }


def _input_in_words(pre: Preprocessing, smallest_side_px: int) -> str:
    size = f"{pre.resize_height_px} x {pre.resize_width_px} (height x width)"
    if pre.resize == "short_side":
        size = f"a shorter side of {pre.resize_height_px}, aspect ratio kept"
    return (
        f"clips (batch, 3, time, height, width), float32, RGB. {pre.clip_frames} frames every "
        f"{pre.frame_interval_seconds} s, each {FRAME_CHOICES[pre.frame_choice]}; resized to "
        f"{size}, bilinear with antialiasing; "
        f"centre crop {pre.crop_px} x {pre.crop_px}; divided by 255; minus mean {list(pre.mean)}; "
        f"divided by std {list(pre.std)}. Other lengths, and sides from {smallest_side_px} up, "
        "are computed too."
    )


def check_target(path: Path, format: str) -> None:
    """Refuse what cannot work before any work is done.

    Args:
        path: The file to write.
        format: A key of :data:`SUFFIXES`.

    Raises:
        InputError: The format is unknown, or the name does not end as its files do.
        ExportError: The format needs a package that is not installed.
    """
    if format not in SUFFIXES:
        raise InputError(f"format is {format!r}; allowed: {', '.join(SUFFIXES)}.")
    if path.suffix != SUFFIXES[format]:
        raise InputError(
            f"the output is {str(path)!r}; the name of a file of format {format} must end in "
            f"{SUFFIXES[format]}."
        )
    if format == "onnx":
        instead = "write the format torch-export"
        require_packages("the format onnx", ONNX_PACKAGES, "onnx", instead)


def _program(plain: CCLNetwork) -> ExportedProgram:
    """Trace the network once with every axis free."""
    smallest = {"height": plain.smallest_side_px, "width": plain.smallest_side_px}
    axes = {axis: Dim(name, min=smallest.get(name, 1)) for axis, name in AXES.items()}
    return trace(_Portable(plain), torch.zeros(2, 3, 3, 64, 80), {"clips": axes})


def _compared(plain: CCLNetwork, run: Run, shape: tuple[int, ...], path: Path) -> float:
    """Return the largest difference at one (B,T,H,W), or raise if it is too large."""
    b, t, h, w = shape
    clips = torch.randn(b, 3, t, h, w, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = plain(clips)
        outputs = run(clips)
    worst = 0.0
    for name, output, reference in zip(("frames", "video"), outputs, expected[:2], strict=True):
        difference = relative_difference(output, reference)
        if not difference <= TOLERANCE:  # NaN never is
            raise ExportError(
                f"{path}: not written: for clips {tuple(clips.shape)}, {name} differs from the "
                f"model by {difference:.2g} of its largest value, allowed is {TOLERANCE:g} "
                f"({name} is {output.dtype} {tuple(output.shape)}, the model gives "
                f"{reference.dtype} {tuple(reference.shape)}); try another version of torch or "
                "onnxruntime."
            )
        worst = max(worst, difference)
    return worst


# torch.export -----------------------------------------------------------------------------------


def _pt2_bytes(program: ExportedProgram, facts: dict[str, Any]) -> bytes:
    program.example_inputs = None  # they would be stored as a pickle, the only one in the file
    buffer = io.BytesIO()
    extra_files = {METADATA_NAME: json.dumps(facts, indent=2)}
    torch.export.save(program, buffer, extra_files=extra_files)
    return buffer.getvalue()


def _pt2_runner(data: bytes) -> Run:
    module = torch.export.load(io.BytesIO(data)).module()

    def run(clips: Tensor) -> tuple[Tensor, Tensor]:
        output = module(clips)
        return output["frames"], output["video"]

    return run


# ONNX -------------------------------------------------------------------------------------------


def _onnx_bytes(program: ExportedProgram, facts: dict[str, Any]) -> bytes:
    import onnx

    proto = onnx_proto(program, ["clips"], ["frames", "video"])
    graph = proto.graph
    axes = graph.input[0].type.tensor_type.shape.dim
    names = {axes[axis].dim_param: name for axis, name in AXES.items()}
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = names[axis.dim_param]
    proto.doc_string = facts["input"]
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    onnx.helper.set_model_props(proto, texts)
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _onnx_runner(data: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> tuple[Tensor, Tensor]:
        frames, video = session.run(["frames", "video"], {"clips": clips.numpy()})
        return torch.from_numpy(frames), torch.from_numpy(video)

    return run
