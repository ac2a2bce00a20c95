"""The result of embedding one video: vectors, times, and what made them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._util.files import write_atomically
from ..config import parse_dataclass
from . import writers

FACTS = ("model", "weights_sha256", "config_fingerprint", "backend", "dtype", "sampling")
"""Fields of the provenance that every video of a batch shares: columns of datasets."""


@dataclass(frozen=True)
class EmbeddingProvenance:
    """What made these embeddings, so that they can be compared or made again.

    Args:
        model: Name or path the model was loaded from, or "" if built by hand.
        weights_sha256: Hash of its weights file, or "".
        config_fingerprint: Hash of architecture and preprocessing.
        dtype: Floating-point type of the model's weights.
        device: Kind of device it ran on.
        sampling: "clips=N" or "every_seconds=S".
        ccl_hub: Version of this package.
        torch: Version of torch, or "" where another runtime ran the network.
        backend: What ran the network: "torch", "onnx", "openvino"; with the hash of a quantised
            model behind it.
        runtime: What that is, and its version: "onnxruntime 1.32.0".
        decoder: Versions of the decoder, or "" for frames given as arrays.
        source: The file, or "" for arrays.
        source_bytes: Its size, or 0.
        source_frames: Frames it holds, counted by reading it.
        duration_seconds: Time from the first frame to the end of the last.
        completeness: "complete", "incomplete" (truncated or damaged) or "unknown" (the container
            does not say how long the video should be).
        note: What is missing, in words.
        sandbox: How well the decoder was confined: "full", "files only" or "none"
            (SECURITY.md); "" for arrays, and of files written before there was one.
    """

    model: str
    weights_sha256: str
    config_fingerprint: str
    dtype: str
    device: str
    sampling: str
    ccl_hub: str
    torch: str
    backend: str = "torch"
    runtime: str = ""
    decoder: str = ""
    source: str = ""
    source_bytes: int = 0
    source_frames: int = 0
    duration_seconds: float = 0.0
    completeness: str = "complete"
    note: str = ""
    sandbox: str = ""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of one video at three levels; W clips of T frames, D = 512.

    Compare by cosine similarity: clips and videos with each other, frames with each other. How
    well frames find videos depends on the checkpoint; its model card says.

    Args:
        clips: (W, D) float32, one vector for each clip (the network's video feature).
        clip_seconds: (W, 2) float64, start and end of each clip in seconds from the first frame.
        frames: (W, T, D) float32, one vector for each sampled frame.
        frame_seconds: (W, T) float64, presentation time of each sampled frame.
        video: (D,) float32, mean of ``clips``.
        provenance: What made them.
    """

    clips: np.ndarray
    clip_seconds: np.ndarray
    frames: np.ndarray
    frame_seconds: np.ndarray
    video: np.ndarray
    provenance: EmbeddingProvenance

    @property
    def incomplete(self) -> bool:
        """True if part of the video could not be read; what is here comes from the rest."""
        return self.provenance.completeness == "incomplete"

    def save(self, path: str | Path, level: str | None = None) -> None:
        """Write to a file, whole or not at all.

        Args:
            path: Ends in ``.npy`` (one array), ``.npz`` or ``.safetensors`` (every array, times
                and provenance). Replaced if it exists.
            level: For ``.npy``: "clip" (W,512), the default; "frame" (W,T,512); "video" (512,).

        Raises:
            InputError: Unknown suffix or level.
            OutputError: The file cannot be written.
        """
        path, source = Path(path), self.provenance.source
        writers.check_output(path, level, Path(source) if source else None)
        write_atomically(path, lambda file: self.write(file, path.suffix, level))

    def write(self, file: BinaryIO, suffix: str, level: str | None = None) -> None:
        """Write into an open binary file what :meth:`save` writes for a name with this suffix."""
        arrays = {name: getattr(self, name) for name in writers.ARRAYS}
        writers.write(arrays, asdict(self.provenance), file, suffix, level)

    @staticmethod
    def load(path: str | Path) -> Embeddings:
        """Read what :meth:`save` wrote as ``.npz`` or ``.safetensors``.

        Raises:
            InputError: The file is of another kind, or damaged.
            FileNotFoundError: There is no such file.
        """
        arrays, facts = writers.read(Path(path))
        provenance = parse_dataclass(EmbeddingProvenance, facts, str(path))
        return Embeddings(**arrays, provenance=provenance)

    def __repr__(self) -> str:
        source = self.provenance.source or "array"
        return (
            f"Embeddings({source!r}, clips={self.clips.shape}, frames={self.frames.shape}, "
            f"seconds={self.provenance.duration_seconds:.2f}, {self.provenance.completeness})"
        )
