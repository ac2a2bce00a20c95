"""Retrieval metrics, as pure functions on embeddings (paper, Section 4.2).

Similarity is the cosine, and neighbours are exact; see :mod:`training.evaluation.search`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ccl_hub.errors import InputError

from .search import nearest, unit_rows

__all__ = [
    "class_retrieval",
    "instance_retrieval",
    "label_hits",
    "nearest",
    "top_k_accuracy",
    "unit_rows",
]


def label_hits(
    found: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray
) -> np.ndarray:
    """Say which neighbours have the label of their query.

    Args:
        found: (Q, K) gallery indices, as :func:`nearest` gives them.
        query_labels: (Q,) class, clip or video number of each query.
        gallery_labels: (G,) the same for the gallery.

    Returns:
        (Q, K) bool.
    """
    return np.asarray(gallery_labels)[found] == np.asarray(query_labels)[:, None]


def top_k_accuracy(hits: np.ndarray, ks: Sequence[int]) -> dict[int, float]:
    """Share of queries with a hit among their k nearest.

    Args:
        hits: (Q, K) bool, True where the neighbour of that rank counts as correct.
        ks: Ranks to report; a k above K counts all K.

    Returns:
        k -> accuracy in [0, 1].
    """
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in ks}


def class_retrieval(
    queries: Tensor,
    gallery: Tensor,
    query_classes: np.ndarray,
    gallery_classes: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[int, float]:
    """V=>V or F=>F: a query hits if its class is among those of its k nearest gallery items.

    Args:
        queries: (Q, D) embeddings of test items.
        gallery: (G, D) embeddings of training items.
        query_classes: (Q,) class of each query.
        gallery_classes: (G,) class of each gallery item.
        ks: Ranks to report.

    Returns:
        k -> accuracy in [0, 1]; a k above G counts the whole gallery.

    Raises:
        InputError: Nothing to compare, lengths that differ, or values that are not finite.

    Source:
        Section 4.2, task (C).
    """
    _check_lengths(queries, query_classes, "query")
    _check_lengths(gallery, gallery_classes, "gallery")
    found, _ = nearest(queries, gallery, min(max(ks), len(gallery)))
    return top_k_accuracy(label_hits(found, query_classes, gallery_classes), ks)


def instance_retrieval(
    queries: Tensor,
    gallery: Tensor,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[int, float]:
    """F=>V or V=>F: a query hits if an item with its own id is among its k nearest.

    Ids say what belongs together: clip numbers for the paper's tasks (the clip that contains the
    frame; a frame of the clip), video numbers for the milder same-video column. Frames and videos
    are different items, so nothing is left out of the gallery.

    Args:
        queries: (Q, D) embeddings.
        gallery: (G, D) embeddings.
        query_ids: (Q,) clip or video number of each query.
        gallery_ids: (G,) the same for the gallery.
        ks: Ranks to report.

    Returns:
        k -> accuracy in [0, 1].

    Raises:
        InputError: As :func:`class_retrieval`.

    Source:
        Section 4.2, tasks (A) and (B).
    """
    return class_retrieval(queries, gallery, query_ids, gallery_ids, ks)


def _check_lengths(vectors: Tensor, labels: np.ndarray, name: str) -> None:
    if len(vectors) == 0 or len(vectors) != len(labels):
        raise InputError(
            f"{len(vectors)} {name} embeddings but {len(labels)} {name} labels; "
            "allowed: one label for each, and at least one."
        )
