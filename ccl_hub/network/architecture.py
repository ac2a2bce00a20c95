"""The "R18+1" network of Cycle-Contrastive Learning.

Source: "Cycle-Contrast for Self-Supervised Video Representation Learning", NeurIPS 2020,
https://arxiv.org/abs/2010.14810, Table 1 and Sections 3.1 and 4.1.

Nothing before conv6 looks across time, so the trunk is a two-dimensional ResNet-18 without
max-pool over all B*T frames, and a single image has a frame embedding with no special case.

    clips (B,3,T,H,W) -> trunk (B*T,512,H/16,W/16) -+-> spatial mean  -> frames (B,T,512)
                                                    +-> conv6 -> mean -> video  (B,512)
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Architecture, CCLConfig, Preprocessing
from ..errors import InputError

SMALLEST_SIDE_PX = 32


class CCLOutput(NamedTuple):
    """What :class:`CCLNetwork` returns; always float32, whatever the model's dtype.

    ``frames``: (B, T, D) frame features, res5 averaged over space (D = 512).
    ``video``: (B, D) clip features, conv6 averaged over space and time.
    ``frame_projections``: (B, T, 128), the space of the loss, not normalised; only if asked for.
    ``video_projections``: (B, 128), likewise.
    """

    frames: Tensor
    video: Tensor
    frame_projections: Tensor | None = None
    video_projections: Tensor | None = None


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


class Trunk(nn.Module):
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


class TemporalHead(nn.Module):
    """conv6: a 3x1x1 convolution over time, BatchNorm, ReLU, mean over space and time.

    Written as a 3x1 two-dimensional convolution over (time, position): in channels_last memory the
    reshape is free.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv6 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), bias=False)
        self.bn6 = nn.BatchNorm2d(channels)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Let conv6 pass each frame on unchanged, as inflated networks start.

        The video feature then starts as about the mean of the frame features, channel by channel,
        so that both live in one space from the first step on. With random weights nothing but the
        projection ties the two 512-d spaces together.
        """
        nn.init.dirac_(self.conv6.weight)

    @torch.no_grad()
    def start_calibrated(self, maps: Tensor) -> None:
        """Let the whole head pass ``maps`` on unchanged, in training mode too.

        :meth:`start_as_identity` leaves BatchNorm to rescale every channel in training mode, which
        moves videos away from their frames. Scale and shift are set to undo that.

        Args:
            maps: (N,D,h,w) feature maps, as the trunk gives them in training mode.
        """
        self.start_as_identity()
        variance, mean = torch.var_mean(maps.float(), (0, 2, 3), correction=0)  # (D,), (D,)
        values = {
            "running_mean": mean,
            "running_var": variance,
            "weight": (variance + self.bn6.eps).sqrt(),
            "bias": mean,
        }
        self.bn6.load_state_dict({**self.bn6.state_dict(), **values})

    def forward(self, maps: Tensor, clips: int) -> Tensor:
        """(B*T,D,h,w) feature maps of B clips -> (B,D), float32."""
        maps = maps.permute(0, 2, 3, 1)  # (B*T,h,w,D)
        x = maps.reshape(clips, -1, maps.shape[1] * maps.shape[2], maps.shape[3])  # (B,T,h*w,D)
        x = x.permute(0, 3, 1, 2)  # (B,D,T,h*w), channels_last in memory
        x = F.relu(self.bn6(self.conv6(x)))
        return x.mean((2, 3), dtype=torch.float32)  # (B,D)


class Projection(nn.Module):
    """Two-layer perceptron into the space of the loss (Section 4.1): (...,D) -> (...,128)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        hidden = arch.projection_hidden
        self.fc1 = nn.Linear(arch.feature_dim, hidden)
        self.norm: nn.Module = nn.BatchNorm1d(hidden) if arch.projection_norm else nn.Identity()
        self.fc2 = nn.Linear(hidden, arch.projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(...,D) features -> (...,128), float32."""
        x = features.flatten(0, -2).to(self.fc1.weight.dtype)  # (rows,D)
        x = self.fc2(F.relu(self.norm(self.fc1(x))))
        return cast("Tensor", x.float().unflatten(0, features.shape[:-1]))


class CCLNetwork(nn.Module):
    """The network alone (12,128,192 parameters); :class:`ccl_hub.CCLModel` loads it and uses it.

    Args:
        config: Architecture, preprocessing and provenance; the paper's network by default. The
            weights are random.
    """

    def __init__(self, config: CCLConfig | None = None) -> None:
        super().__init__()
        self.config = config or CCLConfig()
        self.name, self.weights_sha256 = "", ""  # set when trained weights are loaded
        arch = self.config.architecture
        self.trunk = Trunk(arch)
        self.head = TemporalHead(arch.feature_dim)
        self.projection = Projection(arch)
        self.video_projection = None if arch.projection_shared else Projection(arch)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-out, as ResNets of this family use; channels_last memory."""
        for module in self.modules():
            # On "meta" there is nothing to fill, and filling it would load torch's compiler.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    @property
    def preprocessing(self) -> Preprocessing:
        """How raw video must be sampled, resized, cropped and normalised for this model."""
        return self.config.preprocessing

    @property
    def device(self) -> torch.device:
        """Device of the weights; inputs must be there too."""
        return self.trunk.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights; inputs are cast to it."""
        return self.trunk.conv1.weight.dtype

    def forward(self, clips: Tensor, project: bool = False) -> CCLOutput:
        """Embed normalised clips.

        Args:
            clips: (B, 3, T, H, W) float, normalised with ``preprocessing.mean`` and ``std``;
                any B, T >= 1 and H, W >= 32.
            project: Also return the 128-d projections that the loss compares.

        Returns:
            A :class:`CCLOutput` of float32 tensors: frames (B,T,512) and video (B,512).

        Raises:
            InputError: If the shape or dtype is not allowed.

        Source:
            Table 1; Section 3.1.
        """
        self._check(clips)
        b, _, t, h, w = clips.shape
        images = clips.permute(0, 2, 1, 3, 4).reshape(b * t, 3, h, w)  # (B*T,3,H,W)
        images = images.to(dtype=self.dtype, memory_format=torch.channels_last)
        maps = self.trunk(images)  # (B*T,D,h,w)
        frames = maps.mean((2, 3), dtype=torch.float32).unflatten(0, (b, t))  # (B,T,D)
        video = self.head(maps, clips=b)  # (B,D)
        if not project:
            return CCLOutput(frames, video)
        return CCLOutput(frames, video, *self.project(frames, video))

    def project(self, frames: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Map features into the space of the loss, not normalised.

        Args:
            frames: (B, T, 512) float32 frame features.
            video: (B, 512) float32 video features.

        Returns:
            (B, T, 128) and (B, 128) float32 projections.

        Source:
            Section 3.1 (the transformation is shared by frames and videos).
        """
        if self.video_projection is not None:
            return self.projection(frames), self.video_projection(video)
        # One pass, so that an optional BatchNorm sees frames and videos together.
        both = self.projection(torch.cat([frames, video[:, None]], dim=1))  # (B,T+1,128)
        return both[:, :-1], both[:, -1]

    @staticmethod
    def _check(clips: Tensor) -> None:
        allowed = f"(B, 3, T, H, W) floats with B, T >= 1 and H, W >= {SMALLEST_SIDE_PX}"
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise InputError(
                f"clips have shape {tuple(clips.shape)}; allowed: {allowed}. "
                "model.embed_frames() takes uint8 (T, H, W, 3) arrays."
            )
        if not clips.is_floating_point():
            raise InputError(
                f"clips have dtype {clips.dtype}; allowed: {allowed}, normalised. "
                "ccl_hub.transforms.to_clips() makes them from uint8 frames."
            )
        if min(clips.shape[0], clips.shape[2]) < 1 or min(clips.shape[3:]) < SMALLEST_SIDE_PX:
            raise InputError(f"clips have shape {tuple(clips.shape)}; allowed: {allowed}.")
