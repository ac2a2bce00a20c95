"""Teachers: image encoders whose vectors of the untouched frame a student must still tell.

:class:`Lite0Teacher` runs in torch; :class:`OnnxTeacher` runs any image encoder that was exported
to ONNX, such as DINOv2, SigLIP or the image tower of a CLIP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccl_hub._util.extras import require_packages
from ccl_hub.config import Architecture
from ccl_hub.errors import TrainingError
from ccl_hub.network.efficientnet_lite import EfficientNetLite0

from .lite0 import MEAN, STD, load_lite0

if TYPE_CHECKING:
    from ..recipes.sections import Teacher as TeacherSection

FRAMES_AT_ONCE = 32


class Teacher(Protocol):
    """Gives the vectors of frames.

    ``dim``: K, their dimension. ``identity``: what tells these vectors from others.
    """

    dim: int
    identity: str

    def __call__(self, frames: Tensor) -> Tensor:
        """Return (n, K) float32 vectors of (n, h, w, 3) uint8 RGB frames of any size."""


def new_teacher(section: TeacherSection, device: torch.device) -> Teacher:
    """Make the teacher that a recipe names.

    Args:
        section: Of the recipe.
        device: Where torch computes; ONNX runs on the CPU.

    Raises:
        TrainingError: Its weights or file are not there, or are not an image encoder.
    """
    if section.onnx:
        return OnnxTeacher(section.onnx, section.size_px, section.mean, section.std)
    return Lite0Teacher(section.size_px, device)


def normalised(
    frames: Tensor, size_px: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """(n,h,w,3) uint8 -> (n,3,S,S) float32: squashed to a square, then normalised."""
    images = frames.permute(0, 3, 1, 2).float().div_(255)
    if tuple(images.shape[2:]) != (size_px, size_px):
        images = F.interpolate(images, (size_px, size_px), mode="bilinear", antialias=True)
    mean_, std_ = (images.new_tensor(tuple(values)).view(3, 1, 1) for values in (mean, std))
    return (images - mean_) / std_


class Lite0Teacher:
    """EfficientNet-Lite0 as it was published: the mean of its 1280 channels.

    Args:
        size_px: Side S to which frames are squashed.
        device: Where it computes.

    Raises:
        TrainingError: Its weights are not installed.
    """

    dim = 1280

    def __init__(self, size_px: int, device: torch.device) -> None:
        trunk = EfficientNetLite0(Architecture(trunk="efficientnet_lite0"))
        self.identity = f"efficientnet_lite0 {load_lite0(trunk)[:16]} at {size_px} px"
        self.trunk = trunk.to(device, memory_format=torch.channels_last).eval()
        self.size_px, self.device = size_px, device

    def __call__(self, frames: Tensor) -> Tensor:
        """Return vectors; see :class:`Teacher`."""
        vectors = []
        with torch.inference_mode():
            for part in frames.split(FRAMES_AT_ONCE):
                images = normalised(part.to(self.device), self.size_px, MEAN, STD)
                images = images.contiguous(memory_format=torch.channels_last)
                vectors.append(self.trunk.last_maps(images).mean((2, 3)))
        return torch.cat(vectors)


class OnnxTeacher:
    """Any image encoder as an ONNX file: (n, 3, S, S) float32 in, vectors out.

    Its first output counts: (n, K) as it is, (n, tokens, K) by its first token, (n, K, h, w) by
    its mean over positions.

    Args:
        path: The file.
        size_px: Side S.
        mean: Per-channel mean of RGB in [0, 1].
        std: Per-channel standard deviation.

    Raises:
        TrainingError: The file cannot be read or used so.
    """

    def __init__(
        self, path: str | Path, size_px: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        require_packages("a teacher in ONNX", ("onnxruntime",), "onnx", "use another teacher")
        import onnxruntime

        self.path, self.size_px, self.mean, self.std = Path(path), size_px, mean, std
        try:
            data = self.path.read_bytes()
            self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each way to be damaged
            reason = str(error).partition("\n")[0]
            raise TrainingError(
                f"{path}: no teacher ({reason}); give an image encoder exported to ONNX."
            ) from error
        self.input = self.session.get_inputs()[0].name
        values = f"{hashlib.sha256(data).hexdigest()[:16]} at {size_px} px"
        self.identity = f"{self.path.name} {values}, mean {tuple(mean)}, std {tuple(std)}"
        self.dim = self(torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8)).shape[1]

    def __call__(self, frames: Tensor) -> Tensor:
        """Return vectors; see :class:`Teacher`."""
        return torch.cat([self._vectors(part) for part in frames.cpu().split(FRAMES_AT_ONCE)])

    def _vectors(self, frames: Tensor) -> Tensor:
        images = normalised(frames, self.size_px, self.mean, self.std).numpy()
        try:
            values = np.asarray(self.session.run(None, {self.input: images})[0], np.float32)
        except Exception as error:  # onnxruntime's own, of many classes
            reason = str(error).partition("\n")[0]
            raise TrainingError(
                f"{self.path}: does not take (n, 3, {self.size_px}, {self.size_px}) float32 "
                f"({reason}); set teacher.size_px to its input size, and export it with any "
                "number of images."
            ) from error
        if values.ndim == 4:
            values = values.mean((2, 3))
        elif values.ndim == 3:
            values = values[:, 0]
        if values.ndim != 2 or len(values) != len(frames):
            raise TrainingError(
                f"{self.path}: its first output has shape {values.shape} for {len(frames)} "
                "images; allowed: (n, K), (n, tokens, K) or (n, K, h, w)."
            )
        return torch.from_numpy(values)
