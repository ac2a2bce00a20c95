"""Exact search against brute force: blocks, near ties, equal rows, collapse, memory."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from project import ROOT
from sklearn.neighbors import NearestNeighbors

from ccl_hub.errors import InputError
from training.evaluation.search import nearest, unit_rows

BLOCK_ROWS = [3, 11, 64, 10_000]


def brute_force(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All cosines in float64, a stable sort: ties go to the lower index."""
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    cosines = (q[:, None, :] * g[None, :, :]).sum(-1)
    indices = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(cosines, indices, axis=1)


def search(queries: np.ndarray, gallery: np.ndarray, k: int, **options):
    return nearest(torch.from_numpy(queries), torch.from_numpy(gallery), k, **options)


@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
def test_neighbours_equal_brute_force_for_any_blocks(block_rows, spread):
    # A small spread is a network that collapses: all cosines within 1e-8 of 1.
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    queries = (base + spread * rng.normal(size=(40, 64))).astype(np.float32)
    gallery = (base + spread * rng.normal(size=(300, 64))).astype(np.float32)
    indices, cosines = search(queries, gallery, 10, block_rows=block_rows)
    expected, exact = brute_force(queries, gallery, 10)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, exact, rtol=0, atol=1e-14)


def test_neighbours_equal_those_of_scikit_learn():
    rng = np.random.default_rng(5)
    queries, gallery = rng.normal(size=(100, 32)), rng.normal(size=(500, 32))
    indices, cosines = search(queries, gallery, 20)
    theirs = NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(gallery)
    distances, expected = theirs.kneighbors(queries)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(1 - cosines, distances, atol=1e-12)


def test_cosines_are_those_of_exact_arithmetic_and_the_same_bits_for_any_blocks():
    rng = np.random.default_rng(6)
    first, second = torch.from_numpy(rng.normal(size=(2, 12, 300)))
    indices, cosines = nearest(first, second, 12)
    for block_rows in (1, 5, 7):
        again = nearest(first, second, 12, block_rows=block_rows)
        assert np.array_equal(indices, again[0]) and np.array_equal(cosines, again[1])
    others = unit_rows(second).tolist()
    for row, scores, vector in zip(indices, cosines, unit_rows(first).tolist(), strict=True):
        for index, score in zip(row, scores, strict=True):
            pairs = zip(vector, others[index], strict=True)
            exact = sum(Fraction(a) * Fraction(b) for a, b in pairs)
            assert abs(Fraction(score) - exact) <= Fraction(300**0.5 * 2**-49)


def test_near_ties_below_float32_resolution_are_ranked_as_in_float64():
    rng = np.random.default_rng(1)
    base = rng.normal(size=512)
    # Angles 1e-5 apart: cosines differ by about 1e-10, which float32 scores cannot tell apart.
    away = rng.normal(size=512)
    away -= base * (away @ base) / (base @ base)
    away *= np.linalg.norm(base) / np.linalg.norm(away)
    order = rng.permutation(200)
    gallery = np.stack([base + 1e-5 * (1 + rank) * away for rank in order])
    # Rows far away keep the mean from helping.
    gallery = np.concatenate([gallery, rng.normal(size=(400, 512))])
    indices, _ = search(base[None], gallery, 10)
    np.testing.assert_array_equal(indices[0], np.argsort(order)[:10])


@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_equal_rows_come_in_order_of_their_index(block_rows, value):
    indices, cosines = nearest(
        torch.ones(3, 5), torch.full((200, 5), value), 7, block_rows=block_rows
    )
    np.testing.assert_array_equal(indices, np.tile(np.arange(7), (3, 1)))
    np.testing.assert_allclose(cosines, float(value > 0), atol=1e-14)


@pytest.mark.parametrize("block_rows", BLOCK_ROWS)
def test_more_equal_rows_than_neighbours_come_in_order_of_their_index(block_rows):
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 48)).astype(np.float32)
    gallery = np.stack([one, other])[rng.permutation(np.arange(400) % 2)]
    nearest_first = np.concatenate(
        [np.flatnonzero((gallery == row).all(1)) for row in (one, other)]
    )
    indices, _ = search(np.stack([one, one + 0.01 * other]), gallery, 230, block_rows=block_rows)
    np.testing.assert_array_equal(indices, np.tile(nearest_first[:230], (2, 1)))
    indices, _ = search(one[None], gallery, 10, block_rows=block_rows)
    np.testing.assert_array_equal(indices[0], nearest_first[:10])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 90), st.integers(1, 6))
