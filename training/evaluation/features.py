"""Embeddings of every clip of a labelled set, computed once and kept on disk.

Retrieval, the linear probe and validation all start from the same embeddings: uniform clips of
every video, centre crop (paper, Section 4.2). A cache file is one safetensors file per model, set,
number of clips and precision. It carries the key it was made for and a hash of its content; a file
that is damaged, or was made for something else, is computed again and replaced.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save as serialize
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import InputError, ModelError
from ccl_hub.sampling import ClipPlan
from ccl_hub.transforms import to_clips

from ..clips.uniform import UniformClips, read_uniform_clips
from ..frames.files import VideoFolderStore
from ..frames.packed import FrameSource
from ..run.checkpoints import content_sha256
from .labelled_sets import EvaluationSet
from .results import slug

logger = logging.getLogger(__name__)

FORMAT = "ccl-set-features"
VERSION = 1
LOG_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class SetFeatures:
    """Embeddings of M clips of T frames, on the CPU; clips of a video together, in order.

    Args:
        frames: (M, T, D) float32 frame features, D = 512.
        video: (M, D) float32 clip features.
        frame_projections: (M, T, P) float32, the space of the loss, P = 128; not normalised.
        video_projections: (M, P) float32, likewise.
        video_ids: (M,) int64, position of each clip's video in its source.
        clip_seconds: (M, 2) float64, start and end of each clip.
        frame_seconds: (M, T) float64, presentation time of each frame.

    Raises:
        InputError: The shapes do not belong together.
    """

    frames: Tensor
    video: Tensor
    frame_projections: Tensor
    video_projections: Tensor
    video_ids: np.ndarray
    clip_seconds: np.ndarray
    frame_seconds: np.ndarray

    def __post_init__(self) -> None:
        m, t = self.frames.shape[:2]
        expected = {
            "frames": (m, t, self.video.shape[-1]),
            "video": (m, self.frames.shape[-1]),
            "frame_projections": (m, t, self.video_projections.shape[-1]),
            "video_projections": (m, self.frame_projections.shape[-1]),
            "video_ids": (m,),
            "clip_seconds": (m, 2),
            "frame_seconds": (m, t),
        }
        for name, shape in expected.items():
            seen = tuple(getattr(self, name).shape)
            if seen != shape:
                raise InputError(
                    f"SetFeatures: {name} has shape {seen}, expected {shape} beside frames of "
                    f"{tuple(self.frames.shape)}."
                )

    def __len__(self) -> int:
        return len(self.video_ids)

    def take(self, clips: np.ndarray) -> SetFeatures:
        """Return some clips, by position (int64) or by a mask (bool), in that order."""
        return SetFeatures(
            *(getattr(self, field.name)[clips] for field in dataclasses.fields(self))
        )

    def of_split(self, source: FrameSource, split: str) -> SetFeatures:
        """Return the clips of one split; ``video_ids`` stay positions in the whole source."""
        splits = np.array([item.split for item in source.videos])
        return self.take(splits[self.video_ids] == split)


def features_of(
    model: CCLModel,
    source: FrameSource,
    *,
    clips: int = 10,
    batch_clips: int = 32,
    bf16: bool = False,
    cache: Path | None = None,
    workers: int = 2,
) -> SetFeatures:
    """Embed uniform centre-crop clips of every video of a set, or read them from the cache.

    Args:
        model: Computes on its device, in eval mode; its own mode is restored.
        source: The videos, of every split.
        clips: Clips per video, uniform from start to end (paper: 10).
        batch_clips: Clips computed at once, rounded up to whole videos.
        bf16: Compute the network in bfloat16.
        cache: Folder of cache files, made if missing; None keeps none.
        workers: Threads that read frames ahead.

    Returns:
        The embeddings, videos in order.

    Raises:
        ModelError: The model gives NaN or infinity.
        TrainingError: Frames are damaged.
        OutputError: The cache cannot be written.
    """
    path, key = None, ""
    if cache is not None:
        # The splits an evaluation gives its videos change no embedding.
        frames = source.source if isinstance(source, EvaluationSet) else source
        key = _cache_key(model, frames, clips, bf16)
        path = Path(cache) / _cache_name(frames.videos.name, key)
        cached = _read_cache(path, key) if path.is_file() else None
        if cached is not None:
            logger.info("%s: embeddings from %s", source.videos.name, path)
            return cached
    training = model.training
    model.eval()
    try:
        features = _embed_set(model, source, clips, batch_clips, bf16, workers)
    finally:
        model.train(training)
    if path is not None:
        _write_cache(path, key, features)
    return features


def _embed_set(
    model: CCLModel, source: FrameSource, clips: int, batch_clips: int, bf16: bool, workers: int
) -> SetFeatures:
    """As :func:`features_of`, by a model in eval mode and without a cache."""
    shape, device = model.config.architecture, model.device
    count, length = len(source) * clips, model.preprocessing.clip_frames
    frames = torch.empty(count, length, shape.feature_dim)
    video = torch.empty(count, shape.feature_dim)
    frame_projections = torch.empty(count, length, shape.projection_dim)
    video_projections = torch.empty(count, shape.projection_dim)
    embeddings = (frames, video, frame_projections, video_projections)
    plans: list[ClipPlan] = []
    ids = np.repeat(np.arange(len(source)), clips)
    done, logged = 0, time.monotonic()
    videos = read_uniform_clips(source, range(len(source)), model.preprocessing, clips, workers)
    while batch := list(islice(videos, math.ceil(batch_clips / clips))):
        plans += [video.plan for video in batch]
        images, index = _joined(batch)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs = _embed(model, images.to(device), index.to(device))
        rows = slice(done, done + len(index))
        for tensor, values in zip(embeddings, outputs, strict=True):
            tensor[rows] = values.float().cpu()
            _require_finite(tensor[rows], source, ids[rows])
        done += len(index)
        if time.monotonic() - logged >= LOG_EVERY_SECONDS:
            logged = time.monotonic()
            logger.info("%s: %d of %d clips embedded", source.videos.name, done, count)
    clip_seconds = np.concatenate([plan.clip_seconds for plan in plans])
    frame_seconds = np.concatenate([plan.frame_seconds for plan in plans])
    return SetFeatures(*embeddings, ids, clip_seconds, frame_seconds)


def _joined(videos: Sequence[UniformClips]) -> tuple[Tensor, Tensor]:
    """Return images and index, as :class:`UniformClips` has them, of several videos together."""
    starts = np.cumsum([0, *(len(video.images) for video in videos[:-1])])
    index = [video.index + int(start) for video, start in zip(videos, starts, strict=True)]
    return torch.cat([video.images for video in videos]), torch.cat(index)


def _embed(model: CCLModel, images: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    """Embed clips that share frames, each frame once: only conv6 looks across time.

    Args:
        model: In eval mode.
        images: (U,H,W,3) uint8, different frames.
        index: (M,T) int64, the frames of each clip.

    Returns:
        Frames (M,T,D), videos (M,D) and their projections (M,T,P) and (M,P).
    """
    pixels = to_clips(images[:, None], model.preprocessing)[:, :, 0]  # (U,3,H,W)
    pixels = pixels.to(dtype=model.dtype, memory_format=torch.channels_last)
    maps = model.trunk(pixels)  # (U,D,h,w)
    frames = maps.mean((2, 3), dtype=torch.float32)[index]  # (M,T,D)
    video = model.head(maps[index.flatten()], clips=len(index))  # (M,D)
    return model.output(frames), model.output(video), *model.project(frames, video)


def _require_finite(values: Tensor, source: FrameSource, video_ids: np.ndarray) -> None:
    """Raise ModelError if an embedding is not finite; rows of ``values`` are of ``video_ids``."""
    bad = ~torch.isfinite(values.flatten(1)).all(1)
    if bool(bad.any()):
        name = source.names[video_ids[int(bad.nonzero()[0])]]
        raise ModelError(
            f"{name}: the model gives NaN or infinity for it; "
            "its weights are damaged, or need precision fp32."
        )


def _cache_key(model: CCLModel, source: FrameSource, clips: int, bf16: bool) -> str:
    """Return everything that decides the embeddings, as JSON text.

    Weights enter by their content, not by a file's name: a model changed after loading has another
    key. The batch size is left out, as it changes results by rounding alone. Video files that are
    not packed enter by their time of change too, as their fingerprint knows their sizes alone.
    """
    return json.dumps(
        {
            "version": VERSION,
            "weights": content_sha256(model.state_dict(), model.config.fingerprint()),
            "frames": source.fingerprint(),
            "videos": len(source),
            **_times_of_change(source),
            "clips": clips,
            "precision": "bf16" if bf16 else "fp32",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "torch": str(torch.__version__),
        },
        sort_keys=True,
    )


def _times_of_change(source: FrameSource) -> dict[str, str]:
    """Return, for an unpacked set alone, a hash of when its files were last written."""
    if not isinstance(source, VideoFolderStore):
        return {}
    times = [item.path.stat().st_mtime_ns for item in source.videos]
    return {"changed": hashlib.sha256(json.dumps(times).encode()).hexdigest()}


def _cache_name(videos: str, key: str) -> str:
    return f"{slug(videos) or 'set'}-{content_sha256({}, key)[:20]}.safetensors"


def _write_cache(path: Path, key: str, features: SetFeatures) -> None:
    values = {f.name: getattr(features, f.name) for f in dataclasses.fields(features)}
    tensors = {name: torch.as_tensor(value).contiguous() for name, value in values.items()}
    header = {"format": FORMAT, "key": key, "sha256": content_sha256(tensors, key)}
    make_folder(path.parent)
    write_atomically(path, serialize(tensors, header))


def _read_cache(path: Path, key: str) -> SetFeatures | None:
    """Return what the file holds; None, with a warning, if it is damaged or of another key."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        logger.warning("%s: damaged (%s); the embeddings are computed again", path, error)
        return None
    if header.get("format") != FORMAT or header.get("key") != key:
        logger.warning("%s: holds other embeddings; these are computed and replace it", path)
        return None
    if header.get("sha256") != content_sha256(tensors, key):
        logger.warning("%s: damaged (sha256); the embeddings are computed again", path)
        return None
    arrays = ("video_ids", "clip_seconds", "frame_seconds")
    return SetFeatures(**{n: t.numpy() if n in arrays else t for n, t in tensors.items()})
