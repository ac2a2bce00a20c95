"""Embedding on a cluster with Ray Data."""

from .embedder import LEVELS, CCLEmbedder, embed_paths
from .rows import COLUMNS

__all__ = ["COLUMNS", "LEVELS", "CCLEmbedder", "embed_paths"]
