"""One video in, embeddings out."""

from typing import TYPE_CHECKING

from .._util.lazy import lazy_names

if TYPE_CHECKING:
    from .embeddings import EmbeddingProvenance, Embeddings
    from .in_memory import embed_frames, embed_image, preprocess
    from .results import gather, make_provenance
    from .stream import ClipStream, embed_video, write_video

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
        "embed_frames": ".in_memory",
        "embed_image": ".in_memory",
        "embed_video": ".stream",
        "gather": ".results",
        "make_provenance": ".results",
        "preprocess": ".in_memory",
        "write_video": ".stream",
    },
)
