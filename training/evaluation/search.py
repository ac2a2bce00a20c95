"""Exact nearest neighbours by cosine, for galleries and queries of any number, on CPU or GPU.

No matrix of all scores is ever held. Queries and gallery are taken in blocks; float32 products
give each query a short list, and the list is ranked by scores that do not depend on blocks,
threads or device. The short list is proven, query by query, to hold the true neighbours: rounding
moves a float32 score by at most a known amount, and everything left out scored lower by more than
that. Queries without that proof, such as those with many equal neighbours, are compared with the
whole gallery by the slower, exact scores.

The gallery's mean is subtracted before the float32 products. It moves all scores of a query alike,
and without it the rounding of embeddings that lie close together would be large beside their
differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import InputError

from .exact_cosine import FLOAT64_ROUNDING, UnitRows, exact_scores, pair_scores

__all__ = ["Blocks", "nearest"]

SPARE = 64  # length of the short list beyond k
FLOAT32_ROUNDING = 2.0**-24


@dataclass(frozen=True)
class Blocks:
    """How much is computed at once; results do not depend on it.

    Args:
        queries: Queries in a block.
        gallery: Gallery rows in a block; float32 scores take ``4 * queries * gallery`` bytes.
        pairs: Float64 scores computed at once when the short list is ranked.
    """

    queries: int
    gallery: int
    pairs: int

    def __post_init__(self) -> None:
        if min(self.queries, self.gallery, self.pairs) < 1:
            raise InputError(f"{self}; allowed: 1 or more of each.")


CPU_BLOCKS = Blocks(queries=1024, gallery=8192, pairs=512)
GPU_BLOCKS = Blocks(queries=4096, gallery=32768, pairs=65536)


@torch.no_grad()
def nearest(
    queries: Tensor, gallery: Tensor, k: int, *, blocks: Blocks | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find each query's k nearest gallery rows by cosine, exactly.

    Args:
        queries: (Q, D) floats.
        gallery: (G, D) floats. The search runs on its device, and holds there a second copy of
            it in float32 and a few blocks.
        k: Neighbours per query, 1 to G.
        blocks: How much to compute at once; chosen by device if None.

    Returns:
        (Q, k) int64 gallery indices, nearest first, and their (Q, k) float64 cosines, right to
        ``2 * D * 2**-53``. Nearer is what is nearer after one rounding to float64; of equally
        near rows the one with the lower index comes first. The indices are the same for any
        blocks, threads and device.

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
    if blocks is None:
        blocks = CPU_BLOCKS if device.type == "cpu" else GPU_BLOCKS
    wanted, items = (
        UnitRows(queries, device, blocks.queries),
        UnitRows(gallery, device, blocks.gallery),
    )
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions and the gallery {gallery.shape[1]}; "
            "compare embeddings of one space."
        )
    indices = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float64)
    with _full_precision(device):
        search = _Search(items, k, blocks)
        for start in range(0, len(queries), blocks.queries):
            block = slice(start, start + blocks.queries)
            found, scores = search.nearest(wanted.unit(block))
            indices[block], cosines[block] = found.cpu().numpy(), scores.cpu().numpy()
    return indices, cosines


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 products in float32, though the caller may allow TF32, bf16 or autocast."""
    places = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


