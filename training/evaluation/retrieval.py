"""Retrieval by cosine inside a labelled set (paper, Section 4.2, Tables 2 and 3).

Four questions, on the 512-d representations and on the 128-d projections that the loss compares;
:mod:`training.retrieval` says what each of them asks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import InputError

from ..frames.packed import FrameSource
from .evaluate import EvaluationOptions, Measured, evaluate
from .features import SetFeatures
from .results import Measurement, Results
from .search import nearest

logger = logging.getLogger(__name__)

KS = (1, 5, 10, 20, 50)
LEVELS = ("clip", "video")
SPACES = {"512": ("frames", "video"), "128": ("frame_projections", "video_projections")}


@dataclass(frozen=True)
class Items:
    """Vectors of one split, (N, D), and what each belongs to: labels by match, each (N,)."""

    vectors: Tensor
    labels: dict[str, np.ndarray]


@dataclass(frozen=True)
class Question:
    """Which items are looked for among which."""

    task: str
    level: str
    queries: Items
    gallery: Items

    def hits(self, k: int, device: torch.device | None = None) -> dict[str, np.ndarray]:
        """Search once; say by match which of the k nearest have the query's label, (Q, k) bool."""
        neighbours, _ = nearest(self.queries.vectors, self.gallery.vectors.to(device), k)
        return {
            match: self.gallery.labels[match][neighbours] == labels[:, None]
            for match, labels in self.queries.labels.items()
        }


@dataclass(frozen=True)
class Retrieval:
    """Measures retrieval on the embeddings of a set.

    Args:
        ks: Ranks to report, ascending.
        levels: Which of ``clip`` and ``video`` to report; ``F=>V`` and ``V=>F`` are by clip.
        centre: Report everything again after centring.

    Raises:
        InputError: ``ks`` or ``levels`` are not allowed.
    """

    ks: tuple[int, ...] = KS
    levels: tuple[str, ...] = LEVELS
    centre: bool = False

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(set(self.ks)):
            raise InputError(f"ks are {self.ks}; allowed: whole numbers from 1, ascending.")
        if not self.levels or not set(self.levels) <= set(LEVELS):
            raise InputError(f"levels are {self.levels}; allowed: {', '.join(LEVELS)}.")

    def measure(
        self, features: SetFeatures, labelled: FrameSource, device: torch.device | None = None
    ) -> Measured:
        """Answer all questions.

        Args:
            features: Of every clip of ``labelled``.
            labelled: Gives classes and splits.
            device: Where to search, the CPU if None; MPS has no float64, so there it is the CPU
                too.

        Returns:
            One measurement per question, space, level, match and k, and centred or not. The
            settings name the questions with a gallery smaller than some k, which are left out.

        Raises:
            InputError: Embeddings are not finite.

        Source:
            Section 4.2, tasks (A), (B) and (C); Tables 2 and 3.
        """
        if device is not None and device.type == "mps":
            device = None
        measurements: list[Measurement] = []
        left_out: dict[str, dict[str, Any]] = {}
        for centred in (False, True) if self.centre else (False,):
            for space in SPACES:
                for question in questions(features, labelled, space, self.levels, centred):
                    size = len(question.gallery.vectors)
                    beyond = [k for k in self.ks if k > size]
                    if beyond:
                        name = f"{question.task} by {question.level}"
                        left_out[name] = {"gallery": size, "ks": beyond}
                    measurements += self._answer(question, space, centred, device)
        length = features.frames.shape[1]
        settings = {
            "frame_of_clip": f"{length // 2} of 0..{length - 1}",
            "shared_frames": round(shared_frames(features.of_split(labelled, "test")), 4),
            "left_out": left_out,
        }
        return Measured(tuple(measurements), settings)

    def _answer(
        self, question: Question, space: str, centred: bool, device: torch.device | None
    ) -> list[Measurement]:
        ks = [k for k in self.ks if k <= len(question.gallery.vectors)]
        if not ks:
            return []
        return [
            Measurement(
                question.task,
                f"top-{k}",
                accuracy,
                *(space, question.level, match, centred),
                queries=len(hits),
            )
            for match, hits in question.hits(max(ks), device).items()
            for k, accuracy in top_k_accuracy(hits, ks).items()
        ]


