"""Rows that nobody trained here: a published image encoder, and thumbnails."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccl_hub import CCLModel
from ccl_hub.config import TRUNK_SHAPES, Architecture, CCLConfig, Preprocessing, Provenance
from ccl_hub.network.efficientnet_lite import EfficientNetLite0

from ..clips.augment import LUMA
from ..teachers.lite0 import MEAN, STD, load_lite0

LITE0 = "efficientnet_lite0"
THUMBNAIL_PX = 24


def lite0_model(like: CCLConfig) -> tuple[CCLModel, str]:
    """Build EfficientNet-Lite0 as it was published: a frame is the mean of its 1280 channels.

    Args:
        like: Gives frame size and sampling.

    Returns:
        The model, a video being the mean of its frames, and one line that says what it is.

    Raises:
        TrainingError: The package with its weights is not installed.
    """
    *widths, last, _ = TRUNK_SHAPES[LITE0].channels
    arch = Architecture(trunk=LITE0, stage_channels=(*widths, last, last))
    pre = dataclasses.replace(like.preprocessing, mean=MEAN, std=STD)
    model = CCLModel(CCLConfig(arch, pre, Provenance(LITE0, "ImageNet-1k, with labels")))
    trunk = EfficientNetLite0(arch)
    model.trunk = trunk.to(memory_format=torch.channels_last)
    model.weights_sha256 = load_lite0(trunk)
    trunk.start_features(torch.eye(last), torch.zeros(last))  # none of the channels is below 0
    model.head.start_as_identity()
    model.name = LITE0
    return model.eval(), "EfficientNet-Lite0 trained with ImageNet labels, untouched"


def thumbnail_model(like: CCLConfig, difference: bool) -> tuple[CCLModel, str]:
    """Build a model whose vectors are 24 x 24 grey pixels.

    Args:
        like: Gives frame size and sampling.
        difference: A video is the mean difference of frames, not the mean frame.

    Returns:
        The model, and one line that says what it is.
    """
    pixels = THUMBNAIL_PX**2
    arch = Architecture(stage_channels=(1, 1, 1, pixels), stage_blocks=(1, 1, 1, 1))
    model = CCLModel(CCLConfig(arch, like.preprocessing, Provenance("thumbnail")))
    model.trunk = _Thumbnail(like.preprocessing)
    model.head = _Motion(model.head) if difference else _Mean(model.head)
    model.name = "thumbnail"
    video = "mean difference of frames" if difference else "mean frame"
    return model.eval(), f"no learning; {THUMBNAIL_PX} x {THUMBNAIL_PX} grey pixels, {video}"


class _Thumbnail(nn.Module):
    """(N,3,H,W) normalised -> (N,576,1,1), grey in [0, 1]."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))
        self.register_buffer("grey", torch.tensor(LUMA))

    def forward(self, images: Tensor) -> Tensor:
        rgb = images * self.std + self.mean
        grey = torch.einsum("nchw,c->nhw", rgb, self.grey)[:, None]  # (N,1,H,W)
        return F.adaptive_avg_pool2d(grey, THUMBNAIL_PX).flatten(1)[..., None, None]


class _Mean(nn.Module):
    """A clip is the mean of its frames."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv6 = head.conv6  # the model asks it for device and dtype

    def forward(self, maps: Tensor, clips: int) -> Tensor:
        return maps.flatten(1).unflatten(0, (clips, -1)).mean(1)  # (B,D)


class _Motion(_Mean):
    """A clip is the mean absolute difference of neighbouring frames."""

    def forward(self, maps: Tensor, clips: int) -> Tensor:
        frames = maps.flatten(1).unflatten(0, (clips, -1))  # (B,T,D)
        return frames.diff(dim=1).abs().mean(1)
