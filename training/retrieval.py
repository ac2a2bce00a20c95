"""Retrieval by cosine inside a labelled set (paper, Section 4.2, Tables 2 and 3).

    python -m training.retrieval --model ccl_r18_mini --model random-init --data PACK --out OUT

Every video gives 10 uniform centre-crop clips of T frames. Four questions:

``F=>V``, ``V=>F``
    Inside the test split: does a frame (of all T of every clip) find the very clip that holds it
    (``exact clip``), or any clip of its video (``same video``)? And a clip one of its frames?
    Clips of a short video overlap and share frames. A shared frame is asked for once for each clip
    that holds it, and only that clip, not another that holds it too, is the exact one: even a
    perfect embedding cannot find all. ``shared_frames`` in the settings is the share of such
    frames; where it is large, read ``same video``.
``F=>F``, ``V=>V``
    Does a test item find a training item of its class? By ``clip``, the paper's wording: every
    clip is a query and an item of the gallery; for ``F=>F`` it stands for one frame, the middle
    one (of T, number T // 2 from 0). By ``video``, as the code that Table 3 compares with does
    it: one vector per video, the mean over its clips.

On the 512-d representations and on the 128-d projections that the loss compares. With
``--centre`` every figure is given once more after centring: the mean of all frames of a split is
subtracted from these, and the mean of all its clips from those. A constant shift between frames
and clips, or between splits, then no longer counts.

All neighbours are exact and no item is dropped; of equally near items the earlier one comes first.
A k larger than the gallery is left out, as it would count the whole of it; the settings in the
results file say so. Writes one results file per model, seed and set, and tables to standard
output. Exit codes: 0 done; 2 a model, set or argument cannot be used; 1 a result cannot be
written.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import CCLError, InputError, OutputError

from .evaluation.evaluate import Found, evaluate
from .evaluation.features import SetFeatures
from .evaluation.labelled_sets import EvaluationSet, add_evaluation_arguments
from .evaluation.metrics import label_hits, nearest, top_k_accuracy
from .evaluation.models import add_model_arguments
from .evaluation.results import Measurement, Results, Summary, summarise

__all__ = [
    "KS",
    "LEVELS",
    "Measured",
    "Retrieval",
    "main",
    "markdown_tables",
    "shared_frames",
    "video_means",
]

logger = logging.getLogger(__name__)

KS = (1, 5, 10, 20, 50)
LEVELS = ("clip", "video")
SPACES = {"512": ("frames", "video"), "128": ("frame_projections", "video_projections")}


@dataclass(frozen=True)
class _Items:
    """Vectors of one split, (N, D), and what each belongs to: labels by name, each (N,)."""

    vectors: Tensor
    labels: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Question:
    """Which items are looked for among which."""

    task: str
    level: str
    queries: _Items
    gallery: _Items


@dataclass(frozen=True)
class Measured:
    """What :meth:`Retrieval.measure` found.

    Args:
        measurements: One per question, space, level, match and k, and centred or not.
        left_out: Question -> size of its gallery, and the ks larger than that.
    """

    measurements: tuple[Measurement, ...]
    left_out: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Retrieval:
    """Measures retrieval on the embeddings of a set.

    Args:
        ks: Ranks to report, ascending.
        levels: Which of ``clip`` and ``video`` to report; ``F=>V`` and ``V=>F`` are by clip.
        centre: Report everything again after centring.
        device: Where to search, the CPU if None; MPS has no float64, so there it is the CPU too.

    Raises:
        InputError: ``ks`` or ``levels`` are not allowed.
    """

    ks: tuple[int, ...] = KS
    levels: tuple[str, ...] = LEVELS
    centre: bool = False
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(set(self.ks)):
            raise InputError(f"ks are {self.ks}; allowed: whole numbers from 1, ascending.")
        if not self.levels or not set(self.levels) <= set(LEVELS):
            raise InputError(f"levels are {self.levels}; allowed: {', '.join(LEVELS)}.")

    @property
    def _place(self) -> torch.device:
        on_cpu = self.device is None or self.device.type == "mps"
        return torch.device("cpu") if on_cpu else self.device

    def measure(self, features: SetFeatures, labelled: EvaluationSet) -> Measured:
        """Answer all questions.

        Args:
            features: Of every clip of ``labelled``.
            labelled: Gives classes and splits.

        Raises:
            InputError: Embeddings are not finite.

        Source:
            Section 4.2, tasks (A), (B) and (C); Tables 2 and 3.
        """
        classes = labelled.videos.targets()
        test, train = (features.of_split(labelled, split) for split in ("test", "train"))
        found: list[Measurement] = []
        left_out: dict[str, dict[str, Any]] = {}
        for centred in (False, True) if self.centre else (False,):
            for space in SPACES:
                ours, theirs = (_space(part, space, centred) for part in (test, train))
                questions = []
                if "clip" in self.levels:
                    questions += _within(*ours, test.video_ids)
                for level in self.levels:
                    for place, task in enumerate(("F=>F", "V=>V")):
                        queries, gallery = (
                            _with_classes(one[place], part.video_ids, classes, level)
                            for one, part in ((ours, test), (theirs, train))
                        )
                        questions.append(_Question(task, level, queries, gallery))
                for question in questions:
                    beyond = [k for k in self.ks if k > len(question.gallery.vectors)]
                    if beyond:
                        size = len(question.gallery.vectors)
                        name = f"{question.task} by {question.level}"
                        left_out[name] = {"gallery": size, "ks": beyond}
                    found += self._answer(question, space, centred)
        return Measured(tuple(found), left_out)

    def _answer(self, question: _Question, space: str, centred: bool) -> list[Measurement]:
        """Search once and count the hits of every label."""
        queries, gallery = question.queries, question.gallery
        ks = [k for k in self.ks if k <= len(gallery.vectors)]
        if not ks:
            return []
        neighbours, _ = nearest(queries.vectors, gallery.vectors.to(self._place), max(ks))
        found = []
        for match, labels in queries.labels.items():
            hits = label_hits(neighbours, labels, gallery.labels[match])
            for k, value in top_k_accuracy(hits, ks).items():
                column = (space, question.level, match, centred)
                found.append(
                    Measurement(question.task, f"top-{k}", value, *column, queries=len(hits))
                )
        return found


def _within(frames: Tensor, video: Tensor, video_ids: np.ndarray) -> list[_Question]:
    """F=>V and V=>F among the clips of one split: (M,T,D) frames, (M,D) clips."""
    count, length, _ = frames.shape
    labels = {"exact clip": np.arange(count), "same video": video_ids}
    of_frames = {name: np.repeat(ids, length) for name, ids in labels.items()}
    holders, held = _Items(video, labels), _Items(frames.flatten(0, 1), of_frames)  # (M*T,D)
    return [_Question("F=>V", "clip", held, holders), _Question("V=>F", "clip", holders, held)]


def _space(features: SetFeatures, space: str, centred: bool) -> tuple[Tensor, Tensor]:
    """Return frames (M,T,D) and clips (M,D) of one split in one space."""
    frames, video = (getattr(features, name) for name in SPACES[space])
    if centred:
        frames = (frames.double() - frames.double().mean((0, 1))).float()
        video = (video.double() - video.double().mean(0)).float()
    return frames, video


def _with_classes(
    vectors: Tensor, video_ids: np.ndarray, classes: np.ndarray, level: str
) -> _Items:
    """Return clips, or the means of videos, with their classes; of (M,T,D) the middle frame."""
    if vectors.ndim == 3:
        vectors = vectors[:, vectors.shape[1] // 2]  # (M,D)
    if level == "video":
        vectors, video_ids = video_means(vectors, video_ids)
    return _Items(vectors, {"class": classes[video_ids]})


def video_means(vectors: Tensor, video_ids: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Average the vectors of each video's clips, as they are, not scaled to length 1.

    Args:
        vectors: (M, D), one per clip.
        video_ids: (M,) int64, the video of each clip.

    Returns:
        (V, D) means, float64, and their (V,) video ids, ascending.
    """
    ids, place, counts = np.unique(video_ids, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(ids), vectors.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(place), vectors.double())
    return sums / torch.from_numpy(counts)[:, None], ids


