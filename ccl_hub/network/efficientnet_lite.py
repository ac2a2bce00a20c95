"""EfficientNet-Lite0 on single frames, as the trunk of a small and fast checkpoint.

Sources: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
https://arxiv.org/abs/1905.11946, Table 1; and the description of its "Lite" variants: no
squeeze-and-excitation, ReLU6 for swish, a stem and a last convolution that do not scale.

    images (N,3,H,W) -> stem -> seven stages -> 1x1 to 1280 -> 1x1 to D, ReLU -> (N,D,H/32,W/32)

The last convolution is ours: it brings the 1280 channels to the D of the temporal head.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Architecture
from .lite_stages import BATCHNORM_EPSILON, STAGES, StageShape

NORM_MOMENTUM = 0.01
"""As the network was trained by its authors; torch's own defaults would change its numbers."""


class PaddedConv(nn.Conv2d):
    """A convolution whose stride divides the side, padded as TensorFlow's "SAME" pads then.

    With stride 2 the odd pixel of padding lies at the bottom and at the right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_px: int, stride: int = 1, groups: int = 1
    ) -> None:
        total = kernel_px - stride
        before = total // 2
        even = total == 2 * before
        super().__init__(
            in_channels,
            out_channels,
            kernel_px,
            stride,
            padding=before if even else 0,
            groups=groups,
            bias=False,
        )
        # One more than is used behind an even side: an odd one gives half of it rounded up, and
        # torch.export can tell that no side becomes 0.
        behind = total - before + 1
        self.uneven_padding = () if even else (before, behind, before, behind)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C',h/stride,w/stride)."""
        return super().forward(F.pad(x, self.uneven_padding) if self.uneven_padding else x)


class InvertedBottleneck(nn.Module):
    """MBConv: widen by 1x1, filter each channel by itself, narrow by 1x1, add the input."""

    def __init__(self, in_channels: int, out_channels: int, shape: StageShape) -> None:
        super().__init__()
        hidden = in_channels * shape.expansion
        self.expand: nn.Module = nn.Identity()
        if shape.expansion != 1:
            self.expand = conv_norm(in_channels, hidden, 1)
        self.depthwise = conv_norm(hidden, hidden, shape.kernel_px, shape.stride, groups=hidden)
        self.narrow = conv_norm(hidden, out_channels, 1, activation=False)
        self.adds_input = shape.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C',h/stride,w/stride)."""
        y = self.narrow(self.depthwise(self.expand(x)))
        return cast("Tensor", x + y if self.adds_input else y)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_px: int,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """Return convolution, BatchNorm and, if asked for, ReLU6."""
    layers = [
        PaddedConv(in_channels, out_channels, kernel_px, stride, groups),
        nn.BatchNorm2d(out_channels, BATCHNORM_EPSILON, NORM_MOMENTUM),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6()] if activation else []))


class EfficientNetLite0(nn.Module):
    """Stem, seven stages and two 1x1 convolutions: (N,3,H,W) -> (N,D,H/32,W/32).

    Args:
        arch: Its ``stage_channels`` are the widths of the seven stages, of the 1x1 convolution
            after them, and D; its ``stage_blocks`` the depths of the seven stages.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        *widths, last, features = arch.stage_channels
        channels = 2 * widths[0]
        self.stem = conv_norm(3, channels, 3, stride=2)
        stages = []
        for width, depth, shape in zip(widths, arch.stage_blocks, STAGES, strict=True):
            blocks = [InvertedBottleneck(channels, width, shape)]
            again = shape._replace(stride=1)
            blocks += [InvertedBottleneck(width, width, again) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.last = conv_norm(channels, last, 1)
        self.features = nn.Conv2d(last, features, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps of single frames: (N,3,H,W) -> (N,D,H/32,W/32), none below 0."""
        return F.relu(self.features(self.last_maps(images)))

    def last_maps(self, images: Tensor) -> Tensor:
        """(N,3,H,W) -> (N,1280,H/32,W/32): what the published network pools and classifies."""
        return cast("Tensor", self.last(self.stages(self.stem(images))))

    @torch.no_grad()
    def start_features(self, weight: Tensor, bias: Tensor) -> None:
        """Let the last convolution be a given map of the 1280 channels.

        Args:
            weight: (D, 1280).
            bias: (D,).
        """
        self.features.weight.copy_(weight[..., None, None])
        self.features.bias.copy_(bias)  # type: ignore[union-attr]
