"""Retrieval metrics against hand-made cases and a float64 brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_hub.errors import InputError
from training import metrics
from training.metrics import (
    class_retrieval,
    instance_retrieval,
    nearest,
    top_k_accuracy,
    unit_rows,
)


def brute_force(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """All cosines in float64, a stable sort: ties go to the lower index."""
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    cosines = (q[:, None, :] * g[None, :, :]).sum(-1)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("block_scores", [1, 700, 4_000_000])
def test_neighbours_equal_brute_force_for_any_block_size(block_scores, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_SCORES", block_scores)
    monkeypatch.setattr(metrics, "RESCORED_PAIRS", 37)
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(50, 64)).astype(np.float32)
    gallery = rng.normal(size=(300, 64)).astype(np.float32)
    found, cosines = nearest(torch.from_numpy(queries), torch.from_numpy(gallery), 10)
    np.testing.assert_array_equal(found, brute_force(queries, gallery, 10))
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_near_ties_below_float32_resolution_are_ranked_as_in_float64():
    rng = np.random.default_rng(1)
    base = rng.normal(size=512)
    # Angles 1e-5 apart: cosines differ by about 1e-10, which float32 scores cannot tell apart.
    away = rng.normal(size=512)
    away -= base * (away @ base) / (base @ base)
    away *= np.linalg.norm(base) / np.linalg.norm(away)
    order = rng.permutation(200)
    gallery = np.stack([base + 1e-5 * (1 + rank) * away for rank in order])
    found, _ = nearest(torch.from_numpy(base[None]), torch.from_numpy(gallery), 10)
    np.testing.assert_array_equal(found[0], np.argsort(order)[:10])


def test_equal_rows_come_in_order_of_their_index():
    found, _ = nearest(torch.ones(3, 5), torch.full((40, 5), 2.5), 7)
    np.testing.assert_array_equal(found, np.tile(np.arange(7), (3, 1)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30), st.integers(1, 6))
def test_random_small_integers_full_of_ties_equal_brute_force(seed, queries, gallery, dim):
    rng = np.random.default_rng(seed)
    # Powers of two and a constant coordinate: unit vectors with many exact ties, no zero rows.
    q = np.c_[rng.integers(-1, 2, (queries, dim)), np.ones(queries)].astype(np.float32)
    g = np.c_[rng.integers(-1, 2, (gallery, dim)), np.ones(gallery)].astype(np.float32)
    k = int(rng.integers(1, gallery + 1))
    found, cosines = nearest(torch.from_numpy(q), torch.from_numpy(g), k)
    exact = np.sort(
        (q @ g.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1), axis=1
    )[:, ::-1][:, :k]
    np.testing.assert_allclose(cosines, exact, atol=1e-6)
    for row in range(queries):
        ties = np.isclose(np.diff(cosines[row]), 0, atol=0)
        assert (np.diff(found[row])[ties] > 0).all()


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


def test_spaces_of_different_dimension_are_refused():
    with pytest.raises(InputError, match="3 dimensions and the gallery 4"):
        nearest(torch.eye(3), torch.eye(4), 1)


def test_top_k_accuracy_by_hand():
    hits = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=bool)
    assert top_k_accuracy(hits, (1, 2, 3, 10)) == {1: 0.25, 2: 0.5, 3: 0.75, 10: 0.75}


def test_perfect_embeddings_score_one_and_opposite_ones_zero():
    classes = np.repeat(np.arange(3), 4)
    one_hot = torch.eye(3)[torch.from_numpy(classes)]
    assert class_retrieval(one_hot, one_hot, classes, classes) == {1: 1.0, 5: 1.0, 10: 1.0}
    # Each query points away from its own class: that class fills the last four of twelve ranks.
    against = class_retrieval(-one_hot, one_hot, classes, classes, ks=(1, 8, 9))
    assert against == {1: 0.0, 8: 0.0, 9: 1.0}


def test_collapsed_embeddings_get_no_credit_beyond_the_first_item():
    classes = np.array([0, 1, 2, 3])
    same = torch.ones(4, 8)
    assert class_retrieval(same, same, classes, classes, ks=(1, 2, 4)) == {1: 0.25, 2: 0.5, 4: 1.0}


def test_frames_find_the_clip_that_holds_them():
    clips = torch.eye(4)
    frames = clips.repeat_interleave(2, 0) + 0.1
    ids = np.arange(4)
    assert instance_retrieval(frames, clips, np.repeat(ids, 2), ids, ks=(1,)) == {1: 1.0}
    swapped = np.repeat(ids[::-1], 2)
    assert instance_retrieval(frames, clips, swapped, ids, ks=(1, 4)) == {1: 0.0, 4: 1.0}


def test_labels_must_match_embeddings():
    with pytest.raises(InputError, match="2 gallery embeddings but 3 gallery labels"):
        class_retrieval(torch.eye(2), torch.eye(2), np.arange(2), np.arange(3))
    with pytest.raises(InputError, match="0 query embeddings"):
        class_retrieval(torch.eye(2)[:0], torch.eye(2), np.arange(0), np.arange(2))
