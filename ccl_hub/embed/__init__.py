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
        ".embeddings": ["EmbeddingProvenance", "Embeddings"],
        ".in_memory": ["embed_frames", "embed_image", "preprocess"],
        ".results": ["gather", "make_provenance"],
        ".stream": ["ClipStream", "embed_video", "write_video"],
    },
)
