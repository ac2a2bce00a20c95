"""Linear probe: one layer with softmax on frozen features (paper, Section 4.3, Tables 5 and 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ccl_hub.errors import ConfigError

from .classification import average_clips, confusion_matrix, measure
from .classifiers import LinearClassifier, Logistic, choose_l2, fit_sgd
from .evaluate import EvaluationOptions, Measured, evaluate
from .features import SetFeatures
from .labelled_sets import EvaluationSet
from .results import Results

OPTIMISERS = ("logistic", "sgd")
FEATURES = ("video", "frames")


@dataclass(frozen=True)
class Probe:
    """How to probe.

    Args:
        feature: ``"video"``, the clip's 512-d vector (the paper's); or ``"frames"``, the mean of
            its frames' vectors, which is what the trunk sees without conv6.
        optimiser: ``"logistic"`` (:class:`Logistic`) or ``"sgd"`` (:func:`fit_sgd`).
        norm: Put a BatchNorm before the layer; for ``"sgd"`` alone, as ``"logistic"`` scales
            features anyway.
        l2: Strength of the penalty of ``"logistic"``; None chooses it by cross-validation.
        averages: F-measures to report beside the accuracy.

    Raises:
        ConfigError: A value is not allowed, or two do not go together.
    """

    feature: str = "video"
    optimiser: str = "logistic"
    norm: bool = False
    l2: float | None = None
    averages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        allowed = {"feature": FEATURES, "optimiser": OPTIMISERS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(values)}."
                )
        if self.norm and self.optimiser != "sgd":
            raise ConfigError(
                "norm goes with optimiser sgd, as logistic scales features anyway; leave it out, "
                "or give --optimiser sgd."
            )
        if self.l2 is not None and self.optimiser != "logistic":
            raise ConfigError(
                f"l2 is {self.l2}, but optimiser sgd has a weight decay of its own; leave l2 out, "
                "or give --optimiser logistic."
            )
        if self.l2 is not None and not 0 < self.l2 < math.inf:
            raise ConfigError(f"l2 is {self.l2}; allowed: above 0, such as 0.01.")

    @property
    def variant(self) -> str:
        """What sets these rows apart from those of the default probe; "" for the default."""
        changes = ["frame features"] if self.feature == "frames" else []
        if self.optimiser == "sgd":
            changes.append("SGD with BatchNorm" if self.norm else "SGD")
        return f"linear probe, {', '.join(changes)}" if changes else ""


def probe(
    features: SetFeatures, labelled: EvaluationSet, how: Probe
) -> tuple[LinearClassifier, Measured]:
    """Fit a linear classifier to the train split and judge it on the test split.

    Args:
        features: Of every clip of ``labelled``.
        labelled: Gives classes, groups and splits.
        how: The probe.

    Returns:
        The classifier, and what it measured on the test split.

    Raises:
        InputError: Features cannot be used.
        TrainingError: The fit failed.

    Source:
        Section 4.3, Tables 5 and 6.
    """
    train, test = (features.of_split(labelled, split) for split in ("train", "test"))
    with threadpool_limits(torch.get_num_threads()):  # scikit-learn would take every core
        classifier, settings = _fit(train, labelled, how)
    probabilities = classifier.probabilities(_vectors(test, how.feature))  # (M,C)
    averaged = average_clips(probabilities, test.video_ids)  # (V,C)
    truth = labelled.videos.targets()[np.unique(test.video_ids)]
    measurements = measure("linear", averaged, truth, how.averages)
    confusion = confusion_matrix(averaged.argmax(1), truth, labelled.videos.classes)
    return classifier, Measured(measurements, settings, confusion, how.variant)


def _fit(
    train: SetFeatures, labelled: EvaluationSet, how: Probe
) -> tuple[LinearClassifier, dict[str, Any]]:
    """Return the classifier and the settings that decided it; sees training clips only."""
    settings: dict[str, Any] = {"feature": how.feature, "optimiser": how.optimiser}
    vectors = _vectors(train, how.feature)
    classes = labelled.videos.targets()[train.video_ids]
    count = len(labelled.videos.classes)
    if how.optimiser == "sgd":
        return fit_sgd(vectors, classes, count, norm=how.norm), settings | {"norm": how.norm}
    l2 = how.l2
    if l2 is None:
        groups = [labelled.videos.items[video].group for video in train.video_ids]
        choice = choose_l2(vectors, classes, count, train.video_ids, groups)
        l2 = choice.l2
        settings["cross_validation"] = {
            "folds": choice.folds,
            "held_out": choice.held_out,
            "log_loss": {f"{tried:g}": round(loss, 6) for tried, loss in choice.losses.items()},
        }
    return Logistic(vectors, classes, count).fit(l2), settings | {"l2": l2}


def _vectors(features: SetFeatures, feature: str) -> Tensor:
    """Return one vector per clip, (M,D)."""
    return features.video if feature == "video" else features.frames.mean(1)


def measure_probe(options: EvaluationOptions, how: Probe) -> list[Results]:
    """Probe every model on every set, write the results and return them.

    Args:
        options: Models, sets, and where results go.
        how: The probe.

    Raises:
        CCLError: A model or a set cannot be used, or results cannot be written.
    """

    def measure_set(features: SetFeatures, labelled: EvaluationSet, _: torch.device) -> Measured:
        return probe(features, labelled, how)[1]

    return evaluate(options, "linear-probe", measure_set)
