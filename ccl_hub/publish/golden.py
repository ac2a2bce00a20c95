"""Golden inputs and vectors: do this install, decoder and device give our numbers?

Two inputs are embedded. The first is a pattern computed with whole numbers, which needs no
decoder: it tests weights, model and device. The second is a short video file that ships inside
the package: it tests decoding and resizing too. The expected values lie beside each checkpoint
in ``golden.safetensors``, with the versions that made them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._util.files import write_atomically
from .._version import __version__
from ..backends.parity import pattern_clip
from ..embed.stream import embed_video
from ..errors import ModelNotFoundError, WeightsError
from ..network import model_files, weights
from ..network.architecture import CCLNetwork
from ..network.devices import resolve_device
from ..network.model_files import GOLDEN_NAME
from ..transforms import to_clips
from ..video.pixels import DECODER_VERSION
from ..video.reader import VideoReader

if TYPE_CHECKING:
    from ..hub_options import HubOptions

# Relative L2 error of a vector. Observed between CPU kernels: below 1e-5; TF32 on CUDA: 1e-3.
VECTOR_TOLERANCE = 2e-3
# Grey levels, mean over 16 x 16 pixel blocks: FFmpeg builds differ by rounding only.
PIXEL_TOLERANCE = 1.0
# A video's vector, decoded and embedded: both tolerances together.
VIDEO_TOLERANCE = 2e-2
_BLOCK_PX = 16
_RELATIVE = "relative error"


@dataclass(frozen=True)
class Check:
    """One comparison with the golden values.

    Args:
        name: What was compared.
        measured: The difference.
        tolerance: The largest difference allowed.
        unit: What the two numbers are.
    """

    name: str
    measured: float
    tolerance: float
    unit: str

    @property
    def passed(self) -> bool:
        """True if the difference is within the tolerance (NaN never is)."""
        return self.measured <= self.tolerance

    def __str__(self) -> str:
        word = "ok    " if self.passed else "DIFFER"
        return f"{word} {self.name}: {self.measured:.3g} {self.unit} (allowed {self.tolerance:g})"


def golden_clip() -> Path:
    """Return the short video that ships inside the package."""
    return Path(str(resources.files(__package__ or "ccl_hub.publish"))) / "golden.mp4"


def compute(model: CCLNetwork) -> dict[str, np.ndarray]:
    """Embed the golden inputs with ``model``; float32 arrays by name."""
    pre = model.preprocessing
    with torch.inference_mode():
        inputs = to_clips(torch.from_numpy(pattern_clip(pre)).to(model.device), pre)
        pattern = model(inputs)
    with VideoReader(golden_clip(), resize=pre) as reader:
        indices = np.arange(0, len(reader.info.seconds), 10)
        small = np.stack([frame for _, frame in reader.frames(indices)])  # (n,h,w,3)
        seconds = reader.info.seconds
    rows, columns = (size // _BLOCK_PX * _BLOCK_PX for size in small.shape[1:3])
    blocks = small[:, :rows, :columns].reshape(
        len(small), rows // _BLOCK_PX, _BLOCK_PX, columns // _BLOCK_PX, _BLOCK_PX, 3
    )
    return {
        "pattern_frames": pattern.frames[0].cpu().numpy(),
        "pattern_video": pattern.video[0].cpu().numpy(),
        "file_seconds": seconds.astype(np.float32),
        "file_pixels": blocks.mean(axis=(2, 4), dtype=np.float64).astype(np.float32),
        "file_clips": embed_video(model, golden_clip(), clips=3).clips,
    }


def compare(measured: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[Check]:
    """Compare the results of :func:`compute` with golden ones."""

    def check(what: str, name: str, tolerance: float, unit: str = _RELATIVE) -> Check:
        if measured[name].shape != expected[name].shape:
            return Check(what, float("nan"), tolerance, unit)
        difference = np.abs(measured[name] - expected[name])
        if unit == _RELATIVE:
            difference = np.linalg.norm(measured[name] - expected[name], axis=-1)
            difference /= np.linalg.norm(expected[name], axis=-1)
        return Check(what, float(difference.max()), tolerance, unit)

    return [
        check("model, frame vectors", "pattern_frames", VECTOR_TOLERANCE),
        check("model, video vector", "pattern_video", VECTOR_TOLERANCE),
        check("decoder, frame times", "file_seconds", 1e-6, "s"),
        check("decoder, pixels", "file_pixels", PIXEL_TOLERANCE, "grey levels"),
        check("video file to vectors", "file_clips", VIDEO_TOLERANCE),
    ]


def verify(
    name: str | Path,
    device: str | torch.device | None = None,
    revision: str | None = None,
    hub: HubOptions | None = None,
) -> list[Check]:
    """Load a model and compare it with the golden values beside it.

    The arguments are those of :meth:`ccl_hub.CCLModel.from_pretrained`; ``hub`` holds the rest of
    its keywords.

    Raises:
        ModelNotFoundError: No such model, or no golden values beside it.
        WeightsError: The weights are not the published ones, or the golden values are damaged.
    """
    import safetensors.numpy

    where = resolve_device(device)
    source = model_files.resolve(name, revision, hub)
    path = model_files.beside(source, GOLDEN_NAME)
    if path is None:
        raise ModelNotFoundError(
            f"{name}: no {GOLDEN_NAME} beside the weights, so there is nothing to compare with; "
            "training.export and push_to_hub write one."
        )
    model = weights.load(CCLNetwork, source, where)
    try:
        return compare(compute(model), safetensors.numpy.load_file(path))
    except (safetensors.SafetensorError, KeyError) as error:
        raise WeightsError(
            f"{path}: damaged, or made by another version ({error}); fetch or export it again."
        ) from error


def write(model: CCLNetwork, folder: Path) -> None:
    """Write ``golden.safetensors`` for ``model`` into ``folder``, with versions recorded."""
    import safetensors.numpy

    versions = {
        "ccl_hub": __version__,
        "torch": torch.__version__,
        "decoder": DECODER_VERSION,
        "machine": platform.machine(),
        "weights_sha256": model.weights_sha256,
    }
    data = safetensors.numpy.save(compute(model), metadata=versions)
    write_atomically(folder / GOLDEN_NAME, data)
