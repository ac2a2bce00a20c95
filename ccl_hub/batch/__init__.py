"""Many videos, decoded in processes and computed in lanes."""

from typing import TYPE_CHECKING

from .._util.lazy import lazy_names

if TYPE_CHECKING:
    from ..backends.make import engines_for
    from .options import BatchItem, BatchOptions
    from .run import embed_batch, embed_many, embed_patiently

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
        "BatchItem": ".options",
        "BatchOptions": ".options",
        "embed_batch": ".run",
        "embed_many": ".run",
        "embed_patiently": ".run",
        "engines_for": "..backends.make",
    },
)
