"""Retrieval on small labelled sets, to see whether a run learns (paper, Section 4.2).

Three questions per set, each in the 512-d features and in the 128-d space of the loss: does a test
clip find training clips of its class (V=>V); does a frame find the clip that holds it among all
test clips (F=>V); does a clip find one of its own frames among all test frames (V=>F). For the
latter two a milder column counts any clip or frame of the same video.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub.config import Preprocessing
from ccl_hub.errors import ConfigError
from ccl_hub.sampling import sample_eval
from ccl_hub.transforms import to_clips

from .clips import require_same_frames
from .metrics import class_retrieval, instance_retrieval
from .recipe import Recipe
from .rendered import RenderedVideos
from .store import FrameSource, FrameStore

__all__ = ["EmbeddedSet", "Validator", "embed_set", "retrieval_table"]

KS = (1, 5, 10)
Table = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class EmbeddedSet:
    """Embeddings of every clip of a set: M clips of T frames, on the CPU.

    ``frames`` (M,T,512), ``video`` (M,512), ``frame_projections`` (M,T,128), ``video_projections``
    (M,128), float32; ``video_ids`` (M,) int64, the position of the clip's video in the set.
    """

    frames: Tensor
    video: Tensor
    frame_projections: Tensor
    video_projections: Tensor
    video_ids: np.ndarray


class Validator:
    """Measures a model on the recipe's validation sets.

    Args:
        recipe: Its ``[validation]`` names packed sets with classes and splits.
        device: Where to compute.

    Raises:
        TrainingError: A set is missing or damaged, or has no ``train`` or ``test`` videos.
        ConfigError: A set was packed with another preprocessing, or two have the same name.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._section = recipe.validation
        self._device = device
        self._bf16 = recipe.precision.autocast == "bf16"
        self.sets: list[FrameSource] = []
        for path in self._section.packs:
            store = FrameStore(path)
            require_same_frames(store, recipe.preprocessing)
            self.sets.append(store)
        if self._section.rendered:
            videos = RenderedVideos(self._section.rendered, recipe.preprocessing, seed=1)
            self.sets.append(videos)
        names = [labelled.videos.name for labelled in self.sets]
        if len(set(names)) != len(names):
            raise ConfigError(
                f"validation sets are named {', '.join(names)}; tables need different names, "
                "so pack each set under a name of its own."
            )
        for labelled in self.sets:
            for split in ("train", "test"):
                labelled.videos.select(split)

    def measure(self, model: CCLModel) -> dict[str, Table]:
        """Return ``set -> space -> question -> k -> accuracy in [0, 1]``; restores the mode."""
        training = model.training
        model.eval()
        tables = {}
        try:
            for store in self.sets:
                embedded = embed_set(
                    model,
                    store,
                    self._section.clips,
                    self._section.batch_clips,
                    self._device,
                    self._bf16,
                )
                tables[store.videos.name] = retrieval_table(embedded, store)
        finally:
            model.train(training)
        return tables


@torch.inference_mode()
def embed_set(
    model: CCLModel,
    store: FrameSource,
    clips: int,
    batch_clips: int,
    device: torch.device,
    bf16: bool,
) -> EmbeddedSet:
    """Embed uniform centre-crop clips of every video.

    Args:
        model: In eval mode, on ``device``.
        store: The videos.
        clips: Clips per video.
        batch_clips: Clips computed at once, about.
        device: Where to compute.
        bf16: Compute the network in bfloat16.

    Returns:
        The embeddings, clips of a video together, videos in order.
    """
    autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
    parts: list[tuple[Tensor, ...]] = []
    ids: list[np.ndarray] = []
    for batch, video_ids in _clip_batches(store, model.preprocessing, clips, batch_clips):
        with autocast:
            output = model(batch.to(device), project=True)
        parts.append(tuple(part.float().cpu() for part in output))
        ids.append(video_ids)
    frames, video, frame_projections, video_projections = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    return EmbeddedSet(frames, video, frame_projections, video_projections, np.concatenate(ids))


def _clip_batches(
    store: FrameSource, preprocessing: Preprocessing, clips: int, batch_clips: int
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield (M,3,T,H,W) clips of whole videos, M of at least ``batch_clips``, with video ids."""
    waiting: list[Tensor] = []
    ids: list[int] = []
    for video in range(len(store)):
        plan = sample_eval(store.seconds(video), store.duration(video), preprocessing, clips=clips)
        flat = store.read(video, plan.indices.reshape(-1))  # (W*T,h,w,3)
        frames = flat.reshape(*plan.indices.shape, *flat.shape[1:])  # (W,T,h,w,3)
        waiting.append(to_clips(torch.from_numpy(frames), preprocessing))
        ids += [video] * len(frames)
        if len(ids) >= batch_clips or video == len(store) - 1:
            yield torch.cat(waiting), np.array(ids)
            waiting, ids = [], []


def retrieval_table(embedded: EmbeddedSet, store: FrameSource) -> Table:
    """Answer the three questions for one set.

    Args:
        embedded: Every clip of the set.
        store: Gives the videos' classes and splits.

    Returns:
        ``space -> question -> k -> accuracy in [0, 1]``; spaces are ``features`` (512-d) and
        ``projections`` (128-d).
    """
    splits = np.array([item.split for item in store.videos])[embedded.video_ids]
    classes = store.videos.targets()[embedded.video_ids]
    spaces = {
        "features": (embedded.frames, embedded.video),
        "projections": (embedded.frame_projections, embedded.video_projections),
    }
    test, train = (torch.from_numpy(np.flatnonzero(splits == name)) for name in ("test", "train"))
    table: Table = {}
    for space, (frames, video) in spaces.items():
        by_class = class_retrieval(video[test], video[train], classes[test], classes[train], KS)
        table[space] = {"video_to_video": _with_text_keys(by_class)}
        instances = _frames_and_videos(frames[test], video[test], embedded.video_ids[test])
        table[space].update(instances)
    return table


def _frames_and_videos(
    frames: Tensor, video: Tensor, video_ids: np.ndarray
) -> dict[str, dict[str, float]]:
    """F=>V and V=>F among the clips of one split, by clip and by video."""
    count, length, _ = frames.shape
    flat = frames.flatten(0, 1)  # (M*T,D)
    clip_ids = np.arange(count)
    results = {}
    for name, ids in (("clip", clip_ids), ("same_video", video_ids)):
        of_frames = np.repeat(ids, length)
        found = instance_retrieval(flat, video, of_frames, ids, KS)
        results[f"frame_to_video_{name}"] = _with_text_keys(found)
        found = instance_retrieval(video, flat, ids, of_frames, KS)
        results[f"video_to_frame_{name}"] = _with_text_keys(found)
    return results


def _with_text_keys(accuracies: dict[int, float]) -> dict[str, float]:
    """JSON has text keys only; so have the tables, before and after a checkpoint."""
    return {str(k): round(value, 6) for k, value in accuracies.items()}
