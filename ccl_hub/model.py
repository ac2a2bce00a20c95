"""The "R18+1" network of Cycle-Contrastive Learning.

Source: "Cycle-Contrast for Self-Supervised Video Representation Learning", NeurIPS 2020,
https://arxiv.org/abs/2010.14810, Table 1 and Sections 3.1 and 4.1.

Nothing before conv6 looks across time, so the trunk is a two-dimensional ResNet-18 without
max-pool over all B*T frames, and a single image has a frame embedding with no special case.

    clips (B,3,T,H,W) -> trunk (B*T,512,H/16,W/16) -+-> spatial mean  -> frames (B,T,512)
                                                    +-> conv6 -> mean -> video  (B,512)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Never, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._util.checks import known_keywords
from .config import Architecture, CCLConfig, Preprocessing
from .errors import InputError
from .hub_options import HubOptions
from .network import weights

if TYPE_CHECKING:
    import numpy as np

    from .embed.embeddings import Embeddings
    from .embed.stream import ImageLike
    from .publish.model_card import Card
    from .publish.upload import Published

__all__ = ["CCLModel", "CCLOutput"]

SMALLEST_SIDE_PX = 32
PRETRAINED_KEYWORDS = ("revision", "device", "dtype", *(f.name for f in fields(HubOptions)))
"""What :meth:`CCLModel.from_pretrained` takes besides the name."""


class CCLOutput(NamedTuple):
    """What :class:`CCLModel` returns; always float32, whatever the model's dtype.

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

    def __init__(self, stage_channels: Sequence[int], stage_blocks: Sequence[int]) -> None:
        super().__init__()
        channels = stage_channels[0]
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for i, (width, depth) in enumerate(zip(stage_channels, stage_blocks, strict=True)):
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

    Written as a 3x1 two-dimensional convolution over (time, place): in channels_last memory the
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

    def __init__(self, channels: int, hidden: int, dim: int, norm: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.norm: nn.Module = nn.BatchNorm1d(hidden) if norm else nn.Identity()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(...,D) features -> (...,128), float32."""
        x = features.flatten(0, -2).to(self.fc1.weight.dtype)  # (rows,D)
        x = self.fc2(F.relu(self.norm(self.fc1(x))))
        return cast("Tensor", x.float().unflatten(0, features.shape[:-1]))


class CCLModel(nn.Module):
    """Frame and video embeddings by Cycle-Contrastive Learning (12,128,192 parameters).

    Args:
        config: Architecture, preprocessing and provenance; the paper's network by default, with
            fresh random weights. :meth:`from_pretrained` gives a trained one.

    Example:
        >>> import torch
        >>> model = CCLModel().eval()
        >>> with torch.inference_mode():
        ...     output = model(torch.zeros(1, 3, 8, 112, 112))
        >>> output.frames.shape, output.video.shape
        (torch.Size([1, 8, 512]), torch.Size([1, 512]))
    """

    def __init__(self, config: CCLConfig | None = None) -> None:
        super().__init__()
        self.config = config or CCLConfig()
        self.name, self.weights_sha256 = "", ""  # set by from_pretrained
        arch = self.config.architecture
        self.trunk = Trunk(arch.stage_channels, arch.stage_blocks)
        self.head = TemporalHead(arch.feature_dim)
        self.projection = self._new_projection(arch)
        self.video_projection = None if arch.projection_shared else self._new_projection(arch)
        self._initialise()

    @staticmethod
    def _new_projection(arch: Architecture) -> Projection:
        return Projection(
            arch.feature_dim, arch.projection_hidden, arch.projection_dim, arch.projection_norm
        )

    def _initialise(self) -> None:
        """He initialisation by fan-out, as ResNets of this family use; channels_last memory."""
        for module in self.modules():
            # Where there is no memory yet there is nothing to fill; asking loads torch's compiler.
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
        wanted = f"(B, 3, T, H, W) floats with B, T >= 1 and H, W >= {SMALLEST_SIDE_PX}"
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise InputError(
                f"clips have shape {tuple(clips.shape)}; allowed: {wanted}. "
                "model.embed_frames() takes uint8 (T, H, W, 3) arrays."
            )
        if not clips.is_floating_point():
            raise InputError(
                f"clips have dtype {clips.dtype}; allowed: {wanted}, normalised. "
                "ccl_hub.transforms.to_clips() makes them from uint8 frames."
            )
        if min(clips.shape[0], clips.shape[2]) < 1 or min(clips.shape[3:]) < SMALLEST_SIDE_PX:
            raise InputError(f"clips have shape {tuple(clips.shape)}; allowed: {wanted}.")

    # Loading and saving -------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str | None = None,
        **unknown: Never,
    ) -> Self:
        """Load a trained model, in eval mode.

        The keywords from ``token`` on mean what they mean to huggingface_hub, and
        :class:`ccl_hub.HubOptions` tells it; of a local folder or a bundled model nothing is
        fetched, so that all but ``subfolder`` have no effect on it.

        Args:
            name_or_path: A name of ``ccl_hub.list_models()``, a Hub id ``org/name``, or a local
                folder with ``config.json`` and ``model.safetensors`` (safetensors only). A
                ``Path`` always means a folder.
            revision: Commit, tag or branch on the Hub; names in the registry are pinned already.
            device: Where to put the weights; ``"auto"`` takes CUDA or MPS when there is one; CPU
                by default.
            dtype: ``torch.float32`` (default), ``torch.bfloat16`` or ``torch.float16``, or its
                name.
            token: A token for the Hub, or False for none; by default that of ``HF_TOKEN`` or
                ``hf auth login``, which True insists on.
            cache_dir: Folder of the cache, instead of the usual one.
            local_files_only: Take what the cache has, and ask nothing of the Hub.
            force_download: Fetch anew what the cache has.
            subfolder: Folder inside the repository, or the local folder, where the model is.
            unknown: No other keyword is allowed.

        Returns:
            The model; ``model.weights_sha256`` names the exact file it came from.

        Raises:
            ModelNotFoundError: No such name, folder or repository.
            HubError: The Hub cannot be reached, or refuses.
            WeightsError: Wrong hash, wrong keys or shapes, or only pickled weights.
            ConfigError: The configuration beside the weights is not one we can read.
            InputError: Unknown keyword, dtype or device, or a value that is not allowed.

        Example:
            >>> model = CCLModel.from_pretrained("ccl_r18_mini")
            >>> model.training
            False
        """
        known_keywords(unknown, PRETRAINED_KEYWORDS)
        options = HubOptions(token, cache_dir, local_files_only, force_download, subfolder)
        place, kind = weights.resolve_device(device), weights.resolve_dtype(dtype)
        return cls._load(weights.resolve(name_or_path, revision, options), place, kind)

    @classmethod
    def _load(cls, source: weights.Source, device: torch.device, dtype: torch.dtype) -> Self:
        """Load what was found, in eval mode; see :meth:`from_pretrained`."""
        tensors, sha256 = weights.read_tensors(source)
        with torch.device("meta"):  # no random initialisation: the caller's generator is untouched
            model = cls(source.config)
        weights.load_strictly(model, tensors, source.weights_path)
        model.name, model.weights_sha256 = source.name, sha256
        return model.to(device=device, dtype=dtype).eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write ``model.safetensors`` and ``config.json``, each whole or not at all.

        Args:
            folder: Made if missing; ``~`` is your home.
            dtype: Floating-point type of the stored weights; unchanged if None. BatchNorm
                statistics and counters stay exact (float32, int64).

        Returns:
            The folder.

        Raises:
            OutputError: The folder cannot be written.
        """
        return weights.save(self, weights.expanded(folder), dtype)

    def push_to_hub(
        self,
        repo: str,
        *,
        card: Card | str | Path,
        private: bool = False,
        branch: str | None = None,
        message: str = "",
        dtype: torch.dtype | None = None,
        token: str | bool | None = None,
    ) -> Published:
        """Check and publish this model in one commit, with golden values.

        Args:
            repo: ``org/name`` on the Hub; made if missing. Log in with ``hf auth login`` first.
            card: The model card: its text, a path, or what there is to say as a
                :class:`ccl_hub.publish.model_card.Card`, from which the text is made.
            private: Make the repository private.
            branch: Branch to commit to; the main branch if None.
            message: Of the commit.
            dtype: As in :meth:`save_pretrained`.
            token: One that may write, instead of that you are logged in with.

        Returns:
            The commit, hash and size to pin.

        Raises:
            PublishError: The card is not complete, or the model is not fit to be published.
            HubError: The Hub cannot be reached or refuses.
        """
        from .publish.upload import push

        return push(
            self,
            repo,
            card=card,
            private=private,
            branch=branch,
            message=message,
            dtype=dtype,
            token=token,
        )

    # Raw media in, embeddings out ---------------------------------------------------------------

    def embed(
        self,
        path: str | Path,
        *,
        clips: int | None = None,
        every_seconds: float | None = None,
        batch_size: int | None = None,
    ) -> Embeddings:
        """Embed one video file; see :func:`ccl_hub.embed.embed_video`."""
        from .embed.stream import embed_video

        return embed_video(
            self, path, clips=clips, every_seconds=every_seconds, batch_size=batch_size
        )

    def embed_frames(
        self,
        frames: np.ndarray,
        seconds: Sequence[float] | np.ndarray,
        *,
        clips: int | None = None,
        every_seconds: float | None = None,
        batch_size: int | None = None,
    ) -> Embeddings:
        """Embed frames already in memory; see :func:`ccl_hub.embed.embed_frames`."""
        from .embed.stream import embed_frames

        return embed_frames(
            self, frames, seconds, clips=clips, every_seconds=every_seconds, batch_size=batch_size
        )

    def embed_image(self, image: ImageLike) -> Embeddings:
        """Embed one still image; see :func:`ccl_hub.embed.embed_image`."""
        from .embed.stream import embed_image

        return embed_image(self, image)
