"""Frame and video embeddings from any video file, by Cycle-Contrastive Learning.

Example:
    >>> import ccl_hub
    >>> "ccl_r18_mini" in ccl_hub.list_models()
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .config import Architecture, CCLConfig, Preprocessing, Provenance
from .hub_options import HubOptions
from .registry import list_models

if TYPE_CHECKING:
    from .batch import embed_many
    from .batch_options import BatchItem, BatchOptions
    from .embeddings import Embeddings
    from .model import CCLModel, CCLOutput

__version__ = "0.1.0"

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

_LAZY = {
    "BatchItem": "batch_options",
    "BatchOptions": "batch_options",
    "CCLModel": "model",
    "CCLOutput": "model",
    "Embeddings": "embeddings",
    "embed_many": "batch",
}


def __getattr__(name: str) -> object:
    """Import what needs torch only when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the lazy names too, so that completion shows them."""
    return sorted({*globals(), *__all__})
