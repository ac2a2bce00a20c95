"""Linear classifiers on fixed features: logistic regression, and SGD as the paper trains.

Logistic regression is the default of the linear probe: it has one optimum, which does not depend
on a seed, an order or a learning rate, so that rows of a table differ by their features alone. Its
one free choice, the strength of the L2 penalty, is made by cross-validation inside the training
videos.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccl_hub.errors import InputError, TrainingError

from .classification import average_clips

__all__ = ["L2_GRID", "Choice", "LinearClassifier", "choose_l2", "fit_logistic", "fit_sgd"]

logger = logging.getLogger(__name__)

L2_GRID = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # strongest first
FOLDS = 5
ROUNDS, ROUND_STEPS = 40, 50
WORST_GRADIENT = 1e-4
PATIENCE = 2  # weaker penalties, worse than the best, after which none is tried
SEARCH_TOLERANCE = 1e-5  # of a gradient, while penalties are compared
LEAST_PROBABILITY = 1e-12
# The paper's fine-tuning, for the one layer that is trained: 35 epochs, a tenth every 20.
SGD_EPOCHS, SGD_BATCH, SGD_RATE, SGD_DECAY, SGD_STEP_EPOCHS = 35, 48, 0.01, 1e-4, 20


@dataclass(frozen=True)
class LinearClassifier:
    """One fully connected layer with softmax.

    Args:
        weight: (C, D) float64.
        bias: (C,) float64.
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
        return logits.softmax(1).cpu().numpy()


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


@dataclass(frozen=True)
class _Prepared:
    """Training features in the coordinates in which the problem is easy.

    Scaled to mean 0 and standard deviation 1, then turned into their principal axes, which leaves
    the penalty as it is and makes the objective's curvature nearly diagonal.
    """

    rotated: Tensor  # (M,D) float64
    variances: Tensor  # (D,) of its columns
    axes: Tensor  # (D,D): scaled = rotated @ axes.T
    mean: Tensor  # (D,)
    scale: Tensor  # (D,)

    def classifier(self, solution: Tensor) -> LinearClassifier:
        """Return the classifier for unscaled features of a (C,D+1) solution."""
        weight = solution[:, :-1] @ self.axes.T / self.scale
        return LinearClassifier(weight, solution[:, -1] - weight @ self.mean)


def _prepare(features: Tensor) -> _Prepared:
    mean, scale = _moments(features)
    scaled = (features.double() - mean) / scale  # (M,D)
    variances, axes = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    return _Prepared(scaled @ axes, variances.clamp(min=0), axes, mean, scale)


def fit_logistic(features: Tensor, classes: np.ndarray, count: int, l2: float) -> LinearClassifier:
    """Fit multinomial logistic regression to its optimum, in float64 by L-BFGS.

    Minimises mean cross-entropy + l2/2 * sum of squared weights, on features scaled to mean 0 and
    standard deviation 1 (of ``features``); the bias is free. scikit-learn's ``C`` is 1/(l2 * M).

    Args:
        features: (M, D) floats, on the device to compute on.
        classes: (M,) positions, 0 to count - 1.
        count: Number of classes C.
        l2: Above 0.

    Returns:
        The classifier, for features as they are given.

    Raises:
        InputError: Shapes, ``l2`` or values are not allowed.
        TrainingError: No optimum was found.
    """
    _check(features, classes, l2)
    prepared = _prepare(features)
    return prepared.classifier(_solve(prepared, classes, count, l2))


def _solve(
    prepared: _Prepared,
    classes: np.ndarray,
    count: int,
    l2: float,
    start: Tensor | None = None,
    tolerance: float = 1e-7,
) -> Tensor:
    """Return the (C,D+1) optimum on prepared features, from ``start`` or from zeros."""
    rotated = prepared.rotated
    target = torch.from_numpy(np.asarray(classes, np.int64)).to(rotated.device)
    found = rotated.new_zeros((count, rotated.shape[1] + 1)) if start is None else start
    worst = math.inf
    for _ in range(ROUNDS):
        found, worst = _descend(prepared, target, l2, found, tolerance)
        if worst <= tolerance:
            break
    if not worst < WORST_GRADIENT:  # NaN too
        raise TrainingError(
            f"logistic regression with l2 = {l2:g} ended with a gradient of {worst:.1e}; allowed: "
            f"below {WORST_GRADIENT}. Look at the features, or give a larger --l2."
        )
    return found


def _descend(
    prepared: _Prepared, target: Tensor, l2: float, start: Tensor, tolerance: float
) -> tuple[Tensor, float]:
    """Take up to a round of L-BFGS steps; return where it ends and the largest gradient there.

    Along each axis the unit is the root of the objective's curvature at ``start``, which makes
    all axes about alike. Classifiers that have become sure have another one, hence the rounds.
    """
    rotated = prepared.rotated
    shares = (rotated @ start[:, :-1].T + start[:, -1]).softmax(1)  # (M,C)
    variances = torch.cat([prepared.variances, rotated.new_ones(1)])
    unit = ((shares * (1 - shares)).mean() * variances + l2).sqrt()  # (D+1,)
    solution = (start * unit).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [solution],
        max_iter=ROUND_STEPS,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        natural = solution / unit
        weight, bias = natural[:, :-1], natural[:, -1]
        loss = F.cross_entropy(rotated @ weight.T + bias, target) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    objective()
    worst = math.nan if solution.grad is None else float(solution.grad.abs().max())
    return (solution / unit).detach(), worst


