"""What a classifier's predictions are worth: clips averaged, accuracy, F-measure, confusion.

Pure functions; linear probe and fine-tuning share them (paper, Section 4.3, Tables 4 to 6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccl_hub.errors import InputError

from .results import Confusion, Measurement

__all__ = [
    "AVERAGES",
    "average_clips",
    "confusion_matrix",
    "f_measure",
    "measure",
    "top_k",
]

AVERAGES = ("macro", "micro")
SUM_TOLERANCE = 1e-3


def average_clips(probabilities: np.ndarray, video_ids: np.ndarray) -> np.ndarray:
    """Average the predictions of a video's clips.

    Args:
        probabilities: (M, C) softmax outputs of clips; rows sum to 1.
        video_ids: (M,) integer that says which video a clip is of.

    Returns:
        (V, C) float64, one row per video in ascending order of ids (``np.unique(video_ids)``).

    Raises:
        InputError: Shapes differ, or rows are no probabilities.

    Source:
        Section 4.3: centre crops of 10 clips, predictions averaged.
    """
    wide = np.asarray(probabilities, np.float64)
    ids = np.asarray(video_ids)
    if wide.ndim != 2 or len(wide) == 0 or ids.shape != (len(wide),):
        raise InputError(
            f"probabilities have shape {wide.shape} and video ids {ids.shape}; "
            "allowed: (M, C) and (M,), one id for each clip."
        )
    bad = ~((wide >= 0).all(1) & (np.abs(wide.sum(1) - 1) < SUM_TOLERANCE))  # NaN is bad too
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"row {first} ({int(bad.sum())} of {len(bad)} rows) holds no probabilities: from "
            f"{wide[first].min()} to {wide[first].max()}, sum {wide[first].sum()}; "
            "give softmax outputs."
        )
    _, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), wide.shape[1]))
    np.add.at(sums, place, wide)
    return sums / counts[:, None]


def top_k(
    probabilities: np.ndarray, truth: np.ndarray, ks: Sequence[int] = (1, 5)
) -> dict[int, float]:
    """Share of items whose class is among the k most probable.

    Of equally probable classes the one that comes first counts as more probable, so that ties
    neither help nor hurt by chance.

    Args:
        probabilities: (V, C) floats.
        truth: (V,) class positions, 0 to C - 1.
        ks: Which k to report; one above C counts every class.

    Returns:
        k -> accuracy in [0, 1].

    Raises:
        InputError: Lengths differ, a class is out of range, or a value is NaN.
    """
    scores = np.asarray(probabilities, np.float64)
    if scores.ndim != 2 or np.isnan(scores).any():
        raise InputError(
            f"probabilities have shape {scores.shape}, {int(np.isnan(scores).sum())} values are "
            "NaN; allowed: (V, C) numbers."
        )
    classes = _positions(truth, scores.shape[1], "truth")
    _same_length(scores, classes)
    own = np.take_along_axis(scores, classes[:, None], 1)  # (V,1)
    earlier = np.arange(scores.shape[1]) < classes[:, None]  # (V,C)
    rank = ((scores > own) | ((scores == own) & earlier)).sum(1)  # (V,)
    return {k: float((rank < k).mean()) for k in ks}


def f_measure(
    predicted: np.ndarray, truth: np.ndarray, classes: int, average: str = "macro"
) -> float:
    """F-measure, the harmonic mean of precision and recall, over classes.

    Args:
        predicted: (V,) class positions.
        truth: (V,) class positions.
        classes: Number of classes.
        average: ``"macro"``, the mean over the classes that occur in ``truth`` or ``predicted``
            (0 for one that is never right); or ``"micro"``, from the counts of all classes
            together, which for one label per video is the accuracy.

    Returns:
        A value in [0, 1], equal to scikit-learn's ``f1_score``.

    Raises:
        InputError: Lengths differ, a class is out of range, or the average is unknown.

    Source:
        Table 6; the paper does not say which average.
    """
    if average not in AVERAGES:
        raise InputError(f"average is {average!r}; allowed: {', '.join(AVERAGES)}.")
    counts = _counts(predicted, truth, classes)
    right = np.diag(counts).astype(np.float64)
    both = counts.sum(0) + counts.sum(1)  # predicted as it, and truly it
    if average == "micro":
        return float(2 * right.sum() / both.sum())
    there = both > 0
    return float((2 * right[there] / both[there]).mean())


def confusion_matrix(
    predicted: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> Confusion:
    """Count which class was taken for which.

    Args:
        predicted: (V,) class positions.
        truth: (V,) class positions.
        classes: Names in order of positions.

    Raises:
        InputError: As :func:`f_measure`.
    """
    counts = _counts(predicted, truth, len(classes))
    return Confusion(tuple(classes), tuple(tuple(row) for row in counts.tolist()))


def measure(
    task: str, probabilities: np.ndarray, truth: np.ndarray, averages: Sequence[str] = ()
) -> tuple[Measurement, ...]:
    """Turn predictions for videos into the figures of a results file.

    Args:
        task: ``linear`` or ``finetune``.
        probabilities: (V, C), from :func:`average_clips`.
        truth: (V,) class positions.
        averages: F-measures to add, of :data:`AVERAGES`.

    Returns:
        ``top-1``; ``top-5`` where there are more than five classes; ``macro-F1``, ``micro-F1``.

    Raises:
        InputError: As :func:`top_k` and :func:`f_measure`.
    """
    scores = np.asarray(probabilities)
    ks = (1, 5) if scores.shape[1] > 5 else (1,)
    values = {f"top-{k}": share for k, share in top_k(scores, truth, ks).items()}
    predicted = scores.argmax(1)
    for average in averages:
        values[f"{average}-F1"] = f_measure(predicted, truth, scores.shape[1], average)
    return tuple(
        Measurement(task, metric, value, level="video", queries=len(scores))
        for metric, value in values.items()
    )


def _counts(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 (C, C): rows are true classes, columns predicted ones."""
    rows, columns = _positions(truth, classes, "truth"), _positions(predicted, classes, "guess")
    _same_length(rows, columns)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def _positions(values: np.ndarray, classes: int, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; allowed: (V,) integers."
        )
    if len(array) and not 0 <= array.min() <= array.max() < classes:
        raise InputError(
            f"{what} goes from {array.min()} to {array.max()}; allowed: 0 to {classes - 1}, the "
            "positions of the classes. Videos without a class cannot be judged."
        )
    return array


def _same_length(first: np.ndarray, second: np.ndarray) -> None:
    if len(first) == 0 or len(first) != len(second):
        raise InputError(
            f"{len(first)} and {len(second)} items; allowed: as many predictions as truths, and "
            "at least one."
        )
