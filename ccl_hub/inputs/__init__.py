"""Which videos some inputs mean, what they are called, and which share of them a run takes."""

from .extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from .find import VideoInput, VideoSearch, common_root, find_videos
from .lists import listed_paths
from .names import output_name, video_id
from .shards import Shard, parse_shard, shard_of

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "Shard",
    "VideoInput",
    "VideoSearch",
    "common_root",
    "find_videos",
    "listed_paths",
    "output_name",
    "parse_shard",
    "shard_of",
    "video_id",
]
