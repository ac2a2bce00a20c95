"""Logistic regression, SGD and the choice of the penalty, on features with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ccl_hub.errors import InputError, TrainingError
from training.evaluation import classifiers
from training.evaluation.classifiers import (
    L2_GRID,
    LinearClassifier,
    Logistic,
    choose_l2,
    fit_sgd,
)


def blobs(seed: int, items: int = 120, classes: int = 4, size: int = 6, spread: float = 1.5):
    """Overlapping clusters (M, D) far from the origin, on axes of very different scale."""
    rng = np.random.default_rng(seed)
    target = np.arange(items) % classes
    centres = rng.normal(size=(classes, size))
    features = centres[target] + spread * rng.normal(size=(items, size)) + 5
    scales = 10.0 ** np.linspace(-3, 3, size)
    return torch.from_numpy(features * scales), target


@pytest.mark.parametrize("l2", [1.0, 0.03, 1e-4])
@pytest.mark.parametrize("items", [120, 20])  # 20: separable, so the penalty alone holds it
@pytest.mark.parametrize("classes", [2, 4])
def test_the_fit_is_the_optimum_of_the_objective_on_scaled_features(l2, items, classes):
    features, target = blobs(0, items, classes, size=30)
    fitted = Logistic(features, target, classes).fit(l2)
    mean, std = features.mean(0), features.std(0, correction=0)
    weight = (fitted.weight * std).requires_grad_()
    bias = (fitted.bias + fitted.weight @ mean).requires_grad_()
    logits = (features - mean) / std @ weight.T + bias
    loss = F.cross_entropy(logits, torch.from_numpy(target)) + l2 / 2 * weight.square().sum()
    loss.backward()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-6
    np.testing.assert_allclose(
        fitted.probabilities(features), logits.softmax(1).detach(), atol=1e-9
    )


def test_fits_of_one_set_give_what_each_gives_alone():
    features, target = blobs(0)
    logistic = Logistic(features, target, 4)
    for l2 in (1.0, 0.01):
        alone = Logistic(features, target, 4).fit(l2).probabilities(features)
        np.testing.assert_allclose(logistic.fit(l2).probabilities(features), alone, atol=1e-4)


def test_a_fit_that_ends_early_is_an_error(monkeypatch):
    monkeypatch.setattr(classifiers, "MAX_STEPS", 2)
    features, target = blobs(0)
    text = r"l2 = 0.01 ended with a gradient of .+; allowed: below 0.0001.* a larger --l2"
    with pytest.raises(TrainingError, match=text):
        Logistic(features, target, 4).fit(0.01)


def test_the_result_is_a_layer_on_features_as_they_are():
    classifier = LinearClassifier(
        torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
    )
    probabilities = classifier.probabilities(torch.tensor([[2.0, 9.0]]))
    np.testing.assert_allclose(probabilities, [[1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))]])


def test_constant_repeated_and_huge_features_do_no_harm():
    features, target = blobs(2)
    odd = torch.cat(
        [features, features[:, :1], torch.full((len(features), 1), 1e6), features * 1e9], 1
    )
    probabilities = Logistic(odd, target, 4).fit(0.01).probabilities(odd)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1)
    moved = odd.clone()
    moved[:, 7] += 1  # the constant one says nothing
    np.testing.assert_allclose(
        Logistic(moved, target, 4).fit(0.01).probabilities(moved), probabilities, atol=1e-6
    )


def test_a_class_without_a_training_clip_is_never_predicted():
    features, target = blobs(3)
    probabilities = Logistic(features, target, 5).fit(0.01).probabilities(features)
    assert (probabilities[:, 4] == 0).all() and (probabilities[:, :4] > 0).all()
    probabilities = (
        Logistic(features, np.full(len(target), 2), 4).fit(0.01).probabilities(features)
    )
    assert (probabilities == np.eye(4)[2]).all()


def test_one_set_of_features_gives_one_set_of_weights():
    features, target = blobs(4)
    one, two = (Logistic(features, target, 4).fit(0.01) for _ in range(2))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    turned = Logistic(features[order], target[order], 4).fit(0.01)
    np.testing.assert_allclose(
        turned.probabilities(features), one.probabilities(features), atol=1e-5
    )


def group_case(clips: int = 5):
    """8 groups of 4 videos of 2 classes; a feature tells the group, and so the class, by heart.

    Within the groups that were seen the first columns give the class away; in another group they
    say nothing, and only the last column, a weak one, does.
    """
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 4)
    target = group % 2
    by_heart = 4.0 * np.eye(8)[group]
    weak = (target - 0.5)[:, None] * 1.0 + rng.normal(size=(32, 1))
    features = np.repeat(np.hstack([by_heart, weak]), clips, 0)
    features += 0.3 * rng.normal(size=features.shape)
    ids = np.repeat(np.arange(32), clips)
    return torch.from_numpy(features), target[ids], ids, [f"actor {g}" for g in group[ids]]


def test_groups_are_held_out_whole():
    features, target, ids, groups = group_case()
    grid = (1.0, 0.1, 0.01)
    by_group = choose_l2(features, target, 2, ids, groups, grid)
    by_video = choose_l2(features, target, 2, ids, [""] * len(ids), grid)
    assert (by_group.held_out, by_video.held_out) == ("groups", "videos")
    assert by_group.folds == by_video.folds == 5
    # An actor who was seen is known by heart; one who was not is hardly better than a guess.
    assert min(by_video.losses.values()) < 0.1
    assert min(by_group.losses.values()) > 0.5


def test_clips_of_a_video_never_stand_on_both_sides():
    # Every video has a mark of its own, and classes are drawn: nothing can be learned.
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(40), 4)
    features = torch.from_numpy(np.eye(40)[ids] * 3 + 0.1 * rng.normal(size=(160, 40)))
    choice = choose_l2(features, rng.integers(0, 2, 40)[ids], 2, ids, [""] * 160)
    assert choice.l2 >= 10, "as good as a guess"
    assert min(choice.losses.values()) > 0.6


def test_the_search_ends_after_two_that_are_worse_and_takes_the_best():
    features, target = blobs(5, 200, spread=3.0)
    choice = choose_l2(features, target, 4, np.arange(200), [""] * 200)
    tried = list(choice.losses)
    assert tuple(tried) == L2_GRID[: len(tried)]
    assert choice.losses[choice.l2] == min(choice.losses.values())
    assert len(tried) < len(L2_GRID) and tried.index(choice.l2) == len(tried) - 3


def test_one_group_for_all_means_that_videos_are_held_out():
    features, target = blobs(6, 60)
    ids, grid = np.arange(60), (1.0, 0.1)
    choice = choose_l2(features, target, 4, ids, ["set1"] * 60, grid)
    assert choice.held_out == "videos"
    assert choice.losses == choose_l2(features, target, 4, ids, [""] * 60, grid).losses


def test_two_videos_are_enough_and_one_is_not():
    features, _ = blobs(7, 4)
    two = np.array([0, 0, 1, 1])
    assert choose_l2(features, two, 2, two, [""] * 4).folds == 2
    with pytest.raises(InputError, match="1 training videos; cross-validation needs two"):
        choose_l2(features, two, 2, np.zeros(4, int), [""] * 4)


@pytest.mark.parametrize("norm", [False, True])
def test_sgd_learns_what_can_be_learned_and_repeats_itself(norm):
    features, target = blobs(8, 200, spread=0.2)
    features = features / features.std(0)
    one, two = (fit_sgd(features, target, 4, norm=norm) for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    probabilities = one.probabilities(features)
    assert (probabilities.argmax(1) == target).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_batchnorm_is_folded_into_the_layer_and_undoes_scale():
    features, target = blobs(9, 200, spread=0.2)  # scales from 0.001 to 1000
    with_norm = fit_sgd(features, target, 4, norm=True).probabilities(features)
    assert (with_norm.argmax(1) == target).mean() > 0.95
    without = fit_sgd(features, target, 4).probabilities(features)
    assert (without.argmax(1) == target).mean() < 0.9
    with pytest.raises(TrainingError, match="SGD diverged"):
        fit_sgd(features * 1e30, target, 4)


@pytest.mark.parametrize(
    ("features", "classes", "l2", "text"),
    [
        (torch.zeros(3, 2), np.zeros(2, int), 1.0, "allowed: .M, D. and .M,., at least one row"),
        (torch.zeros(0, 2), np.zeros(0, int), 1.0, "at least one row"),
        (torch.full((2, 2), torch.nan), np.zeros(2, int), 1.0, "NaN or infinity"),
        (torch.zeros(2, 2), np.zeros(2, int), 0.0, "l2 is 0.0; allowed: above 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, classes, l2, text):
    with pytest.raises(InputError, match=text):
        Logistic(features, classes, 2).fit(l2)
