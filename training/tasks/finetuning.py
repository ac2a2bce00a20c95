"""What fine-tuning brings to the loop: a network with labels, and its test."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub.config import Preprocessing
from ccl_hub.errors import TrainingError
from ccl_hub.transforms import to_clips

from ..clips.loader import Batch
from ..clips.source import ClipSource
from ..clips.uniform import read_uniform_clips
from ..distributed.world import World
from ..evaluation.classification import average_clips, confusion_matrix, measure
from ..evaluation.results import Confusion, Measurement
from ..frames.packed import FrameSource
from ..recipes.finetuning import FinetuneRecipe
from ..run.checkpoints import Checkpoint
from ..run.logs import RunLog
from ..run.optimizer import new_optimizer, prepared
from .classifier import Classifier, supervised_step


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of one test, and its confusion matrix."""

    measurements: tuple[Measurement, ...]
    confusion: Confusion

    @property
    def by_metric(self) -> dict[str, float]:
        """The figures by their metric."""
        return {measurement.metric: measurement.value for measurement in self.measurements}


class Finetuning:
    """The task of fine-tuning; see :class:`training.run.loop.Task`.

    Args:
        recipe: With the preprocessing of the model.
        backbone: The model to go on from; it becomes part of the network that is trained.
        source: Training clips of ``train``.
        train: The videos trained on.
        test: The videos tested on.
        world: This process among its peers.

    Raises:
        TrainingError: A video has no class, or there are fewer than two classes.
    """

    kind = "finetune"

    def __init__(
        self,
        recipe: FinetuneRecipe,
        backbone: CCLModel,
        source: ClipSource,
        train: FrameSource,
        test: FrameSource,
        world: World,
    ) -> None:
        self.recipe, self.source, self.test, self.world = recipe, source, test, world
        self.targets = _targets(train)
        self.measure_epochs = recipe.test.every_epochs
        self.origin = {
            "weights": backbone.weights_sha256 or backbone.name,
            "config": backbone.config.fingerprint(),
        }
        torch.manual_seed(recipe.seed)
        model = Classifier(backbone, len(train.videos.classes), recipe.network.freeze_batchnorm)
        self.model = prepared(model, recipe, world)
        self.optimizer = new_optimizer(recipe.optim, self.model)

    def begin(self) -> None:
        """Leave the model as it is: its first step needs no preparation."""

    def gradient(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Leave the gradient of the global batch in ``.grad``; return loss and accuracy."""
        chunks = self.source.augmented_chunks(batch, self.recipe.crop_px)
        targets = self.targets[torch.from_numpy(batch.video_ids)].to(self.world.device)
        autocast = torch.bfloat16 if self.recipe.precision.autocast == "bf16" else None
        return supervised_step(self.model, chunks, targets, self.world, autocast)

    def updated(self, step: int) -> None:
        """Keep nothing of an update: model and optimizer hold all of it."""

    def finish(self) -> None:
        """Do nothing more."""

    def more_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return nothing: model and optimizer are all that changes."""
        return {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore nothing: there are no further tensors."""

    def measure(self, log: RunLog, step: int, metrics: dict[str, Any]) -> None:
        """Test the network, on all processes together."""
        figures = judge(self.model, self.test, self.recipe, self.world)
        log.write("validation", step, {"test": figures.by_metric})
        metrics["test"] = dataclasses.asdict(figures)


def judge(model: Classifier, test: FrameSource, recipe: FinetuneRecipe, world: World) -> Figures:
    """Test a classifier: uniform centre-crop clips, softmax averaged over each video.

    Args:
        model: On the device of ``world``; its mode is restored.
        test: The videos; their classes are those of the classifier, in the same order.
        recipe: Its ``[test]``, ``[clip]``, ``[precision]`` and ``data.workers`` say how.
        world: The processes share the videos; each gets the figures of all.

    Returns:
        ``top-1`` and ``top-5``, and the F-measure where ``test.metric`` asks for it.

    Raises:
        TrainingError: A video has no class, or its frames are damaged.
    """
    truth = _targets(test).numpy()
    training = model.training
    model.eval()
    try:
        probabilities = probabilities_of(model, test, recipe, world)
    finally:
        model.train(training)
    averages = (recipe.test.average,) if recipe.test.metric == "f-measure" else ()
    confusion = confusion_matrix(probabilities.argmax(1), truth, test.videos.classes)
    return Figures(measure("finetune", probabilities, truth, averages), confusion)


@torch.no_grad()
def probabilities_of(
    model: Classifier, source: FrameSource, recipe: FinetuneRecipe, world: World
) -> np.ndarray:
    """Return the class probabilities of every video, float64 (V,C); arguments as :func:`judge`."""
    device = world.device
    bf16 = recipe.precision.autocast == "bf16"
    probabilities = torch.zeros(len(source), model.fc.out_features, dtype=torch.float64)
    share = range(world.rank, len(source), world.size)
    for videos, clips in _batches(source, share, recipe, model.backbone.preprocessing):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(_shrunk(clips.to(device), recipe.crop_px))  # (M,C)
        of_clips = logits.double().softmax(1).cpu().numpy()
        ids = np.repeat(videos, recipe.test.clips)  # rising, so that averages keep the order
        probabilities[videos] = torch.from_numpy(average_clips(of_clips, ids))
    if world.size > 1:
        dist.all_reduce(probabilities)  # on the CPU, so through gloo; other shares are zeros here
    return probabilities.numpy()


def _batches(
    source: FrameSource, videos: range, recipe: FinetuneRecipe, preprocessing: Preprocessing
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield the clips of whole videos, read ahead: (V,) rising positions, (V*clips,3,T,H,W)."""
    clips = recipe.test.clips
    batch_videos = max(1, recipe.test.batch_clips // clips)
    readings = read_uniform_clips(source, videos, preprocessing, clips, recipe.data.workers)
    while group := list(islice(readings, batch_videos)):
        frames = torch.cat([to_clips(video.images[video.index], preprocessing) for video in group])
        yield np.array([video.video for video in group]), frames


def _shrunk(clips: Tensor, crop_px: int) -> Tensor:
    """Shrink (M,3,T,H,W) clips to ``crop_px``, with antialiasing, as training clips are."""
    if clips.shape[-1] == crop_px:
        return clips
    size = (crop_px, crop_px)
    frames = clips.transpose(1, 2).flatten(0, 1)  # (M*T,3,H,W)
    small = F.interpolate(frames, size, mode="bilinear", antialias=True)
    return small.unflatten(0, (len(clips), -1)).transpose(1, 2)  # (M,3,T,crop,crop)


def _targets(source: FrameSource) -> Tensor:
    """Return the class positions of all videos, int64 (N,).

    Raises:
        TrainingError: A video has no class, or there are fewer than two classes.
    """
    videos = source.videos
    targets = videos.targets()
    for item, target in zip(videos, targets, strict=True):
        if target < 0:
            raise TrainingError(
                f"{videos.name}: {item.id} has no class; fine-tuning needs one for every video, "
                "so give a folder of classes, or a list with a column 'class'."
            )
    if len(videos.classes) < 2:
        raise TrainingError(
            f"{videos.name}: has the class {', '.join(videos.classes)} alone; "
            "give videos of two or more classes."
        )
    return torch.from_numpy(targets)
