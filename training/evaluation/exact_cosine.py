"""Cosines in float64: of chosen pairs quickly, or exactly, so that equal ones come out equal.

The last bit of a float64 sum depends on the order of summation, and so on block sizes, threads and
device; a matrix product may give two equal rows different scores. The exact score does not: unit
vectors are rounded to about 70 binary digits after the point and cut into three pieces of whole
numbers, whose products float64 adds up without any rounding in whatever order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ccl_hub.errors import InputError

__all__ = ["FLOAT64_ROUNDING", "UnitRows", "exact_scores", "pair_scores", "unit_rows"]

FLOAT64_ROUNDING = 2.0**-53
HIGH_BITS = 26  # binary digits of the first piece of a coordinate


def unit_rows(vectors: Tensor) -> Tensor:
    """Scale rows to length 1; rows of zeros stay zeros, so their every cosine is 0.

    Args:
        vectors: (N, D) floats, finite.

    Returns:
        (N, D) float64 on the same device.

    Raises:
        InputError: The shape is not (N, D), or a value is NaN or infinite.
    """
    rows = UnitRows(vectors, vectors.device, max(1, len(vectors)))
    return rows.unit(slice(None))


class UnitRows:
    """Vectors with what scales them to length 1; the scaled float64 copy is made piecewise.

    Args:
        vectors: (N, D) floats.
        device: Where :meth:`unit` gives them.
        block: Rows looked at together.
    """

    def __init__(self, vectors: Tensor, device: torch.device, block: int) -> None:
        if vectors.ndim != 2 or vectors.shape[1] == 0:
            raise InputError(f"embeddings have shape {tuple(vectors.shape)}; allowed: (N, D).")
        self._vectors, self._device = vectors.detach(), device
        self._largest = torch.ones(len(vectors), 1, dtype=torch.float64, device=device)
        self._norms = torch.ones_like(self._largest)
        bad, first = 0, -1
        for start in range(0, len(vectors), block):
            chosen = slice(start, start + block)
            wide = self._wide(chosen)
            wrong = ~torch.isfinite(wide).all(1)
            if bool(wrong.any()):
                first = start + int(wrong.nonzero()[0]) if first < 0 else first
                bad += int(wrong.sum())
                continue
            # Dividing by the largest value first keeps the squares of huge rows finite.
            largest = wide.abs().amax(1, keepdim=True)
            self._largest[chosen] = torch.where(largest > 0, largest, 1.0)
            norms = _tree_sum((wide / self._largest[chosen]).square()).sqrt()
            self._norms[chosen] = torch.where(norms > 0, norms, 1.0)
        if bad:
            raise InputError(
                f"embedding row {first} ({bad} of {len(vectors)} rows) holds NaN or infinity; "
                "a retrieval over it would mean nothing."
            )

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self._vectors.shape[1])

    def _wide(self, chosen: slice | Tensor) -> Tensor:
        if isinstance(chosen, Tensor):
            chosen = chosen.to(self._vectors.device)
        return self._vectors[chosen].to(self._device, torch.float64)

    def unit(self, chosen: slice | Tensor) -> Tensor:
        """Return some rows scaled to length 1: (n, D) float64."""
        return self._wide(chosen) / self._largest[chosen] / self._norms[chosen]


def _tree_sum(values: Tensor) -> Tensor:
    """Add up each row, (N,D) -> (N,1), in an order that depends on D alone."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        rest = values[:, 2 * half :]
        values = torch.cat([values[:, :half] + values[:, half : 2 * half], rest], dim=1)
    return values


def pair_scores(first: Tensor, second: Tensor, exact: bool) -> Tensor:
    """Return the cosine of each pair of rows.

    Args:
        first: (N, D) float64 unit rows.
        second: (N, D), likewise.
        exact: Round once; else the result is off by up to ``(D + 2) * FLOAT64_ROUNDING``.

    Returns:
        (N,) float64.
    """
    if not exact:
        return (first * second).sum(1)
    (a, b, c), (x, y, z) = _pieces(first), _pieces(second)
    sums = (a * x, a * y + b * x, a * z + b * y + c * x)
    return _combined(*(part.sum(1) for part in sums), first.shape[1])


def exact_scores(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each row with each, rounded once.

    Args:
        first: (N, D) float64 unit rows.
        second: (M, D), likewise.

    Returns:
        (N, M) float64, bit for bit what :func:`pair_scores` gives.
    """
    (a, b, c), (x, y, z) = _pieces(first), _pieces(second)
    ab, abc = torch.cat([a, b], dim=1), torch.cat([a, b, c], dim=1)
    yx, zyx = torch.cat([y, x], dim=1), torch.cat([z, y, x], dim=1)
    return _combined(a @ x.T, ab @ yx.T, abc @ zyx.T, first.shape[1])


def _piece_bits(dim: int) -> int:
    """Digits of the second and third piece: as many as keep sums of products below 2**53."""
    return math.floor(26.5 - math.log2(max(1, dim)) / 2)


def _pieces(unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut unit rows into ``(a + (b + c * 2**-bits) * 2**-bits) * 2**-26`` of whole numbers."""
    scale = 2.0 ** _piece_bits(unit.shape[1])
    scaled = unit * 2.0**HIGH_BITS
    a = scaled.round()
    rest = (scaled - a) * scale
    b = rest.round()
    return a, b, ((rest - b) * scale).round()


def _combined(first: Tensor, second: Tensor, third: Tensor, dim: int) -> Tensor:
    """Return scores from sums of products of pieces: aa', ab' + ba', and ac' + bb' + ca'."""
    scale = 2.0 ** -_piece_bits(dim)
    return (first + (second * scale + third * scale**2)) * 2.0 ** (-2 * HIGH_BITS)
