"""Uniform clips of whole videos, read ahead: what evaluations and tests measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccl_hub._util.prefetch import in_order
from ccl_hub.config import Preprocessing
from ccl_hub.sampling import ClipPlan, sample_eval
from ccl_hub.transforms import center_crop

from ..frames.packed import FrameSource


@dataclass(frozen=True)
class UniformClips:
    """The clips of one video; those that overlap share frames.

    Args:
        video: Position in its source.
        plan: The instants and frames of the clips.
        images: (U, crop, crop, 3) uint8, every frame once.
        index: (W, T) int64, the positions in ``images`` of each clip's frames.
    """

    video: int
    plan: ClipPlan
    images: Tensor
    index: Tensor


def read_uniform_clips(
    source: FrameSource,
    videos: Iterable[int],
    preprocessing: Preprocessing,
    clips: int,
    workers: int,
) -> Iterator[UniformClips]:
    """Read the uniform centre-crop clips of videos, in order.

    Args:
        source: The frames.
        videos: Positions in it.
        preprocessing: How clips are sampled and cropped.
        clips: Per video, uniform from start to end.
        workers: Threads that read ahead, each up to two videos; 0 reads in the calling thread.
    """

    def read(video: int) -> UniformClips:
        seconds, duration = source.seconds(video), source.duration(video)
        plan = sample_eval(seconds, duration, preprocessing, clips=clips)
        frames, index = np.unique(plan.indices, return_inverse=True)
        images = center_crop(torch.from_numpy(source.read(video, frames)), preprocessing.crop_px)
        clip_frames = torch.from_numpy(index.reshape(plan.indices.shape))
        return UniformClips(video, plan, images.contiguous(), clip_frames)

    return in_order(read, videos, threads=workers, ahead=2 * workers, name="clips")
