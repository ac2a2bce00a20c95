"""Checking a model folder and uploading it; its card; the golden values it is verified by."""

from .golden import Check, verify
from .model_card import Card, Figure
from .upload import CheckedFolder, Published, check_folder, publish, push, write_texts

__all__ = [
    "Card",
    "Check",
    "CheckedFolder",
    "Figure",
    "Published",
    "check_folder",
    "publish",
    "push",
    "verify",
    "write_texts",
]
