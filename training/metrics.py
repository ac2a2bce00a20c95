"""Nearest-neighbour retrieval, as pure functions on embeddings (paper, Section 4.2).

Similarity is the cosine. Search is exact: scores in float32 make a short list that provably holds
the true neighbours, the short list is scored again in float64, and ties go to the lower gallery
index, so that the result does not depend on block sizes, threads or devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import InputError

__all__ = ["class_retrieval", "instance_retrieval", "nearest", "top_k_accuracy", "unit_rows"]

BLOCK_SCORES = 4_000_000
RESCORED_PAIRS = 16_384
FLOAT32_ROUNDING = 2.0**-24


def unit_rows(vectors: Tensor) -> Tensor:
    """Scale rows to length 1; rows of zeros stay zeros, so their every cosine is 0.

    Args:
        vectors: (N, D) floats, finite.

    Returns:
        (N, D) float64 on the same device.

    Raises:
        InputError: The shape is not (N, D), or a value is NaN or infinite.
    """
    if vectors.ndim != 2:
        raise InputError(f"embeddings have shape {tuple(vectors.shape)}; allowed: (N, D).")
    wide = vectors.double()
    bad = ~torch.isfinite(wide).all(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise InputError(
            f"embedding row {first} ({int(bad.sum())} of {len(bad)} rows) holds NaN or infinity; "
            "a retrieval over it would mean nothing."
        )
    # Dividing by the largest value first keeps the squares of huge rows finite.
    largest = wide.abs().amax(1, keepdim=True)
    wide = wide / torch.where(largest > 0, largest, torch.ones_like(largest))
    norms = wide.norm(dim=1, keepdim=True)
    return wide / torch.where(norms > 0, norms, torch.ones_like(norms))


def nearest(queries: Tensor, gallery: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find each query's k nearest gallery rows by cosine, exactly.

    Args:
        queries: (Q, D) floats.
        gallery: (G, D) floats on the same device.
        k: Neighbours per query, 1 to G.

    Returns:
        (Q, k) int64 gallery indices, nearest first, and their (Q, k) float64 cosines. Of equally
        near rows the one with the lower index comes first.

    Raises:
        InputError: ``k`` or a shape is not allowed, or a value is not finite.

    Example:
        >>> import torch
        >>> nearest(torch.tensor([[1.0, 0.1]]), torch.eye(2), k=1)[0].tolist()
        [[0]]
    """
    if not 1 <= k <= len(gallery):
        raise InputError(f"k is {k}; allowed: 1 to {len(gallery)}, the size of the gallery.")
    q64, g64 = unit_rows(queries), unit_rows(gallery)
    if q64.shape[1] != g64.shape[1]:
        raise InputError(
            f"queries have {q64.shape[1]} dimensions and the gallery {g64.shape[1]}; "
            "compare embeddings of one space."
        )
    g32 = g64.float()
    indices = np.empty((len(q64), k), dtype=np.int64)
    cosines = np.empty((len(q64), k), dtype=np.float64)
    rows = max(1, BLOCK_SCORES // len(g64))
    for start in range(0, len(q64), rows):
        block = slice(start, start + rows)
        indices[block], cosines[block] = _nearest_block(q64[block], g64, g32, k)
    return indices, cosines


def _nearest_block(q64: Tensor, g64: Tensor, g32: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Short-list one block of queries in float32 and rank the short list in float64."""
    scores = q64.float() @ g32.T  # (rows,G)
    kth = scores.topk(k, dim=1).values[:, -1:]
    # Each score of unit rows is off by at most about (D+2) roundings; two scores take part.
    slack = 2 * (q64.shape[1] + 2) * FLOAT32_ROUNDING
    row, column = (scores >= kth - slack).nonzero(as_tuple=True)
    exact = torch.cat(
        [
            (q64[row[p : p + RESCORED_PAIRS]] * g64[column[p : p + RESCORED_PAIRS]]).sum(1)
            for p in range(0, len(row), RESCORED_PAIRS)
        ]
    )
    row_np, column_np, exact_np = row.cpu().numpy(), column.cpu().numpy(), exact.cpu().numpy()
    order = np.lexsort((column_np, -exact_np, row_np))
    first = np.searchsorted(row_np[order], np.arange(len(q64)))
    chosen = order[first[:, None] + np.arange(k)]  # (rows,k)
    return column_np[chosen], exact_np[chosen]


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
    hits = np.asarray(gallery_classes)[found] == np.asarray(query_classes)[:, None]
    return top_k_accuracy(hits, ks)


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
