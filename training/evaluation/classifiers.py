"""Linear classifiers on fixed features: logistic regression, and SGD as the paper trains.

Logistic regression is the default of the linear probe: it has one optimum, which does not depend
on a seed, an order or a learning rate, so that rows of a table differ by their features alone. Its
one free choice, the strength of the L2 penalty, is made by cross-validation inside the training
videos.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ccl_hub.errors import InputError, TrainingError

from .classification import average_clips

logger = logging.getLogger(__name__)

L2_GRID = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # strongest first
FOLDS = 5
PATIENCE = 2  # so many weaker penalties that are worse than the best end the search
MAX_STEPS = 10_000  # of L-BFGS
SEARCH_TOLERANCE = 1e-5  # of a gradient, while penalties are compared
WORST_GRADIENT = 1e-4
LEAST_PROBABILITY = 1e-12
# The paper's fine-tuning, for the one layer that is trained; the rate falls tenfold every 20.
SGD_EPOCHS, SGD_BATCH, SGD_RATE, SGD_DECAY, SGD_STEP_EPOCHS = 35, 48, 0.01, 1e-4, 20


@dataclass(frozen=True)
class LinearClassifier:
    """One fully connected layer with softmax.

    Args:
        weight: (C, D) float64.
        bias: (C,) float64; -inf for a class without a training clip.
    """

    weight: Tensor
    bias: Tensor

    def probabilities(self, features: Tensor) -> np.ndarray:
        """Return softmax outputs.

        Args:
            features: (M, D) floats.

        Returns:
            (M, C) float64; rows sum to 1.
        """
        logits = features.to(self.weight) @ self.weight.T + self.bias  # (M,C)
        return logits.softmax(1).numpy()


@dataclass(frozen=True)
class Choice:
    """The L2 penalty that cross-validation chose.

    Args:
        l2: The chosen strength.
        losses: Strength -> mean negative log likelihood of held-out videos.
        folds: Number of folds.
        held_out: ``groups`` or ``videos``: what is never on both sides of a fold.
    """

    l2: float
    losses: dict[float, float]
    folds: int
    held_out: str


class Logistic:
    """Multinomial logistic regression, fitted to its optimum in float64 by L-BFGS.

    Minimises mean cross-entropy + l2/2 * sum of squared weights, on features scaled to mean 0 and
    standard deviation 1; the bias is free. A fit starts where the last one ended.

    Args:
        features: (M, D) floats.
        classes: (M,) positions, 0 to count - 1.
        count: Number of classes C.
        tolerance: Largest gradient at which a fit ends.

    Raises:
        InputError: Shapes or values are not allowed.
    """

    def __init__(
        self, features: Tensor, classes: np.ndarray, count: int, tolerance: float = 1e-7
    ) -> None:
        _check(features, classes)
        self.scaler = StandardScaler()
        self.scaled = self.scaler.fit_transform(features.double().numpy())  # (M,D)
        self.classes, self.count = np.asarray(classes), count
        self.solver = LogisticRegression(tol=tolerance, max_iter=MAX_STEPS, warm_start=True)

    def fit(self, l2: float) -> LinearClassifier:
        """Return the classifier for features as they are given.

        Raises:
            InputError: ``l2`` is not above 0.
            TrainingError: The solver ended before the optimum.
        """
        if not l2 > 0:
            raise InputError(f"l2 is {l2}; allowed: above 0, such as 0.01.")
        present = np.unique(self.classes)
        weight = np.zeros((self.count, self.scaled.shape[1]))
        bias = np.where(np.isin(np.arange(self.count), present), 0.0, -np.inf)
        if len(present) > 1:
            # Of two classes scikit-learn fits the difference, whose penalty is half of theirs.
            pair = len(present) == 2
            self.solver.set_params(C=(2 if pair else 1) / (l2 * len(self.scaled)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the gradient tells, below
                self.solver.fit(self.scaled, self.classes)
            rows, offsets = self.solver.coef_, self.solver.intercept_
            weight[present] = np.vstack([-rows, rows]) / 2 if pair else rows
            bias[present] = np.append(-offsets, offsets) / 2 if pair else offsets
        excess = softmax(self.scaled @ weight.T + bias, 1)  # (M,C)
        excess[np.arange(len(excess)), self.classes] -= 1
        gradient = excess.T @ self.scaled / len(excess) + l2 * weight  # (C,D)
        worst = max(np.abs(gradient).max(), np.abs(excess.mean(0)).max())
        if not worst < WORST_GRADIENT:  # NaN too
            raise TrainingError(
                f"logistic regression with l2 = {l2:g} ended with a gradient of {worst:.1e}; "
                f"allowed: below {WORST_GRADIENT}. Look at the features, or give a larger --l2."
            )
        weight /= self.scaler.scale_
        bias -= weight @ self.scaler.mean_
        return LinearClassifier(torch.from_numpy(weight), torch.from_numpy(bias))


def choose_l2(
    features: Tensor,
    classes: np.ndarray,
    count: int,
    video_ids: np.ndarray,
    groups: Sequence[str],
    grid: Sequence[float] = L2_GRID,
) -> Choice:
    """Choose the L2 penalty by cross-validation: with it the held-out classes are likeliest.

    Videos of one group (actor, scene) are held out together. Predictions are averaged over the
    clips of a video first, as in the test.

    Args:
        features: (M, D) floats of training clips.
        classes: (M,) positions.
        count: Number of classes.
        video_ids: (M,) video of each clip.
        groups: (M,) group of each clip; "" where a video is a group of its own.
        grid: Strengths to try, strongest first; the search ends after two that are worse.

    Returns:
        The choice. Where all videos are of one group, every video counts as a group instead.

    Raises:
        InputError: There are fewer than two videos.
        TrainingError: As :meth:`Logistic.fit`.
    """
    _check(features, classes)
    ids, targets = np.asarray(video_ids), np.asarray(classes)
    names = np.array(
        [f"group {g}" if g else f"video {v}" for g, v in zip(groups, ids, strict=True)]
    )
    held_out = "groups" if any(groups) else "videos"
    if len(set(names)) < 2:
        names, held_out = np.array([f"video {v}" for v in ids]), "videos"
    fold_of = _folds(names, targets, count)
    folds = sorted(set(fold_of))
    if len(folds) < 2:
        raise InputError(
            f"{len(set(ids))} training videos; cross-validation needs two. Give more, or --l2."
        )
    fits = []
    for fold in folds:
        inside, outside = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        logistic = Logistic(features[inside], targets[inside], count, SEARCH_TOLERANCE)
        fits.append((logistic, features[outside], targets[outside], ids[outside]))
    losses: dict[float, float] = {}
    for l2 in grid:
        total = sum(
            _log_loss(logistic.fit(l2).probabilities(clips), truth, videos)
            for logistic, clips, truth, videos in fits
        )
        losses[l2] = total / len(np.unique(ids))
        best = min(losses, key=lambda tried: losses[tried])  # the strongest of equals
        if list(losses).index(best) < len(losses) - PATIENCE:
            break
    if best in (grid[0], grid[-1]):
        logger.warning("l2 = %g is at the end of what can be chosen from: %s", best, grid)
    return Choice(best, losses, len(folds), held_out)


def fit_sgd(
    features: Tensor, classes: np.ndarray, count: int, *, norm: bool = False
) -> LinearClassifier:
    """Train the layer by SGD with the paper's settings for fine-tuning.

    The learning rate is 0.01, divided by ten after every 20 of 35 epochs; batch 48, momentum 0.9,
    weight decay 1e-4. Features are taken as they are, and an epoch passes over every clip. Initial
    weights and order have a fixed seed.

    Args:
        features: (M, D) floats.
        classes: (M,) positions.
        count: Number of classes C.
        norm: Put a BatchNorm before the layer.

    Raises:
        InputError: Shapes or values are not allowed.
        TrainingError: The loss became NaN or infinite.

    Source:
        Section 4.3, fine-tune phase.
    """
    _check(features, classes)
    single, target = features.float(), torch.from_numpy(np.asarray(classes, np.int64))
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(features.shape[1], count)
    before = nn.BatchNorm1d(features.shape[1])
    model = nn.Sequential(before, layer) if norm else layer
    optimizer = torch.optim.SGD(model.parameters(), SGD_RATE, momentum=0.9, weight_decay=SGD_DECAY)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, SGD_STEP_EPOCHS)
    for _ in range(SGD_EPOCHS):
        for rows in torch.randperm(len(single), generator=generator).split(SGD_BATCH):
            if norm and len(rows) < 2:
                continue  # a batch of one has no variance
            loss = F.cross_entropy(model(single[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    if norm:
        with torch.no_grad():
            gain = before.weight.double() / (before.running_var.double() + before.eps).sqrt()
            shift = before.bias.double() - before.running_mean.double() * gain
            weight, bias = weight * gain, bias + weight @ shift
    if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise TrainingError(
            "SGD diverged: weights hold NaN or infinity. Features of this size need --norm; give "
            "it, or the default --optimiser logistic."
        )
    return LinearClassifier(weight, bias)


def _check(features: Tensor, classes: np.ndarray) -> None:
    if features.ndim != 2 or len(features) == 0 or np.shape(classes) != (len(features),):
        raise InputError(
            f"features have shape {tuple(features.shape)} and classes {np.shape(classes)}; "
            "allowed: (M, D) and (M,), at least one row."
        )
    if not bool(torch.isfinite(features).all()):
        raise InputError("features hold NaN or infinity; give those of a model in fp32.")


def _folds(names: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Return the fold of every clip, int64 (M,): groups stay whole, classes are spread.

    Each group, the largest first, goes to the fold with the fewest clips of the group's classes,
    and of several such folds to the smallest. (scikit-learn's StratifiedGroupKFold refuses classes
    of fewer clips than folds.)
    """
    unique, group_of = np.unique(names, return_inverse=True)
    table = np.zeros((len(unique), count), np.int64)
    np.add.at(table, (group_of, classes), 1)
    folds = np.zeros((min(FOLDS, len(unique)), count), np.int64)
    fold_of = np.zeros(len(unique), np.int64)
    for group in np.argsort(-table.sum(1), kind="stable"):
        cost = zip(folds @ table[group], folds.sum(1), range(len(folds)), strict=True)
        fold_of[group] = min(cost)[2]
        folds[fold_of[group]] += table[group]
    return fold_of[group_of]


def _log_loss(probabilities: np.ndarray, classes: np.ndarray, video_ids: np.ndarray) -> float:
    """Return the sum over videos of -log of the averaged probability of the true class."""
    averaged = average_clips(probabilities, video_ids)  # (V,C)
    _, first = np.unique(video_ids, return_index=True)
    of_truth = averaged[np.arange(len(first)), classes[first]]
    return float(-np.log(np.maximum(of_truth, LEAST_PROBABILITY)).sum())
