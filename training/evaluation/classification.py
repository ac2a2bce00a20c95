"""What a classifier's predictions are worth: clips averaged, accuracy, F-measure, confusion.

Pure functions; linear probe and fine-tuning share them (paper, Section 4.3, Tables 4 to 6).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn import metrics

from ccl_hub.errors import InputError

from .results import Confusion, Measurement

AVERAGES = ("macro", "micro")
SUM_TOLERANCE = 1e-3


def average_clips(probabilities: np.ndarray, video_ids: np.ndarray) -> np.ndarray:
    """Average the predictions of a video's clips.

    Args:
        probabilities: (M, C) softmax outputs of clips; rows sum to 1.
        video_ids: (M,) integers that say which video each clip is of.

    Returns:
        (V, C) float64, one row per video in ascending order of ids (``np.unique(video_ids)``).

    Raises:
        InputError: Shapes differ, or a row does not hold probabilities.

    Source:
        Section 4.3: centre crops of 10 clips, predictions averaged.
    """
    of_clips = np.asarray(probabilities, np.float64)
    ids = np.asarray(video_ids)
    if of_clips.ndim != 2 or len(of_clips) == 0 or ids.shape != (len(of_clips),):
        raise InputError(
            f"probabilities have shape {of_clips.shape} and video ids {ids.shape}; "
            "allowed: (M, C) and (M,), one id for each clip."
        )
    valid = (of_clips >= 0).all(1) & (np.abs(of_clips.sum(1) - 1) < SUM_TOLERANCE)  # NaN is not
    if not valid.all():
        first = int(np.flatnonzero(~valid)[0])
        row = of_clips[first]
        raise InputError(
            f"row {first} ({int((~valid).sum())} of {len(valid)} rows) does not hold "
            f"probabilities: from {row.min()} to {row.max()}, sum {row.sum()}; "
            "give softmax outputs."
        )
    _, row_of_clip, counts = np.unique(ids, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), of_clips.shape[1]))
    np.add.at(sums, row_of_clip, of_clips)
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
        ks: Which k to report; a k above C counts every class.

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
    of_truth = np.take_along_axis(scores, classes[:, None], 1)  # (V,1)
    earlier = np.arange(scores.shape[1]) < classes[:, None]  # (V,C)
    rank = ((scores > of_truth) | ((scores == of_truth) & earlier)).sum(1)  # (V,)
    return {k: float((rank < k).mean()) for k in ks}


def confusion_matrix(
    predicted: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> Confusion:
    """Count which class was taken for which.

    Args:
        predicted: (V,) class positions.
        truth: (V,) class positions.
        classes: Names in order of positions.

    Raises:
        InputError: Lengths differ, or a class is out of range.
    """
    count = len(classes)
    rows, columns = _positions(truth, count, "truth"), _positions(predicted, count, "prediction")
    _same_length(rows, columns)
    counts = metrics.confusion_matrix(rows, columns, labels=np.arange(count))
    return Confusion(tuple(classes), tuple(map(tuple, counts.tolist())))


def measure(
    task: str, probabilities: np.ndarray, truth: np.ndarray, averages: Sequence[str] = ()
) -> tuple[Measurement, ...]:
    """Turn predictions for videos into the figures of a results file.

    Args:
        task: ``linear`` or ``finetune``.
        probabilities: (V, C), from :func:`average_clips`.
        truth: (V,) class positions.
        averages: F-measures to add: ``"macro"``, the mean over the classes that occur in
            ``truth`` or are predicted (0 for one that is never right); ``"micro"``, from the
            counts of all classes together, which for one label per video is the accuracy.

    Returns:
        ``top-1``; ``top-5`` where there are more than five classes; ``macro-F1``, ``micro-F1``.

    Raises:
        InputError: As :func:`top_k`, or an average is unknown.

    Source:
        Tables 4 to 6; the paper does not say which average its F-measure is.
    """
    scores = np.asarray(probabilities)
    ks = (1, 5) if scores.shape[1] > 5 else (1,)
    values = {f"top-{k}": share for k, share in top_k(scores, truth, ks).items()}
    for average in averages:
        if average not in AVERAGES:
            raise InputError(f"average is {average!r}; allowed: {', '.join(AVERAGES)}.")
        values[f"{average}-F1"] = float(
            metrics.f1_score(truth, scores.argmax(1), average=average, zero_division=0)
        )
    return tuple(
        Measurement(task, metric, value, level="video", queries=len(scores))
        for metric, value in values.items()
    )


def _positions(values: np.ndarray, classes: int, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{what} has shape {array.shape} and dtype {array.dtype}; allowed: (V,) integers."
        )
    if len(array) and not 0 <= array.min() <= array.max() < classes:
        raise InputError(
            f"{what} goes from {array.min()} to {array.max()}; allowed: 0 to {classes - 1}, the "
            "positions of the classes. Leave out videos without a class."
        )
    return array


def _same_length(first: np.ndarray, second: np.ndarray) -> None:
    if len(first) == 0 or len(first) != len(second):
        raise InputError(
            f"{len(first)} and {len(second)} items; allowed: as many predictions as true classes, "
            "and at least one."
        )
