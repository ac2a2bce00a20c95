"""Checking a model folder and uploading it; its card; the golden values it is verified by."""

from __future__ import annotations

from .upload import CheckedFolder, Published, check_folder, publish, push, write_texts

__all__ = [
    "CheckedFolder",
    "Published",
    "check_folder",
    "publish",
    "push",
    "write_texts",
]