class _Search:
    """A gallery made ready; D dimensions, G rows."""

    def __init__(self, items: UnitRows, k: int, blocks: Blocks) -> None:
        self._items, self._k, self._blocks = items, k, blocks
        self._length = min(k + SPARE, len(items))
        parts = list(_slices(len(items), blocks.gallery))
        # Any mean will do: it moves all scores of a query alike.
        mean = sum(items.unit(part).sum(0) for part in parts) / len(items)
        self._mean = torch.as_tensor(mean)  # (D,) float64
        self._moved = torch.empty(len(items), items.dim, device=mean.device)  # (G,D) float32
        offsets = torch.empty(len(items), dtype=torch.float64, device=mean.device)
        farthest = 0.0
        for part in parts:
            moved = items.unit(part) - self._mean
            self._moved[part] = moved.float()
            offsets[part] = moved @ self._mean
            farthest = max(farthest, float(moved.norm(dim=1).max()))
        offsets -= offsets.mean()
        self._offsets = offsets.float()  # (G,)
        self._farthest, self._offset = farthest, float(offsets.abs().max())
        self._error = (items.dim + 4) * FLOAT64_ROUNDING  # of scores that are not exact

    def nearest(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return (q,k) indices and scores of (q,D) float64 unit rows."""
        moved = unit - self._mean
        scores, columns = self._short_list(moved.float())
        # A score is off by at most D + 5 roundings (factors, products, sums) of its largest
        # possible size, and two scores are compared. Then the same for what float64 rounds.
        size = moved.norm(dim=1, keepdim=True) * self._farthest + self._offset  # (q,1)
        roundings = 2.02 * (unit.shape[1] + 5)
        slack = roundings * (FLOAT32_ROUNDING * size + FLOAT64_ROUNDING * self._farthest)
        slack = slack + 4 * FLOAT64_ROUNDING
        lowest = scores[:, self._k - 1 : self._k].double() - slack
        proven = scores[:, -1:].double() < lowest  # (q,1)
        if self._length == len(self._items):
            proven = torch.ones_like(proven)
        candidate = proven & (scores.double() >= lowest)  # (q,length)
        settled = self._settled_scores(unit, columns, candidate)
        # A device that multiplies with less precision than float32 shows in scores that are off
        # by different amounts; the best is always a candidate.
        error = torch.where(candidate, settled - scores.double(), 0.0)
        off = (error - error[:, :1]).abs() > slack + 4 * self._error
        sure = proven[:, 0] & ~(off & candidate).any(1)
        indices, cosines = _ranked(columns, settled, self._k)
        rest = (~sure).nonzero()[:, 0]
        if len(rest):
            # Queries of a network that collapsed are often all the same.
            distinct, which = unit[rest].unique(dim=0, return_inverse=True)
            parts = distinct.split(max(1, self._blocks.queries // 4))
            found, scores = map(torch.cat, zip(*map(self._scan, parts), strict=True))
            indices[rest], cosines[rest] = found[which], scores[which]
        return indices, cosines

    def _short_list(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Return the highest float32 scores, (q,length) in descending order, and whose they are.

        The scores are cosines up to a constant for each query.
        """
        best = torch.empty(len(moved), 0, device=moved.device)
        columns = torch.empty(len(moved), 0, dtype=torch.int64, device=moved.device)
        for part in _slices(len(self._items), self._blocks.gallery):
            scores = torch.addmm(self._offsets[part], moved, self._moved[part].T)  # (q,g)
            new, place = scores.topk(min(self._length, scores.shape[1]), dim=1, sorted=False)
            best = torch.cat([best, new], dim=1)
            columns = torch.cat([columns, place + part.start], dim=1)
            if best.shape[1] > self._length:
                best, place = best.topk(self._length, dim=1, sorted=False)
                columns = columns.gather(1, place)
        best, place = best.sort(dim=1, descending=True)
        return best, columns.gather(1, place)

    def _settled_scores(self, unit: Tensor, columns: Tensor, candidate: Tensor) -> Tensor:
        """Return scores of the candidates that order them rightly, and minus infinity elsewhere.

        Where two lie too close together for plain float64 sums, both are computed exactly.
        """
        scores = torch.full(columns.shape, -torch.inf, dtype=torch.float64, device=unit.device)
        self._fill(scores, unit, columns, candidate, exact=False)
        ordered, place = scores.sort(dim=1, descending=True)
        near = (ordered[:, :-1] - ordered[:, 1:]) <= 4 * self._error  # not for two infinities
        edge = torch.zeros_like(candidate[:, :1])
        unclear = torch.cat([near, edge], dim=1) | torch.cat([edge, near], dim=1)
        unclear = torch.zeros_like(candidate).scatter(1, place, unclear)
        self._fill(scores, unit, columns, unclear, exact=True)
        return scores

    def _fill(
        self, scores: Tensor, unit: Tensor, columns: Tensor, wanted: Tensor, exact: bool
    ) -> None:
        """Compute the wanted scores, a few pairs at a time."""
        rows, places = wanted.nonzero(as_tuple=True)
        size = self._blocks.pairs
        for row, place in zip(rows.split(size), places.split(size), strict=True):
            items = self._items.unit(columns[row, place])
            scores[row, place] = pair_scores(unit[row], items, exact)

    def _scan(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return (q,k) indices and scores by exact scores of the whole gallery."""
        best = torch.empty(len(unit), 0, dtype=torch.float64, device=unit.device)
        columns = torch.empty(len(unit), 0, dtype=torch.int64, device=unit.device)
        for part in _slices(len(self._items), max(1, self._blocks.gallery // 4)):
            scores = exact_scores(unit, self._items.unit(part))  # (q,g)
            if best.shape[1] < self._k:
                rows = torch.arange(len(unit), device=unit.device)
            else:  # an equal score comes later in the gallery and changes nothing
                rows = (scores > best[:, -1:]).any(1).nonzero()[:, 0]
            new, place = _first_highest(scores[rows], min(self._k, scores.shape[1]))
            joined = torch.cat([best[rows], new], dim=1)
            order = joined.sort(dim=1, descending=True, stable=True).indices[:, : self._k]
            owners = torch.cat([columns[rows], place + part.start], dim=1)
            if best.shape[1] < self._k:
                best, columns = joined.gather(1, order), owners.gather(1, order)
            else:
                best[rows], columns[rows] = joined.gather(1, order), owners.gather(1, order)
        return columns, best


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _ranked(columns: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best of a short list, equal scores in order of their column."""
    columns, place = columns.sort(dim=1)
    scores, order = scores.gather(1, place).sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)[:, :k], scores[:, :k]


def _first_highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return each row's k highest scores and their columns; of equals the first, in order."""
    kth = scores.topk(k, dim=1).values[:, -1:]
    above, equal = scores > kth, scores == kth
    room = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    columns = chosen.nonzero()[:, 1].view(-1, k)
    return scores.gather(1, columns), columns
