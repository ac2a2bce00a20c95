"""The network of Cycle-Contrastive Learning: a trunk on frames, and one layer across time.

Source: "Cycle-Contrast for Self-Supervised Video Representation Learning", NeurIPS 2020,
https://arxiv.org/abs/2010.14810, Table 1 and Sections 3.1 and 4.1.

Nothing before conv6 looks across time, so the trunk is a two-dimensional network over all B*T
frames (the paper's: ResNet-18 without max-pool, together "R18+1"), and a single image has a frame
embedding with no special case.

    clips (B,3,T,H,W) -> trunk (B*T,512,h,w) -+-> spatial mean  -> output -> frames (B,T,512)
                                              +-> conv6 -> mean -> output -> video  (B,512)
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Architecture, CCLConfig, Preprocessing
from ..errors import InputError
from .efficientnet_lite import EfficientNetLite0
from .resnet import ResNet18

TRUNKS: dict[str, type[nn.Module]] = {
    "resnet18": ResNet18,
    "efficientnet_lite0": EfficientNetLite0,
}
"""The module of each of :data:`ccl_hub.config.TRUNK_SHAPES`."""


class CCLOutput(NamedTuple):
    """What :class:`CCLNetwork` returns; always float32, whatever the model's dtype.

    ``frames``: (B, T, D) frame features, the trunk's maps averaged over space (D = 512).
    ``video``: (B, D) clip features, conv6 averaged over space and time.
    Both have gone through the model's output map: see ``Architecture.output``.
    ``frame_projections``: (B, T, 128), the space of the loss, not normalised; only if asked for.
    ``video_projections``: (B, 128), likewise.
    """

    frames: Tensor
    video: Tensor
    frame_projections: Tensor | None = None
    video_projections: Tensor | None = None


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


class Whitening(nn.Module):
    """The linear map after pooling, one for frames and videos: centred, of equal variances.

    It is the identity until :meth:`fit`.
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Buffers: fitted to data once, never trained.
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("weight", torch.eye(dim))

    @torch.no_grad()
    def fit(self, vectors: Tensor, damping: float = 0.1) -> None:
        """Fit to pooled vectors by principal components; each gets about the same variance.

        Args:
            vectors: (n, D) pooled features of frames, n above D.
            damping: This times the mean eigenvalue is added to each eigenvalue, so that directions
                of next to no variance are not blown up.

        Raises:
            InputError: There are too few vectors.
        """
        count, dim = vectors.shape
        if count <= dim:
            raise InputError(f"{count} vectors cannot be whitened; give more than {dim}.")
        rows = vectors.double()
        mean = rows.mean(0)  # (D,)
        values, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / count)  # (D,), (D,D)
        scale = (values + damping * values.mean()).rsqrt()
        weight = (axes * scale).T.flip(0)  # (D,D), the largest eigenvalue first
        self.load_state_dict({"mean": mean, "weight": weight})

    def forward(self, pooled: Tensor) -> Tensor:
        """(...,D) -> (...,D), float32."""
        return F.linear(pooled - self.mean.float(), self.weight.float())


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
        self.trunk = TRUNKS[arch.trunk](arch)
        self.head = TemporalHead(arch.feature_dim)
        whitened = arch.output == "whitened"
        self.output: nn.Module = Whitening(arch.feature_dim) if whitened else nn.Identity()
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
        return self.head.conv6.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights; inputs are cast to it."""
        return self.head.conv6.weight.dtype

    @property
    def smallest_side_px(self) -> int:
        """Smallest height and width of a frame."""
        return self.config.architecture.trunk_shape.smallest_side_px

    def forward(self, clips: Tensor, project: bool = False) -> CCLOutput:
        """Embed normalised clips.

        Args:
            clips: (B, 3, T, H, W) float, normalised with ``preprocessing.mean`` and ``std``;
                any B, T >= 1 and H, W >= ``smallest_side_px``.
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
        projections = self.project(frames, video) if project else ()
        return CCLOutput(self.output(frames), self.output(video), *projections)

    def project(self, frames: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Map features into the space of the loss, not normalised.

        Args:
            frames: (B, T, 512) float32 frame features, before the output map.
            video: (B, 512) float32 video features, likewise.

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

    def _check(self, clips: Tensor) -> None:
        smallest = self.smallest_side_px
        allowed = f"(B, 3, T, H, W) floats with B, T >= 1 and H, W >= {smallest}"
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
        if min(clips.shape[0], clips.shape[2]) < 1 or min(clips.shape[3:]) < smallest:
            raise InputError(f"clips have shape {tuple(clips.shape)}; allowed: {allowed}.")
