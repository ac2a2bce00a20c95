"""Retrieval metrics against hand-made cases and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from ccl_hub.errors import InputError
from training.evaluation.metrics import (
    class_retrieval,
    instance_retrieval,
    label_hits,
    top_k_accuracy,
)


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


def test_random_embeddings_are_at_chance():
    rng = np.random.default_rng(0)
    queries, gallery = (torch.from_numpy(rng.normal(size=(800, 16))) for _ in range(2))
    found = instance_retrieval(queries, gallery, np.arange(800), np.arange(800), ks=(1, 40))
    assert found[1] <= 0.01  # 1 of 800
    assert found[40] == pytest.approx(0.05, abs=0.025)  # 40 of 800
    classes = rng.integers(0, 4, 800)
    found = class_retrieval(queries, gallery, classes, rng.permutation(classes), ks=(1, 3))
    assert found[1] == pytest.approx(1 / 4, abs=0.05)
    assert found[3] == pytest.approx(1 - (3 / 4) ** 3, abs=0.05)


def test_hits_are_those_of_the_labels_found():
    hits = label_hits(np.array([[0, 2], [1, 0]]), np.array([7, 8]), np.array([7, 9, 7]))
    np.testing.assert_array_equal(hits, [[True, True], [False, False]])


def test_top_k_accuracy_equals_scikit_learn_where_each_class_has_one_item():
    rng = np.random.default_rng(3)
    queries, gallery = rng.normal(size=(200, 8)), rng.normal(size=(12, 8))
    truth = rng.integers(0, 12, 200)
    scores = queries @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T
    ours = class_retrieval(
        torch.from_numpy(queries), torch.from_numpy(gallery), truth, np.arange(12), ks=(1, 2, 5)
    )
    for k, value in ours.items():
        theirs = top_k_accuracy_score(truth, scores, k=k, labels=np.arange(12))
        assert value == pytest.approx(theirs, abs=1e-12)