def questions(
    features: SetFeatures,
    labelled: FrameSource,
    space: str,
    levels: Sequence[str] = LEVELS,
    centred: bool = False,
) -> Iterator[Question]:
    """Yield the four questions about one set in one space.

    Args:
        features: Of every clip of ``labelled``.
        labelled: Gives classes and splits.
        space: One of :data:`SPACES`.
        levels: As :class:`Retrieval` has them.
        centred: Subtract each split's mean first.
    """
    classes = labelled.videos.targets()
    test, train = (features.of_split(labelled, split) for split in ("test", "train"))
    of_test, of_train = (_vectors(clips, space, centred) for clips in (test, train))
    if "clip" in levels:
        yield from _within(*of_test, test.video_ids)
    for level in levels:
        for task, queries, gallery in zip(("F=>F", "V=>V"), of_test, of_train, strict=True):
            yield Question(
                task,
                level,
                _with_classes(queries, test.video_ids, classes, level),
                _with_classes(gallery, train.video_ids, classes, level),
            )


def _within(frames: Tensor, video: Tensor, video_ids: np.ndarray) -> list[Question]:
    """F=>V and V=>F among the clips of one split: (M,T,D) frames, (M,D) clips."""
    count, length, _ = frames.shape
    labels = {"exact clip": np.arange(count), "same video": video_ids}
    of_frames = {name: np.repeat(ids, length) for name, ids in labels.items()}
    clips, every_frame = Items(video, labels), Items(frames.flatten(0, 1), of_frames)  # (M*T,D)
    return [
        Question("F=>V", "clip", every_frame, clips),
        Question("V=>F", "clip", clips, every_frame),
    ]


def _vectors(features: SetFeatures, space: str, centred: bool) -> tuple[Tensor, Tensor]:
    """Return frames (M,T,D) and clips (M,D) of one split in one space."""
    frames, video = (getattr(features, name) for name in SPACES[space])
    if centred:
        frames = (frames.double() - frames.double().mean((0, 1))).float()
        video = (video.double() - video.double().mean(0)).float()
    return frames, video


def _with_classes(
    vectors: Tensor, video_ids: np.ndarray, classes: np.ndarray, level: str
) -> Items:
    """Return clips, or the means of videos, with their classes; of (M,T,D) the middle frame."""
    if vectors.ndim == 3:
        vectors = vectors[:, vectors.shape[1] // 2]  # (M,D)
    if level == "video":
        vectors, video_ids = video_means(vectors, video_ids)
    return Items(vectors, {"class": classes[video_ids]})


def video_means(vectors: Tensor, video_ids: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Average the vectors of each video's clips, as they are, not scaled to length 1.

    Args:
        vectors: (M, D), one per clip.
        video_ids: (M,) int64, the video of each clip.

    Returns:
        (V, D) means, float64, and their (V,) video ids, ascending.
    """
    ids, row_of_clip, counts = np.unique(video_ids, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(ids), vectors.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(row_of_clip), vectors.double())
    return sums / torch.from_numpy(counts)[:, None], ids


def shared_frames(features: SetFeatures) -> float:
    """Return the share, in [0, 1], of frames that another clip of their video holds too."""
    length = features.frame_seconds.shape[1]
    clips = np.repeat(np.arange(len(features)), length)
    frames = np.stack([np.repeat(features.video_ids, length), features.frame_seconds.ravel()], 1)
    _, frame = np.unique(frames, axis=0, return_inverse=True)
    frame = frame.reshape(-1)
    frame_and_clip = np.unique(np.stack([frame, clips], 1), axis=0)  # a looped clip counts once
    clips_of_frame = np.bincount(frame_and_clip[:, 0])
    return float((clips_of_frame[frame] > 1).mean())


def top_k_accuracy(hits: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """Share of queries with a hit among their k nearest.

    Args:
        hits: (Q, K) bool, True where the neighbour of that rank counts as correct.
        ks: Ranks to report; a k above K counts all K.

    Returns:
        k -> accuracy in [0, 1].
    """
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in ks}


def measure_retrieval(options: EvaluationOptions, retrieval: Retrieval) -> list[Results]:
    """Measure retrieval by every model on every set, write the results and return them.

    Args:
        options: Models, sets, and where results go.
        retrieval: What to report.

    Raises:
        CCLError: A model or a set cannot be used, or results cannot be written.
    """
    results = evaluate(options, "retrieval", retrieval.measure)
    _log_left_out(results)
    return results


def _log_left_out(results: Iterable[Results]) -> None:
    """Name, once for each set, what was not reported."""
    for name, left_out in {one.data.name: one.settings["left_out"] for one in results}.items():
        for question, beyond in left_out.items():
            logger.warning(
                "%s: %s has a gallery of %d, so top-%s would count all of it and is left out",
                name,
                question,
                beyond["gallery"],
                ", top-".join(map(str, beyond["ks"])),
            )
