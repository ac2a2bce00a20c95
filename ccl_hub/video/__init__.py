"""Local video and image files in, upright RGB frames with presentation times out: all of PyAV.

    open -> scan -> index, times -> info       which frames there are, and when each is shown
    open -> decode -> view -> pixels -> reader    the frames themselves, as users ask for them

``headers`` reads a few bytes of a file itself, for what PyAV does not pass on.
"""

from .info import Completeness, SourceFacts, VideoInfo
from .open import MediaLimits
from .pixels import DECODER_VERSION, resize_rgb
from .reader import DecodeReport, VideoReader, iter_frames, load_image

__all__ = [
    "DECODER_VERSION",
    "Completeness",
    "DecodeReport",
    "MediaLimits",
    "SourceFacts",
    "VideoInfo",
    "VideoReader",
    "iter_frames",
    "load_image",
    "resize_rgb",
]