def choose_l2(
    features: Tensor,
    classes: np.ndarray,
    count: int,
    video_ids: np.ndarray,
    groups: Sequence[str],
    grid: Sequence[float] = L2_GRID,
) -> Choice:
    """Choose the L2 penalty by cross-validation: the one of the likeliest held-out classes.

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
        The choice. Where all videos are of one group, videos are held out one by one instead.

    Raises:
        InputError: There are fewer than two videos.
        TrainingError: As :func:`fit_logistic`.
    """
    _check(features, classes, min(grid))
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
    parts = [(fold_of != fold, fold_of == fold) for fold in folds]
    prepared = [_prepare(features[torch.from_numpy(inside)]) for inside, _ in parts]
    starts: list[Tensor | None] = [None] * len(parts)
    losses: dict[float, float] = {}
    for l2 in grid:
        total = 0.0
        for i, (inside, outside) in enumerate(parts):
            # Each solution is a good start for the next, weaker penalty.
            found = _solve(prepared[i], targets[inside], count, l2, starts[i], SEARCH_TOLERANCE)
            held = features[torch.from_numpy(outside)]
            predicted = prepared[i].classifier(found).probabilities(held)
            total += _log_loss(predicted, targets[outside], ids[outside])
            starts[i] = found
        losses[l2] = total / len(np.unique(ids))
        best = min(losses, key=lambda tried: losses[tried])  # the strongest of equals
        if list(losses).index(best) < len(losses) - PATIENCE:
            break
    if best in (grid[0], grid[-1]):
        logger.warning("l2 = %g is at the end of what can be chosen from: %s", best, grid)
    return Choice(best, losses, len(folds), held_out)


def fit_sgd(
    features: Tensor, classes: np.ndarray, count: int, *, norm: bool = False, seed: int = 0
) -> LinearClassifier:
    """Train the layer by SGD with the paper's settings for fine-tuning.

    Learning rate 0.01, a tenth every 20 of 35 epochs, batch 48, momentum 0.9, weight decay 1e-4,
    on the features as they are. An epoch passes over every clip.

    Args:
        features: (M, D) floats, on the device to compute on.
        classes: (M,) positions.
        count: Number of classes C.
        norm: Put a BatchNorm before the layer.
        seed: Initial weights and order.

    Raises:
        InputError: Shapes or values are not allowed.
        TrainingError: The loss became NaN or infinite.

    Source:
        Section 4.3, fine-tune phase.
    """
    _check(features, classes, 1.0)
    device, plain = features.device, features.float()
    target = torch.from_numpy(np.asarray(classes, np.int64)).to(device)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(features.shape[1], count)
    before = nn.BatchNorm1d(features.shape[1]) if norm else nn.Identity()
    model = nn.Sequential(before, layer).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), SGD_RATE, momentum=0.9, weight_decay=SGD_DECAY)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, SGD_STEP_EPOCHS)
    for _ in range(SGD_EPOCHS):
        for rows in torch.randperm(len(plain), generator=generator).to(device).split(SGD_BATCH):
            if norm and len(rows) < 2:
                continue  # a batch of one has no variance
            loss = F.cross_entropy(model(plain[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    if isinstance(before, nn.BatchNorm1d):
        gain = before.weight.double() / (before.running_var.double() + before.eps).sqrt()
        shift = before.bias.double() - before.running_mean.double() * gain
        weight, bias = (weight * gain).detach(), (bias + weight @ shift).detach()
    if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise TrainingError(
            "SGD diverged: weights hold NaN or infinity. Features of this size need --norm, or "
            "the default --optimiser logistic."
        )
    return LinearClassifier(weight, bias)


def _check(features: Tensor, classes: np.ndarray, l2: float) -> None:
    if features.ndim != 2 or len(features) == 0 or np.shape(classes) != (len(features),):
        raise InputError(
            f"features have shape {tuple(features.shape)} and classes {np.shape(classes)}; "
            "allowed: (M, D) and (M,), at least one row."
        )
    if not bool(torch.isfinite(features).all()):
        raise InputError("features hold NaN or infinity; no classifier can be fitted to them.")
    if not l2 > 0:
        raise InputError(f"l2 is {l2}; allowed: above 0, such as 0.01.")


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (D,) float64; 1 for dimensions that are constant."""
    variance, mean = torch.var_mean(features.double(), 0, correction=0)
    scale = variance.sqrt()
    constant = scale <= 1e-12 * mean.abs()
    return mean, torch.where(constant, torch.ones_like(scale), scale)


def _folds(names: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Return the fold of every clip, int64 (M,): groups stay whole, classes are spread.

    Groups go, the largest first, to the fold that has least of the group's classes, then to the
    smallest fold.
    """
    unique, place = np.unique(names, return_inverse=True)
    table = np.zeros((len(unique), count), np.int64)
    np.add.at(table, (place, classes), 1)
    folds = np.zeros((min(FOLDS, len(unique)), count), np.int64)
    fold_of = np.zeros(len(unique), np.int64)
    for group in np.argsort(-table.sum(1), kind="stable"):
        cost = zip(folds @ table[group], folds.sum(1), range(len(folds)), strict=True)
        fold_of[group] = min(cost)[2]
        folds[fold_of[group]] += table[group]
    return fold_of[place]


def _log_loss(probabilities: np.ndarray, classes: np.ndarray, video_ids: np.ndarray) -> float:
    """Return the sum over videos of -log of the averaged probability of the true class."""
    averaged = average_clips(probabilities, video_ids)  # (V,C)
    _, first = np.unique(video_ids, return_index=True)
    own = averaged[np.arange(len(first)), classes[first]]
    return float(-np.log(np.maximum(own, LEAST_PROBABILITY)).sum())
