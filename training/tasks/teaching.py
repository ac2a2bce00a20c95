"""What a pretraining takes from an image encoder: its start, and a term against forgetting."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccl_hub import CCLModel
from ccl_hub.errors import ConfigError, TrainingError
from ccl_hub.network.architecture import Whitening
from ccl_hub.network.efficientnet_lite import EfficientNetLite0
from ccl_hub.transforms import to_clips

from ..clips.loader import Batch
from ..clips.source import ClipSource
from ..distributed.world import FrameLoss
from ..frames.packed import FrameSource
from ..frames.sample import drawn_frames
from ..recipes.pretraining import Recipe
from ..teachers.encoders import new_teacher, normalised
from ..teachers.table import TeacherTable

LITE0 = "efficientnet_lite0"
TEACHER_MODULE = "teacher"
"""Name, in checkpoints, of the linear map that only the teacher's term uses."""
FITTING_FRAMES = 12_000
HEADROOM = 5.0
"""Standard deviations by which features start above 0, so that ReLU cuts next to nothing off."""


class Lesson(nn.Module):
    """A linear map from features to what a teacher says, and how that is whitened, if it is.

    Args:
        feature_dim: D of the features.
        teacher_dim: K of the teacher's vectors.
        whitening: Of the teacher's vectors; the D leading dimensions count, or all if they are
            fewer. In checkpoints, as the map is of no use for other components than its own.
    """

    def __init__(
        self, feature_dim: int, teacher_dim: int, whitening: Whitening | None = None
    ) -> None:
        super().__init__()
        self.whitening: nn.Module = whitening or nn.Identity()
        whitened = whitening is not None
        dim = min(feature_dim, teacher_dim) if whitened else teacher_dim
        self.map = nn.Linear(feature_dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(...,D) -> (...,k)."""
        mapped: Tensor = self.map(features)
        return mapped

    def wanted(self, vectors: Tensor) -> Tensor:
        """(...,K) -> (...,k): what the map is to give."""
        whitened: Tensor = self.whitening(vectors)
        return whitened[..., : self.map.out_features]


class Teaching:
    """The teacher's term: frame features, mapped, point where the teacher's vectors point.

    Args:
        table: The teacher's vectors.
        lesson: Maps both; trained beside the model, as one of its modules.
        weight: Of the term.
    """

    def __init__(self, table: TeacherTable, lesson: Lesson, weight: float) -> None:
        self._table, self._lesson, self._weight = table, lesson, weight

    @classmethod
    def of(
        cls, recipe: Recipe, source: ClipSource, model: CCLModel, device: torch.device
    ) -> Self | None:
        """Return the term of a recipe, whose map becomes a module of the model, or None."""
        if not recipe.teacher.there:
            return None
        teacher = new_teacher(recipe.teacher, device)
        table = TeacherTable(teacher, source.frames, recipe.teacher.cache)
        whitening = None
        if recipe.teacher.whitened:
            sample = table.sample(source.frames, FITTING_FRAMES)
            if len(sample) <= teacher.dim:
                raise TrainingError(
                    f"{len(sample)} frames are too few to whiten a teacher's vectors of "
                    f"{teacher.dim} dimensions; set teacher.whitened=false."
                )
            whitening = Whitening(teacher.dim)
            whitening.fit(sample, recipe.teacher.damping)
        lesson = Lesson(recipe.model.feature_dim, teacher.dim, whitening)
        model.add_module(TEACHER_MODULE, lesson)
        return cls(table, lesson, recipe.teacher.weight)

    def frame_loss(self, batch: Batch, chunks: int) -> FrameLoss:
        """Return the term for the chunks of a batch."""
        vectors = self._table.vectors(batch.video_ids, batch.indices, batch.frames)  # (V,b,T,K)
        parts = vectors.chunk(chunks, dim=1)

        def loss(chunk: int, features: Tensor) -> Tensor:
            targets = parts[chunk].flatten(0, 1).to(features.device)  # (V*b,T,K)
            mapped = self._lesson(features.float())  # mixed precision ends with the network
            wanted = self._lesson.wanted(targets)
            return self._weight * (1 - F.cosine_similarity(mapped, wanted, -1)).mean()

        return loss


def some_frames(source: FrameSource, count: int, seed: int = 0) -> np.ndarray:
    """Return (n, h, w, 3) uint8 frames, drawn evenly from all videos."""
    return np.concatenate(
        [source.read(video, indices) for video, indices in drawn_frames(source, count, seed)]
    )


@torch.no_grad()
def fit_features(trunk: nn.Module, source: FrameSource, recipe: Recipe) -> None:
    """Let the trunk's last convolution give the principal components of its 1280 channels.

    They are damped and scaled as :class:`Whitening` does, and lie far enough above 0 for ReLU.
    """
    if not isinstance(trunk, EfficientNetLite0):
        raise ConfigError("start is 'efficientnet_lite0' but model.trunk is another; set it too.")
    pre, device = recipe.preprocessing, next(trunk.parameters()).device
    maps = []
    for part in np.array_split(some_frames(source, FITTING_FRAMES, recipe.seed), 400):
        if len(part):
            images = normalised(torch.from_numpy(part).to(device), pre.crop_px, pre.mean, pre.std)
            images = images.contiguous(memory_format=torch.channels_last)
            maps.append(trunk.eval().last_maps(images).mean((2, 3)))
    trunk.train()
    pooled = torch.cat(maps).double()  # (n,1280)
    mean = pooled.mean(0)
    values, axes = torch.linalg.eigh((pooled - mean).T @ (pooled - mean) / len(pooled))
    dim = recipe.model.feature_dim
    values, axes = values.flip(0)[:dim], axes.flip(1)[:, :dim]
    weight = (axes * (values + 0.1 * values.mean()).rsqrt()).T  # (D,1280)
    trunk.start_features(weight, HEADROOM - weight @ mean)


@torch.inference_mode()
def pooled_frames(model: CCLModel, source: FrameSource) -> Tensor:
    """Return pooled features of untouched frames, (n, D) float32, to fit the map after pooling."""
    training, pre = model.training, model.preprocessing
    model.eval()
    side = pre.crop_px
    vectors = []
    for part in np.array_split(some_frames(source, FITTING_FRAMES), 400):
        if len(part):
            frames = torch.from_numpy(part)
            if frames.shape[1:3] == (pre.resize_height_px, pre.resize_width_px):
                images = to_clips(frames[:, None], pre)[:, :, 0]
            else:  # kept smaller to save memory
                images = normalised(frames, side, pre.mean, pre.std)
            images = images.to(model.device, model.dtype, memory_format=torch.channels_last)
            vectors.append(model.trunk(images).mean((2, 3), dtype=torch.float32))
    model.train(training)
    return torch.cat(vectors)
