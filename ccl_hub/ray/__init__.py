"""Embedding on a cluster with Ray Data."""

from __future__ import annotations

from .embedder import COLUMNS, LEVELS, CCLEmbedder, embed_paths

__all__ = ["COLUMNS", "LEVELS", "CCLEmbedder", "embed_paths"]
