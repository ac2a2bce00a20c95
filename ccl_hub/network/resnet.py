"""The trunk of the paper's network: ResNet-18 on single frames, without max-pool (Table 1)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Architecture


class BasicBlock(nn.Module):
    """Two 1x3x3 convolutions and a shortcut (paper, Table 1)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,h,w) -> (N,C',h/stride,w/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """conv1 and res2..res5 on single frames: (N,3,H,W) -> (N,512,H/16,W/16)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        channels = arch.stage_channels[0]
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        widths, depths = arch.stage_channels, arch.stage_blocks
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [BasicBlock(channels, width, stride=1 if i == 0 else 2)]
            blocks += [BasicBlock(width, width, stride=1) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.res2, self.res3, self.res4, self.res5 = stages

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps of single frames: (N,3,H,W) -> (N,512,H/16,W/16)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.res3(self.res2(x))
        return cast("Tensor", self.res5(self.res4(x)))
