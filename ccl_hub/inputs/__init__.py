"""Which videos some inputs mean, and what they are called."""

from __future__ import annotations

from .find import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    VideoInput,
    common_root,
    find_videos,
    parse_shard,
    shard_of,
)
from .names import output_name

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "VideoInput",
    "common_root",
    "find_videos",
    "output_name",
    "parse_shard",
    "shard_of",
]
