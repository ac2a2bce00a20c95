"""Many videos, decoded in processes and computed in lanes."""

from typing import TYPE_CHECKING

from .._util.lazy import lazy_names

if TYPE_CHECKING:
    from .options import BatchItem, BatchOptions
    from .run import embed_batch, embed_many, embed_patiently, engines_for

__all__ = [
    "BatchItem",
    "BatchOptions",
    "embed_batch",
    "embed_many",
    "embed_patiently",
    "engines_for",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".options": ["BatchItem", "BatchOptions"],
        ".run": ["embed_batch", "embed_many", "embed_patiently", "engines_for"],
    },
)