def test_random_small_integers_full_of_ties_equal_brute_force(seed, queries, gallery, dim):
    rng = np.random.default_rng(seed)
    # Small whole numbers and a constant coordinate: many exact ties, no zero rows.
    q = np.c_[rng.integers(-1, 2, (queries, dim)), np.ones(queries)].astype(np.float32)
    g = np.c_[rng.integers(-1, 2, (gallery, dim)), np.ones(gallery)].astype(np.float32)
    k = int(rng.integers(1, gallery + 1))
    indices, cosines = search(q, g, k, block_rows=7)
    # Cosines are compared by sign and square, which are exact here.
    products = (q @ g.T).astype(int)
    lengths = (g * g).sum(1).astype(int)
    keys = [
        [
            (Fraction(int(p) * abs(int(p)), int(n)), -i)
            for i, (p, n) in enumerate(zip(row, lengths, strict=True))
        ]
        for row in products
    ]
    expected = [[-i for _, i in sorted(row, reverse=True)[:k]] for row in keys]
    assert np.isfinite(cosines).all()
    for row in range(queries):
        ranks = [keys[row][i][0] for i in indices[row]]
        assert ranks == [keys[row][i][0] for i in expected[row]]
        # Equal rows, not only equal cosines, must be in order of their index.
        for a, b in zip(indices[row], indices[row][1:], strict=False):
            assert a < b or not np.array_equal(g[a], g[b])


def test_the_callers_precision_is_not_used_and_is_left_alone():
    rng = np.random.default_rng(4)
    queries, gallery = rng.normal(size=(2, 300, 64)).astype(np.float32)
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"
        with torch.autocast("cpu", torch.bfloat16):
            indices, _ = search(queries, gallery, 10)
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before
    np.testing.assert_array_equal(indices, brute_force(queries, gallery, 10)[0])


def test_half_precision_embeddings_are_taken_as_they_are():
    rng = np.random.default_rng(8)
    queries, gallery = torch.from_numpy(rng.normal(size=(2, 100, 16))).bfloat16()
    indices, _ = nearest(queries, gallery, 5)
    expected, _ = brute_force(queries.double().numpy(), gallery.double().numpy(), 5)
    np.testing.assert_array_equal(indices, expected)


def test_huge_and_tiny_rows_keep_their_direction_and_zero_rows_stay_zero():
    rows = unit_rows(torch.tensor([[3e38, 0.0], [0.0, 1e-40], [0.0, 0.0]]))
    assert rows.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    gallery = torch.eye(4)
    gallery[2, 1] = bad
    with pytest.raises(InputError, match=r"row 2 \(1 of 4 rows\) holds NaN or infinity"):
        nearest(torch.eye(4), gallery, 1)


@pytest.mark.parametrize("k", [0, 5])
def test_k_outside_the_gallery_is_refused(k):
    with pytest.raises(InputError, match=f"k is {k}; allowed: 1 to 4"):
        nearest(torch.eye(4), torch.eye(4), k)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="3 dimensions and the gallery 4"):
        nearest(torch.eye(3), torch.eye(4), 1)
    with pytest.raises(InputError, match=r"shape \(2, 3, 3\); allowed: \(N, D\)"):
        nearest(torch.zeros(2, 3, 3), torch.eye(3), 1)
    with pytest.raises(InputError, match=r"shape \(2, 0\)"):
        nearest(torch.zeros(2, 0), torch.zeros(2, 0), 1)


# Peak memory of a process that searches a gallery of 20,000; with as many queries the whole matrix
# would take 1.6 GB in float32. Printed: megabytes beyond what was there before, and the first
# neighbours of the last query.
COLLAPSED = """
import resource, sys, torch
from training.evaluation.search import nearest
torch.set_num_threads(1)
torch.manual_seed(0)
rows = torch.full((20_000, 8), float(sys.argv[1])) + float(sys.argv[2]) * torch.randn(20_000, 8)
nearest(rows[:2], rows[:2], 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
indices, _ = nearest(rows[: int(sys.argv[3])], rows, 50)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) // 1024, *indices[-1][:3])
"""


@pytest.mark.parametrize(
    ("value", "noise", "queries"), [(1.0, 0.0, 20_000), (0.0, 0.0, 20_000), (1.0, 1e-7, 2_000)]
)
@pytest.mark.slow
def test_collapsed_embeddings_take_no_more_memory_than_others(value, noise, queries):
    command = [sys.executable, "-c", COLLAPSED, str(value), str(noise), str(queries)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    megabytes, *first = map(int, done.stdout.split())
    assert megabytes < 400
    if noise == 0:
        assert first == [0, 1, 2]


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(9)
    base = rng.normal(size=512)
    for spread in (1.0, 1e-3, 1e-7):
        gallery = torch.from_numpy((base + spread * rng.normal(size=(3000, 512))).astype("f4"))
        gallery[100:300] = gallery[50]
        queries = gallery[::7]
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        try:
            there = nearest(queries.cuda(), gallery.cuda(), 50)
        finally:
            torch.backends.cuda.matmul.fp32_precision = "ieee"
        here = nearest(queries, gallery, 50, block_rows=100)
        np.testing.assert_array_equal(here[0], there[0])
        np.testing.assert_allclose(here[1], there[1], rtol=0, atol=1e-12)
