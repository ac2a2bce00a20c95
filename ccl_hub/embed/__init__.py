"""One video in, embeddings out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._util.lazy import lazy_names

if TYPE_CHECKING:
    from .embeddings import EmbeddingProvenance, Embeddings
    from .in_memory import preprocess
    from .stream import (
        ClipStream,
        embed_frames,
        embed_image,
        embed_video,
        gather,
        make_provenance,
        write_video,
    )

__all__ = [
    "ClipStream",
    "EmbeddingProvenance",
    "Embeddings",
    "embed_frames",
    "embed_image",
    "embed_video",
    "gather",
    "make_provenance",
    "preprocess",
    "write_video",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ClipStream": ".stream",
        "EmbeddingProvenance": ".embeddings",
        "Embeddings": ".embeddings",
        "embed_frames": ".stream",
        "embed_image": ".stream",
        "embed_video": ".stream",
        "gather": ".stream",
        "make_provenance": ".stream",
        "preprocess": ".in_memory",
        "write_video": ".stream",
    },
)
