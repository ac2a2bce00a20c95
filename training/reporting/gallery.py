"""Nearest neighbours to look at: queries drawn by chance, with thumbnails of what they find.

Nothing is picked by hand: a seeded generator draws test videos, then a clip and a frame of each.
The search is that of the tables (:func:`training.evaluation.search.nearest`, 512-d, cosine, by
clip).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from ccl_hub._util.extras import require_packages
from ccl_hub.errors import ConfigError

from ..evaluation.search import nearest
from ..frames.packed import FrameSource

if TYPE_CHECKING:
    from ..evaluation.features import SetFeatures

THUMBNAIL_HEIGHT_PX = 72
STRIP_FRAMES = 3
JPEG_QUALITY = 70
RIGHT, NEAR, WRONG = "right", "near", "wrong"
Verdict = tuple[str, str]  # one of these three, and words with a mark: not all readers see colours


@dataclass(frozen=True)
class Thumbnail:
    """A frame, or three frames of a clip side by side, as a JPEG in a data URI.

    ``alt`` says in words what it is, ``caption`` names video and time.
    """

    image: str
    alt: str
    width_px: int
    height_px: int
    caption: str
    frames: int


@dataclass(frozen=True)
class Answer:
    """A neighbour; ``verdict`` and ``words`` are a :data:`Verdict`."""

    thumbnail: Thumbnail
    verdict: str
    words: str
    cosine: float


@dataclass(frozen=True)
class Query:
    """One query and its nearest neighbours, nearest first."""

    thumbnail: Thumbnail
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Gallery:
    """The queries of one task."""

    title: str
    text: str
    queries: tuple[Query, ...]


def galleries(
    source: FrameSource,
    features: SetFeatures,
    label: str,
    *,
    queries: int = 4,
    neighbours: int = 5,
    seed: int = 0,
) -> list[Gallery]:
    """Search with a few queries in each direction.

    Args:
        source: A labelled set with train and test videos.
        features: Of every clip of it, by one model.
        label: The model, for titles.
        queries: Test videos to draw, at least 1; all of them if there are fewer.
        neighbours: To show for each.
        seed: Of the draw; the same for every model, so that models get the same queries.

    Returns:
        F=>V and V=>F inside the test split, and V=>V from test to train clips.

    Raises:
        ConfigError: ``queries`` or ``neighbours`` is below 1, or pillow is not installed.
        TrainingError: There is no test or no train video, or a frame is damaged.
    """
    if queries < 1 or neighbours < 1:
        raise ConfigError(
            f"--queries is {queries} and --neighbours {neighbours}; allowed: at least 1."
        )
    require_packages("a gallery", ["PIL"], "training", "leave out --gallery-model", ConfigError)
    for split in ("train", "test"):
        source.videos.select(split)
    return _Drawer(source, features, label, neighbours).draw(queries, seed)


class _Drawer:
    """Searches in the features of one set and draws what it finds."""

    def __init__(
        self, source: FrameSource, features: SetFeatures, label: str, neighbours: int
    ) -> None:
        self._source, self._features, self._neighbours = source, features, neighbours
        self._name = f"{label} on {source.videos.name}"
        splits = np.array([item.split for item in source.videos])[features.video_ids]
        self._test, self._train = (np.flatnonzero(splits == name) for name in ("test", "train"))
        self._labels = [item.label or "no class" for item in source.videos]
        self._thumbnail = cache(self._draw_thumbnail)

    def draw(self, queries: int, seed: int) -> list[Gallery]:
        generator = np.random.default_rng(seed)
        ids = self._features.video_ids
        videos = np.unique(ids[self._test])
        chosen = generator.permutation(videos)[:queries]
        clips = np.array([generator.choice(np.flatnonzero(ids == video)) for video in chosen])
        length = self._features.frames.shape[1]
        frames = generator.integers(length, size=len(clips))
        how = f"{len(clips)} of {len(videos)} test videos, drawn by chance (seed {seed})"
        return [
            Gallery(
                f"Frame finds its video (F ⇒ V): {self._name}",
                f"{how}; one frame of each is compared with all {len(self._test)} test clips.",
                self._frame_to_video(clips, frames),
            ),
            Gallery(
                f"Video finds its frames (V ⇒ F): {self._name}",
                f"{how}; one clip of each is compared with all {len(self._test) * length} frames "
                "of test clips.",
                self._video_to_frame(clips),
            ),
            Gallery(
                f"Class neighbours (V ⇒ V): {self._name}",
                f"{how}; one clip of each is compared with all {len(self._train)} training clips. "
                "Right means: of the same class.",
                self._video_to_video(clips),
            ),
        ]

    def _frame_to_video(self, clips: np.ndarray, frames: np.ndarray) -> tuple[Query, ...]:
        vectors, shown = self._features.frames[clips, frames], map(self._frame, clips, frames)
        gallery = self._features.video[self._test]

        def answer(clip: int, row: int) -> tuple[Thumbnail, Verdict]:
            other = self._test[row]
            return self._clip(other), self._instance(clip, other)

        return self._answered(clips, shown, vectors, gallery, answer)

    def _video_to_frame(self, clips: np.ndarray) -> tuple[Query, ...]:
        gallery = self._features.frames[self._test]  # (M,T,D)

        def answer(clip: int, row: int) -> tuple[Thumbnail, Verdict]:
            other, frame = self._test[row // gallery.shape[1]], row % gallery.shape[1]
            return self._frame(other, frame), self._instance(clip, other)

        vectors, shown = self._features.video[clips], map(self._clip, clips)
        return self._answered(clips, shown, vectors, gallery.flatten(0, 1), answer)

    def _video_to_video(self, clips: np.ndarray) -> tuple[Query, ...]:
        def answer(clip: int, row: int) -> tuple[Thumbnail, Verdict]:
            other = self._train[row]
            truth, label = (self._labels[self._features.video_ids[one]] for one in (clip, other))
            verdict = (RIGHT, f"✓ {label}") if label == truth else (WRONG, f"✗ {label}")
            return self._clip(other), verdict

        vectors, shown = self._features.video[clips], map(self._clip, clips)
        return self._answered(clips, shown, vectors, self._features.video[self._train], answer)

    def _answered(
        self,
        clips: np.ndarray,
        shown: Iterable[Thumbnail],
        vectors: torch.Tensor,
        gallery: torch.Tensor,
        answer: Callable[[int, int], tuple[Thumbnail, Verdict]],
    ) -> tuple[Query, ...]:
        """Search with a vector of each clip; ``answer`` judges a clip and a row of the gallery."""
        indices, cosines = nearest(vectors, gallery, min(self._neighbours, len(gallery)))
        queries = []
        for clip, thumbnail, rows, scores in zip(clips, shown, indices, cosines, strict=True):
            answers = []
            for row, cosine in zip(rows, scores, strict=True):
                neighbour, verdict = answer(clip, row)
                answers.append(Answer(neighbour, *verdict, float(cosine)))
            queries.append(Query(thumbnail, tuple(answers)))
        return tuple(queries)

    def _instance(self, clip: int, neighbour: int) -> Verdict:
        if clip == neighbour:
            return RIGHT, "✓ this very clip"
        ids = self._features.video_ids
        if ids[clip] == ids[neighbour]:
            return NEAR, "≈ same video, another clip"
        return WRONG, "✗ another video"

    def _frame(self, clip: int, frame: int) -> Thumbnail:
        return self._thumbnail(int(clip), (int(frame),))

    def _clip(self, clip: int) -> Thumbnail:
        length = self._features.frames.shape[1]
        frames = sorted({int(frame) for frame in np.linspace(0, length - 1, STRIP_FRAMES)})
        return self._thumbnail(int(clip), tuple(frames))

    def _draw_thumbnail(self, clip: int, frames: tuple[int, ...]) -> Thumbnail:
        video = int(self._features.video_ids[clip])
        times = np.asarray(self._features.frame_seconds[clip], np.float64)[list(frames)]
        indices = np.abs(self._source.seconds(video)[:, None] - times).argmin(0)
        pixels = self._source.read(video, indices)  # (k,h,w,3)
        span = f"{times[0]:.2f} s" if len(times) == 1 else f"{times[0]:.2f} to {times[-1]:.2f} s"
        name, label = self._source.names[video], self._labels[video]
        what = f"{len(frames)} frames of a clip" if len(frames) > 1 else "a frame"
        alt = f"{what} of {name}, {label}, at {span}"
        return thumbnail_of(pixels, alt, f"{name} · {span}")


def thumbnail_of(pixels: np.ndarray, alt: str, caption: str) -> Thumbnail:
    """Return frames (k, h, w, 3) uint8 side by side as a thumbnail."""
    from PIL import Image

    strip = Image.fromarray(np.concatenate(list(pixels), axis=1))
    width = max(1, round(strip.width * THUMBNAIL_HEIGHT_PX / strip.height))
    small = strip.resize((width, THUMBNAIL_HEIGHT_PX), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    uri = f"data:image/jpeg;base64,{text}"
    return Thumbnail(uri, alt, width, THUMBNAIL_HEIGHT_PX, caption, len(pixels))
