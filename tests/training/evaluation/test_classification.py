"""Averaging, accuracy, F-measure and confusion: hand-made cases, scikit-learn's for top-k."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from ccl_hub.errors import InputError
from training.evaluation.classification import average_clips, confusion_matrix, measure, top_k


def random_case(seed: int, items: int = 60, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (V, C) without ties, and classes of which the last never occurs."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(classes), items)
    return scores, rng.integers(0, classes - 1, items)


def test_clips_of_a_video_are_averaged_whatever_their_order():
    probabilities = np.array([[1.0, 0.0], [0.2, 0.8], [0.5, 0.5], [0.0, 1.0]], np.float32)
    averaged = average_clips(probabilities, np.array([7, 3, 7, 7]))
    assert averaged.dtype == np.float64
    np.testing.assert_allclose(averaged, [[0.2, 0.8], [0.5, 0.5]], atol=1e-7)
    # One confident clip outvotes two that lean the other way: probabilities, not votes.
    averaged = average_clips(np.array([[0.45, 0.55], [0.45, 0.55], [0.9, 0.1]]), np.zeros(3, int))
    assert averaged.argmax() == 0


@pytest.mark.parametrize(
    ("probabilities", "ids", "text"),
    [
        ([[2.0, -1.0]], [0], "row 0 .1 of 1 rows. does not hold probabilities: from -1.0 to 2.0"),
        ([[0.5, 0.5], [np.nan, 1.0]], [0, 1], "row 1"),
        ([[3.0, 1.0]], [0], "sum 4.0; give softmax outputs"),
        ([[0.5, 0.5]], [0, 1], r"\(1, 2\) and video ids \(2,\)"),
        (np.empty((0, 2)), [], r"allowed: \(M, C\)"),
    ],
)
def test_what_is_not_a_prediction_is_refused(probabilities, ids, text):
    with pytest.raises(InputError, match=text):
        average_clips(np.array(probabilities), np.array(ids))


def test_top_k_by_hand():
    scores = np.array([[0.1, 0.6, 0.3], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert top_k(scores, np.array([1, 1, 0]), (1, 2, 3, 10)) == {
        1: pytest.approx(1 / 3),
        2: pytest.approx(2 / 3),
        3: 1.0,
        10: 1.0,
    }


def test_equal_probabilities_go_to_the_first_class_and_nothing_is_won_by_saying_nothing():
    flat = np.full((4, 4), 0.25)
    assert top_k(flat, np.arange(4), (1, 2)) == {1: 0.25, 2: 0.5}
    assert top_k(flat, np.zeros(4, int), (1,)) == {1: 1.0}
    assert top_k(flat, np.full(4, 3), (1, 3)) == {1: 0.0, 3: 0.0}
    # The class that argmax names is the one that top-1 counts.
    scores = np.array([[0.2, 0.4, 0.4]])
    assert top_k(scores, scores.argmax(1), (1,)) == {1: 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees_where_nothing_is_equally_probable(seed):
    scores, truth = random_case(seed)
    labels = np.arange(scores.shape[1])
    for k in (1, 2, 5):
        theirs = sklearn.metrics.top_k_accuracy_score(truth, scores, k=k, labels=labels)
        assert top_k(scores, truth, (k,))[k] == pytest.approx(theirs, abs=1e-12)


def f_measure(predicted: list[int], truth: list[int], average: str = "macro") -> float:
    figures = measure("linear", np.eye(3)[predicted], np.array(truth), (average,))
    return figures[-1].value


def test_a_class_never_predicted_counts_as_zero_and_one_that_is_nowhere_does_not_count():
    truth = [0, 0, 1, 1]
    # Class 0: precision 1/2, recall 1, F 2/3. Class 1: 0. Class 2 is in neither.
    assert f_measure([0, 0, 0, 0], truth) == pytest.approx(1 / 3)
    assert f_measure([0, 0, 0, 0], truth, "micro") == 0.5
    # Predicted although it never occurs: its 0 counts.
    assert f_measure([0, 0, 1, 2], truth) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_rows_of_the_confusion_are_true_classes():
    confusion = confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 0]), ["run", "walk"])
    assert confusion.classes == ("run", "walk")
    assert confusion.counts == ((1, 2), (0, 0))


def test_figures_of_a_results_file():
    scores, truth = random_case(0)
    figures = {one.metric: one for one in measure("linear", scores, truth, ("macro", "micro"))}
    assert list(figures) == ["top-1", "top-5", "macro-F1", "micro-F1"]
    assert all(one.level == "video" and one.queries == 60 for one in figures.values())
    assert figures["top-1"].value == figures["micro-F1"].value < figures["top-5"].value
    # Among five classes the class is always within the first five: such a figure says nothing.
    few = scores[:, :5] / scores[:, :5].sum(1, keepdims=True)
    assert [one.metric for one in measure("finetune", few, truth % 5)] == ["top-1"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: f_measure([0], [0], "weighted"), "allowed: macro, micro"),
        (lambda: confusion_matrix(np.array([0, 1]), np.array([0]), "ab"), "1 and 2 items"),
        (
            lambda: confusion_matrix(np.array([2]), np.array([0]), "ab"),
            "prediction goes from 2 to 2",
        ),
        (lambda: top_k(np.eye(2), np.array([0, -1])), "truth goes from -1 to 0"),
        (lambda: top_k(np.eye(2), np.array([0.0, 1.0])), "dtype float64; allowed"),
        (lambda: top_k(np.full((1, 2), np.nan), np.array([0])), "2 values are NaN"),
        (lambda: top_k(np.empty((0, 2)), np.empty(0, int)), "at least one"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, text):
    with pytest.raises(InputError, match=text):
        call()
