"""The network on single frames: what clips need of each.

Nothing before conv6 looks across time, so every frame goes through the network once, whatever the
number of clips it is part of (see :mod:`ccl_hub.network.windows`). What a clip needs of a frame is
its feature map under each of conv6's three taps:

    frames (n,S,S,3) uint8 -> trunk -+-> spatial mean -> output -> vectors (n,D)
                                     +-> three taps             -> parts   (n,P,3,D)

:class:`FrameGraph` is that computation in torch; :mod:`ccl_hub.backends.frame_onnx` writes the
same for other runtimes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .architecture import CCLNetwork
from .frame_maps import ClipHead


class FrameGraph(nn.Module):
    """The network on single frames, with conv6 split into its taps and BatchNorm folded in.

    In float32 until the trunk, as :func:`ccl_hub.transforms.to_clips` does.

    Args:
        model: The model, in eval mode, whose trunk is shared.
    """

    taps: Tensor
    shift: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: CCLNetwork) -> None:
        super().__init__()
        pre, head = model.preprocessing, model.head
        self.trunk, self.output = model.trunk, model.output
        scale, shift = folded_norm(head.bn6)
        taps = head.conv6.weight.detach()[..., 0].float() * scale[:, None, None]  # (D,D_in,3)
        # Tap k of a window's frame t reads frame t + k - 1: the frame is "before" for tap 0.
        self.register_buffer("taps", taps.permute(2, 0, 1).reshape(-1, taps.shape[1]))  # (3D,D_in)
        self.register_buffer("shift", shift)
        self.register_buffer("mean", torch.tensor(pre.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(pre.std).view(3, 1, 1))
        self.to(model.device)
        self.dtype = model.dtype
        self.taps = self.taps.to(self.dtype)

    @property
    def clip_head(self) -> ClipHead:
        """The rest of what a clip needs."""
        return ClipHead(self.shift, self.output)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(n,S,S,3) uint8 -> vectors (n,D) float32, parts (n,P,3,D)."""
        images = frames.permute(0, 3, 1, 2).float()  # (n,3,S,S), channels_last in memory
        images = (images / 255 - self.mean) / self.std
        maps = self.trunk(images.to(self.dtype))  # (n,D,h,w)
        vectors = self.output(maps.mean((2, 3), dtype=torch.float32))  # (n,D)
        positions = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (n,P,D)
        parts = positions @ self.taps.t()  # (n,P,3D)
        return vectors, parts.unflatten(2, (3, -1))  # (n,P,3,D)


def folded_norm(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return BatchNorm in eval mode as (D,) float32 scale and shift."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ModelError("the BatchNorm after conv6 keeps no statistics; load other weights.")
    scale = norm.weight.detach().float() / (variance.float() + norm.eps).sqrt()
    return scale, norm.bias.detach().float() - mean.float() * scale
