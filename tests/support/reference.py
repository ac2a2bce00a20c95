"""Table 1 of the paper written literally with Conv3d, to check and to race the real model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccl_hub.model import CCLModel


def _conv(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int = 1) -> nn.Conv3d:
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), padding, bias=False)


class Block3d(nn.Module):
    """Two 1x3x3 convolutions, shortcut 1x1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, (1, 3, 3), stride), nn.BatchNorm3d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, (1, 3, 3)), nn.BatchNorm3d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _conv(inputs, outputs, (1, 1, 1), stride), nn.BatchNorm3d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Conv3dReference(nn.Module):
    """clips (B,3,T,H,W) -> frames (B,T,D), video (B,D)."""

    def __init__(
        self,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        blocks: tuple[int, ...] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, channels[0], (1, 7, 7), 2), nn.BatchNorm3d(channels[0])
        layers: list[nn.Module] = []
        width = channels[0]
        for stage, (out, depth) in enumerate(zip(channels, blocks, strict=True)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Block3d(width, out, stride))
                width = out
        self.res = nn.Sequential(*layers)
        self.conv6, self.bn6 = _conv(width, width, (3, 1, 1)), nn.BatchNorm3d(width)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(clips)))  # (B,64,T,H/2,W/2)
        x = self.res(x)  # (B,D,T,H/16,W/16)
        frames = x.mean((3, 4)).transpose(1, 2)  # (B,T,D)
        video = F.relu(self.bn6(self.conv6(x))).mean((2, 3, 4))  # (B,D)
        return frames, video

    def load_from(self, model: CCLModel) -> Conv3dReference:
        """Copy the weights of a CCLModel by order; each must have the same numbers."""
        source = [
            (key, value)
            for key, value in model.state_dict().items()
            if not key.startswith(("projection.", "video_projection."))
        ]
        own = self.state_dict()
        assert len(source) == len(own)
        self.load_state_dict(
            {
                name: value.reshape(target.shape)
                for (name, target), (_, value) in zip(own.items(), source, strict=True)
            }
        )
        return self


@torch.no_grad()
def randomise_norms(model: nn.Module, seed: int = 0) -> None:
    """Give every BatchNorm random statistics, so that eval mode is not close to the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.uniform_(low, high, generator=generator)
