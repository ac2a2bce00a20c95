"""From the pieces of one video and what made them to its :class:`Embeddings`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .._version import __version__
from ..backends.engine import Engine
from ..backends.make import TORCH_BACKENDS
from ..network.windows import ClipArrays, ClipVectors
from ..sampling import ClipPlan, Sampling
from ..video.info import SourceFacts
from ..video.pixels import DECODER_VERSION
from .embeddings import EmbeddingProvenance, Embeddings


def make_provenance(
    engine: Engine,
    sampling: Sampling,
    path: str | Path | None = None,
    source: SourceFacts | None = None,
    sandbox: str = "",
) -> EmbeddingProvenance:
    """Return what made embeddings: engine, sampling and, for a file, what is known of it.

    ``sandbox`` is the level at which the decoder of the file was confined.
    """
    model, run = engine.model, engine.info
    facts = EmbeddingProvenance(
        model=model.name,
        weights_sha256=model.weights_sha256,
        config_fingerprint=model.config.fingerprint(),
        dtype=run.dtype,
        device=run.device,
        sampling=str(sampling),
        ccl_hub=__version__,
        torch=run.runtime.removeprefix("torch ") if run.backend in TORCH_BACKENDS else "",
        backend=f"{run.backend} {run.detail}".strip(),
        runtime=run.runtime,
    )
    if path is None or source is None:
        return facts
    return replace(
        facts,
        decoder=DECODER_VERSION,
        source=os.fspath(path),
        source_bytes=source.size_bytes,
        source_frames=source.frames,
        duration_seconds=source.duration_seconds,
        completeness=source.completeness,
        note=source.note,
        sandbox=sandbox,
    )


def gather(
    pieces: Iterable[ClipVectors],
    plan: ClipPlan,
    provenance: Callable[[], EmbeddingProvenance],
) -> Embeddings:
    """Put the pieces of one video together.

    Args:
        pieces: Vectors in order, together of every clip of the plan.
        plan: Its clips.
        provenance: Called after the last piece, when all is known.
    """
    arrays = ClipArrays(len(plan.indices))
    for piece in pieces:
        arrays.add(piece)
    clips, frames = arrays.vectors
    mean = clips.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Embeddings(clips, plan.clip_seconds, frames, plan.frame_seconds, mean, provenance())