def shared_frames(features: SetFeatures) -> float:
    """Return the share, in [0, 1], of frames that another clip of their video holds too."""
    length = features.frame_seconds.shape[1]
    clips = np.repeat(np.arange(len(features)), length)
    frames = np.stack([np.repeat(features.video_ids, length), features.frame_seconds.ravel()], 1)
    _, frame = np.unique(frames, axis=0, return_inverse=True)
    frame = frame.reshape(-1)
    holds = np.unique(np.stack([frame, clips], 1), axis=0)  # each clip once for each frame
    holders = np.bincount(holds[:, 0])
    return float((holders[frame] > 1).mean())


def markdown_tables(results: Sequence[Results]) -> str:
    """Return a Markdown table per data set, in per cent; the seeds of a row are put together.

    Args:
        results: Of retrieval, at least one.
    """
    tables: dict[str, dict[tuple[str, ...], dict[str, Summary]]] = {}
    for cell in summarise(results):
        task, space, level, match, metric, centred = cell.column
        line = (task, level, match, f"{space}-d{', centred' * centred}", cell.label)
        tables.setdefault(cell.data, defaultdict(dict))[line][metric] = cell
    texts = []
    for name, lines in tables.items():
        data = next(one.data for one in results if one.data.name == name)
        found = {metric for cells in lines.values() for metric in cells}
        metrics = sorted(found, key=lambda metric: int(metric.partition("-")[2]))
        head = f"{name}: {data.test_videos} test videos, {data.train_videos} training videos"
        texts.append(f"{head}; {data.note}." if data.note else f"{head}.")
        texts.append(_table(lines, metrics))
    return "\n\n".join(texts) + "\n"


