"""Frame and video embeddings from any video file, by Cycle-Contrastive Learning.

Example:
    >>> import ccl_hub
    >>> "ccl_lite0" in ccl_hub.list_models()
    True
"""

from typing import TYPE_CHECKING

from ._util.lazy import lazy_names
from ._version import __version__
from .config import Architecture, CCLConfig, Preprocessing, Provenance
from .hub_options import HubOptions
from .registry import list_models

if TYPE_CHECKING:
    from .batch import embed_many
    from .batch.options import BatchItem, BatchOptions
    from .embed.embeddings import Embeddings
    from .model import CCLModel, CCLOutput

__all__ = [
    "Architecture",
    "BatchItem",
    "BatchOptions",
    "CCLConfig",
    "CCLModel",
    "CCLOutput",
    "Embeddings",
    "HubOptions",
    "Preprocessing",
    "Provenance",
    "__version__",
    "embed_many",
    "list_models",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".batch.options": ["BatchItem", "BatchOptions"],
        ".batch.run": ["embed_many"],
        ".embed.embeddings": ["Embeddings"],
        ".model": ["CCLModel", "CCLOutput"],
    },
)
