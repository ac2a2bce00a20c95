"""One video decoded in a confined process and in this one, for tests: both must agree."""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from pathlib import Path

from ccl_hub.config import Preprocessing
from ccl_hub.crop import center_crop
from ccl_hub.decoding.messages import DecodeSettings
from ccl_hub.decoding.one_video import Decode, open_one
from ccl_hub.errors import MediaError
from ccl_hub.sampling import Sampling
from ccl_hub.video import MediaLimits

PAPER = Preprocessing()


def outcome(path: Path, decode: Decode, decode_index: bool = False) -> tuple[object, ...]:
    """Return what is known of a video and the hash of its frames; or its error."""
    sandbox = "require" if decode == "confined" else "auto"
    settings = DecodeSettings(PAPER, Sampling(), MediaLimits(), sandbox=sandbox)
    frames = hashlib.sha256()
    try:
        video = open_one(path, settings, decode, decode_index)
        try:
            for frame in video.frames():
                frames.update(center_crop(frame, PAPER.crop_px).tobytes())
            plan = hashlib.sha256(
                video.plan.indices.tobytes() + video.plan.frame_seconds.tobytes()
            )
            return (*astuple(video.facts), plan.hexdigest(), frames.hexdigest())
        finally:
            video.close()
    except MediaError as error:
        return type(error), str(error)


def same_both_ways(path: Path) -> tuple[object, ...]:
    """Return what is found of a video, the same in a confined process and in this one."""
    for decode_index in (False, True):
        confined = outcome(path, "confined", decode_index)
        here = outcome(path, "in-process", decode_index)
        assert confined == here, path
    return confined