def _table(lines: dict[tuple[str, ...], dict[str, Summary]], metrics: Sequence[str]) -> str:
    """Return one table; rows that answer the same question stand together."""
    questions = list(dict.fromkeys(line[:4] for line in lines))
    labels = list(dict.fromkeys(line[4] for line in lines))
    rows = [
        f"| task | by | found | space | model | {' | '.join(metrics)} |",
        "|---" * (5 + len(metrics)) + "|",
    ]
    for question in questions:
        for label in labels:
            cells = lines.get((*question, label), {})
            values = [cells[metric].text() if metric in cells else "" for metric in metrics]
            rows.append(f"| {' | '.join((*question, label, *values))} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m training.retrieval",
        description="Measure retrieval by cosine inside labelled sets (Tables 2 and 3).",
    )
    add_model_arguments(parser)
    add_evaluation_arguments(parser)
    parser.add_argument(
        "--ks", type=_numbers, default=KS, metavar="1,5,10,20,50", help="ranks to report"
    )
    parser.add_argument(
        "--level", type=_levels, default=LEVELS, metavar="clip,video", help="what is retrieved"
    )
    parser.add_argument(
        "--centre", action="store_true", help="also with each split's mean subtracted"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        results = _run(options)
        tables = markdown_tables(results)
    except OutputError as error:
        return _fail(error, 1)
    except CCLError as error:
        return _fail(error, 2)
    sys.stdout.write(tables)
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) >= 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}; give whole numbers from 1, such as 1,5,10")
    return tuple(sorted({int(part) for part in parts}))


def _levels(text: str) -> tuple[str, ...]:
    parts = set(text.split(","))
    if not parts <= set(LEVELS):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: clip, video, or clip,video")
    return tuple(level for level in LEVELS if level in parts)


def _run(options: argparse.Namespace) -> list[Results]:
    def measure(features: SetFeatures, labelled: EvaluationSet, device: torch.device) -> Found:
        retrieval = Retrieval(options.ks, options.level, options.centre, device)
        measured = retrieval.measure(features, labelled)
        length = features.frames.shape[1]
        settings = {
            "frame_of_clip": f"{length // 2} of 0..{length - 1}",
            "shared_frames": round(shared_frames(features.of_split(labelled, "test")), 4),
            "left_out": measured.left_out,
        }
        return Found(measured.measurements, settings)

    results = evaluate(options, "retrieval", measure)
    _say_left_out(results)
    return results


def _say_left_out(results: Iterable[Results]) -> None:
    """Name, once for each set, what was not reported."""
    for name, left_out in {one.data.name: one.settings["left_out"] for one in results}.items():
        for question, what in left_out.items():
            logger.warning(
                "%s: %s has a gallery of %d, so top-%s would count all of it and is left out",
                name,
                question,
                what["gallery"],
                ", top-".join(map(str, what["ks"])),
            )


if __name__ == "__main__":
    sys.exit(main())
