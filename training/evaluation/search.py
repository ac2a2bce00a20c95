"""Exact nearest neighbours by cosine, for galleries and queries of any number, on CPU or GPU.

Scores are float64, computed block by block, so that no matrix of all scores is ever held. The last
bit of a float64 sum depends on the order of summation, and so on block sizes, threads and device;
a plain matrix product may give two equal rows different scores. Here unit vectors are rounded to
about 48 binary digits after the point and cut into two pieces of whole numbers, whose products
float64 adds up without any rounding in whatever order: equal rows score equally, always.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import InputError

HIGH_BITS = 26  # binary digits of the first piece of a coordinate: squares add up below 2**53
CPU_BLOCK_ROWS, GPU_BLOCK_ROWS = 2048, 8192
Pieces = tuple[Tensor, Tensor]


@torch.no_grad()
def nearest(
    queries: Tensor, gallery: Tensor, k: int, *, block_rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find each query's k nearest gallery rows by cosine, exactly.

    Args:
        queries: (Q, D) floats.
        gallery: (G, D) floats. The search runs on its device, and holds a few blocks there.
        k: Neighbours per query, 1 to G.
        block_rows: Queries, and gallery rows, that are compared at once; chosen by device if None.
            A block of scores takes ``8 * block_rows**2`` bytes, and a search holds several.

    Returns:
        (Q, k) int64 gallery indices, nearest first, and their (Q, k) float64 cosines, right to
        ``sqrt(D) * 2**-47``. Of equally near rows the one with the lower index comes first. Both
        are the same, bit for bit, for any block size, number of threads and device.

    Raises:
        InputError: ``k`` or a shape is not allowed, or a value is not finite.

    Example:
        >>> import torch
        >>> nearest(torch.tensor([[1.0, 0.1]]), torch.eye(2), k=1)[0].tolist()
        [[0]]
    """
    if not 1 <= k <= len(gallery):
        raise InputError(f"k is {k}; allowed: 1 to {len(gallery)}, the size of the gallery.")
    if gallery.device.type == "mps":  # has no float64
        gallery = gallery.cpu()
    device = gallery.device
    if block_rows is None:
        block_rows = CPU_BLOCK_ROWS if device.type == "cpu" else GPU_BLOCK_ROWS
    for rows in (queries, gallery):
        _require_finite(rows, block_rows)
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions and the gallery {gallery.shape[1]}; "
            "compare embeddings of one space."
        )
    indices = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float64)
    for block in _blocks(len(queries), block_rows):
        pieces = _pieces(unit_rows(queries[block].to(device)))
        columns, scores = _search(pieces, gallery, k, block_rows)
        indices[block], cosines[block] = columns.cpu().numpy(), scores.cpu().numpy()
    return indices, cosines


def unit_rows(vectors: Tensor) -> Tensor:
    """Scale rows to length 1; rows of zeros stay zeros, so their every cosine is 0.

    Args:
        vectors: (N, D) floats, finite.

    Returns:
        (N, D) float64 on the same device.
    """
    wide = vectors.to(torch.float64)
    # Dividing by the largest value first keeps the squares of huge rows finite.
    largest = wide.abs().amax(1, keepdim=True)
    wide = wide / torch.where(largest > 0, largest, 1.0)
    norms = _tree_sum(wide.square()).sqrt()
    return wide / torch.where(norms > 0, norms, 1.0)


def _tree_sum(values: Tensor) -> Tensor:
    """Add up each row, (N,D) -> (N,1), in an order that depends on D alone."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        rest = values[:, 2 * half :]
        values = torch.cat([values[:, :half] + values[:, half : 2 * half], rest], dim=1)
    return values


def _require_finite(vectors: Tensor, block_rows: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise InputError(f"embeddings have shape {tuple(vectors.shape)}; allowed: (N, D).")
    finite = [torch.isfinite(vectors[block]).all(1) for block in _blocks(len(vectors), block_rows)]
    bad = (~torch.cat(finite)).nonzero()[:, 0] if finite else ()
    if len(bad):
        raise InputError(
            f"embedding row {int(bad[0])} ({len(bad)} of {len(vectors)} rows) holds NaN or "
            "infinity, and a retrieval over it would mean nothing; give those of a model in fp32."
        )


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _search(queries: Pieces, gallery: Tensor, k: int, block_rows: int) -> tuple[Tensor, Tensor]:
    """Return (q,k) gallery indices and scores of one block of queries."""
    count, device = len(queries[0]), gallery.device
    best = torch.full((count, k), -torch.inf, dtype=torch.float64, device=device)
    indices = torch.zeros((count, k), dtype=torch.int64, device=device)
    for block in _blocks(len(gallery), block_rows):
        scores = _scores(queries, _pieces(unit_rows(gallery[block])))  # (q,g)
        # An item that scores as high as the last one kept comes later in the gallery: no change.
        rows = (scores > best[:, -1:]).any(1).nonzero()[:, 0]
        highest, columns = _first_highest(scores[rows], min(k, scores.shape[1]))
        candidates = torch.cat([best[rows], highest], dim=1)
        owners = torch.cat([indices[rows], columns + block.start], dim=1)
        ranked, order = candidates.sort(dim=1, descending=True, stable=True)
        best[rows], indices[rows] = ranked[:, :k], owners.gather(1, order[:, :k])
    return indices, best


def _first_highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return each row's k highest scores and their columns, ascending; of equals the first."""
    kth = scores.topk(k, dim=1).values[:, -1:]
    above, equal = scores > kth, scores == kth
    room = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    columns = chosen.nonzero()[:, 1].view(-1, k)
    return scores.gather(1, columns), columns


def _piece_bits(dim: int) -> int:
    """Digits of the second piece: as many as keep its sums of products below 2**53."""
    return math.floor(26.5 - math.log2(dim) / 2)


def _pieces(unit: Tensor) -> Pieces:
    """Cut unit rows into ``(high + low * 2**-bits) * 2**-26`` of whole numbers."""
    scaled = unit * 2.0**HIGH_BITS
    high = scaled.round()
    return high, ((scaled - high) * 2.0 ** _piece_bits(unit.shape[1])).round()


def _scores(first: Pieces, second: Pieces) -> Tensor:
    """Return the cosine of each row with each, (N,D) and (M,D) -> (N,M) float64."""
    (high, low), (other_high, other_low) = first, second
    crossed = torch.cat([high, low], dim=1) @ torch.cat([other_low, other_high], dim=1).T
    crossed *= 2.0 ** -_piece_bits(high.shape[1])
    return (high @ other_high.T + crossed) * 2.0 ** (-2 * HIGH_BITS)
