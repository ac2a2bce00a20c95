"""Recall of edited frames by models, as results files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub.transforms import to_clips
from ccl_hub.video.pixels import resize_rgb

from ...data.sources import list_videos
from ..models import load_models
from ..results import DataRecord, Measurement, Results, write_results
from .recall import Embed, Recall, frame_set, recall_of

logger = logging.getLogger(__name__)

PICTURES_AT_ONCE = 32
QUERY_SEED = 1
MEAN = "mean"
"""Name of the figure over all edits."""


@dataclass(frozen=True)
class RecallOptions:
    """What is measured.

    Args:
        model: Models, as :func:`load_models` takes them.
        seeds: Of the random rows.
        queries: Lists or folders of videos, one frame of each of which is asked for.
        gallery: Further videos, to confuse them with.
        device: ``auto``, or as torch names it.
        centre: Also with the library's mean subtracted.
        group: Experiment the results belong to.
        out: Folder for the results files.
    """

    model: tuple[str, ...]
    seeds: tuple[int, ...]
    queries: tuple[str, ...]
    gallery: tuple[str, ...]
    device: str
    centre: bool
    group: str
    out: Path


def measure_recall(options: RecallOptions) -> list[Results]:
    """Measure every model and write the results.

    Raises:
        CCLError: A model or a video cannot be used, or results cannot be written.
    """
    asked, others = _paths(options.queries), _paths(options.gallery)
    library = frame_set([*asked, *others])
    queries = frame_set(asked, seed=QUERY_SEED)
    names = "\n".join(f"{path.parent.name}/{path.name}" for path in (*asked, *others))
    data = DataRecord(
        "edited frames",
        hashlib.sha256(names.encode()).hexdigest(),
        train_videos=len(asked) + len(others),
        test_videos=len(asked),
        note=f"one frame of each of {len(asked)} videos, edited, among {len(library.pictures)} "
        f"frames of {len(asked) + len(others)} videos",
    )
    results = []
    for named in load_models(options.model, options.seeds, options.device):
        embed = picture_embedding(named.model)
        measurements = []
        for centred in (False, True) if options.centre else (False,):
            found = recall_of(_centred(embed) if centred else embed, library, queries)
            measurements += _measurements(found, centred)
            logger.info("%s: %.1f %%", named.record.label, 100 * found.mean)
        result = Results(
            kind="recall",
            model=named.record,
            data=data,
            measurements=tuple(measurements),
            settings={"query_seed": QUERY_SEED, "device": named.model.device.type},
            group=options.group,
        )
        logger.info("wrote %s", write_results(result, options.out))
        results.append(result)
    return results


def _paths(places: Sequence[str]) -> list[Path]:
    return [Path(item.path) for place in places for item in list_videos(place)]


def picture_embedding(model: CCLModel) -> Embed:
    """Return what makes a model's frame vectors of pictures, each resized as the model says."""
    pre = model.preprocessing

    def embed(pictures: Sequence[np.ndarray]) -> Tensor:
        vectors = []
        for first in range(0, len(pictures), PICTURES_AT_ONCE):
            some = pictures[first : first + PICTURES_AT_ONCE]
            frames = np.stack([resize_rgb(picture[None], pre)[0] for picture in some])
            images = to_clips(torch.from_numpy(frames)[:, None], pre)[:, :, 0]
            images = images.to(model.device, model.dtype, memory_format=torch.channels_last)
            with torch.inference_mode():
                pooled = model.trunk(images).mean((2, 3), dtype=torch.float32)
                vectors.append(model.output(pooled).cpu())
        return torch.cat(vectors)

    return embed


def _centred(embed: Embed) -> Embed:
    """Subtract the mean of what is embedded first: the library."""
    mean: list[Tensor] = []

    def centred(pictures: Sequence[np.ndarray]) -> Tensor:
        vectors = embed(pictures)
        if not mean:
            mean.append(vectors.mean(0))
        return vectors - mean[0]

    return centred


def _measurements(found: Recall, centred: bool) -> list[Measurement]:
    values = {MEAN: found.mean, **found.edits}
    return [
        Measurement(
            task="edited",
            metric="top-1",
            value=value,
            space="512",
            level="frame",
            match=edit,
            centred=centred,
            queries=found.queries,
        )
        for edit, value in values.items()
    ]
