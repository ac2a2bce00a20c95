"""Retrieval on small labelled sets, to see whether a run learns (paper, Section 4.2).

Three questions per set, each in the 512-d features and in the 128-d space of the loss: does a test
clip find training clips of its class (V=>V); does a frame find the clip that holds it among all
test clips (F=>V); does a clip find one of its own frames among all test frames (V=>F). For the
latter two a milder column counts any clip or frame of the same video.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub.errors import ConfigError

from ..evaluation.features import SetFeatures, features_of
from ..evaluation.metrics import class_retrieval, label_hits, nearest, top_k_accuracy
from ..frames.packed import FrameSource, FrameStore, require_same_frames
from ..frames.rendered import RenderedVideos
from ..recipes.pretraining import Recipe

__all__ = ["Validator", "retrieval_table"]

KS = (1, 5, 10)
Table = dict[str, dict[str, dict[str, float]]]


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
        tables = {}
        for store in self.sets:
            embedded = features_of(
                model,
                store,
                clips=self._section.clips,
                batch_clips=self._section.batch_clips,
                device=self._device,
                bf16=self._bf16,
            )
            tables[store.videos.name] = retrieval_table(embedded, store)
        return tables


def retrieval_table(embedded: SetFeatures, store: FrameSource) -> Table:
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
    clips = np.arange(count)
    videos_of_frames, _ = nearest(flat, video, min(max(KS), count))
    frames_of_videos, _ = nearest(video, flat, min(max(KS), len(flat)))
    results = {}
    for name, ids in (("clip", clips), ("same_video", video_ids)):
        of_frames = np.repeat(ids, length)
        hits = label_hits(videos_of_frames, of_frames, ids)
        results[f"frame_to_video_{name}"] = _with_text_keys(top_k_accuracy(hits, KS))
        hits = label_hits(frames_of_videos, ids, of_frames)
        results[f"video_to_frame_{name}"] = _with_text_keys(top_k_accuracy(hits, KS))
    return results


def _with_text_keys(accuracies: dict[int, float]) -> dict[str, float]:
    """JSON has text keys only; so have the tables, before and after a checkpoint."""
    return {str(k): round(value, 6) for k, value in accuracies.items()}
