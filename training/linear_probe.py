"""Linear probe: one layer with softmax on frozen features (paper, Section 4.3, Tables 5 and 6).

    python -m training.linear_probe --model ccl_r18_mini --model random-init --data PACK --out OUT

The network stays in eval mode and is never changed; its features of 10 uniform centre-crop clips
of every video are computed once. A classifier is fitted to the clips of the train split, and a
test video's prediction is the mean over its clips. Nothing of the test split is looked at before.

Writes one results file per model, seed and set, and a table to standard output. Exit codes: 0
done; 2 a model, set or argument cannot be used; 1 a result cannot be written.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccl_hub.errors import CCLError, ConfigError, OutputError

from .evaluation.classification import AVERAGES, average_clips, confusion_matrix, measure
from .evaluation.classifiers import LinearClassifier, choose_l2, fit_logistic, fit_sgd
from .evaluation.evaluate import Found, evaluate
from .evaluation.features import SetFeatures
from .evaluation.labelled_sets import EvaluationSet, add_evaluation_arguments
from .evaluation.models import add_model_arguments
from .evaluation.results import Confusion, Measurement, Results, Summary, summarise

__all__ = ["Probe", "Probed", "fold_means", "main", "markdown_table", "probe"]

logger = logging.getLogger(__name__)

OPTIMISERS = ("logistic", "sgd")
FEATURES = ("video", "frames")
FOLD = re.compile(r"(.+) split (\d+)")


@dataclass(frozen=True)
class Probe:
    """How to probe.

    Args:
        feature: ``"video"``, the clip's 512-d vector (the paper's); or ``"frames"``, the mean of
            its frames' vectors, which is what the trunk sees without conv6.
        optimiser: ``"logistic"`` (:func:`fit_logistic`) or ``"sgd"`` (:func:`fit_sgd`).
        norm: A BatchNorm before the layer; for ``"sgd"`` alone, as ``"logistic"`` scales features
            anyway.
        l2: Strength of the penalty of ``"logistic"``; None chooses it by cross-validation.
        averages: F-measures to report too.

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
            raise ConfigError("norm goes with optimiser sgd; logistic scales features anyway.")
        if self.l2 is not None and self.optimiser != "logistic":
            raise ConfigError(f"l2 is {self.l2} but optimiser sgd has a weight decay of its own.")
        if self.l2 is not None and not 0 < self.l2 < math.inf:
            raise ConfigError(f"l2 is {self.l2}; allowed: above 0, such as 0.01.")

    @property
    def variant(self) -> str:
        """What sets these rows apart from those of the default probe; "" for the default."""
        parts = ["frame features"] if self.feature == "frames" else []
        if self.optimiser == "sgd":
            parts.append("SGD with BatchNorm" if self.norm else "SGD")
        return f"linear probe, {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Args:
        classifier: Fitted to the train split.
        measurements: Its figures on the test split.
        confusion: Its test videos, true class by predicted class.
        settings: What decided them, as JSON values.
    """

    classifier: LinearClassifier
    measurements: tuple[Measurement, ...]
    confusion: Confusion
    settings: dict[str, Any]


def probe(
    features: SetFeatures,
    labelled: EvaluationSet,
    how: Probe,
    device: torch.device | None = None,
) -> Probed:
    """Fit a linear classifier to the train split and judge it on the test split.

    Args:
        features: Of every clip of ``labelled``.
        labelled: Gives classes, groups and splits.
        how: The probe.
        device: Where to fit, the CPU if None; MPS has no float64, so there it is the CPU too.

    Raises:
        InputError: Features cannot be used.
        TrainingError: The fit failed.

    Source:
        Section 4.3, Tables 5 and 6.
    """
    place = torch.device("cpu") if device is None or device.type == "mps" else device
    names = labelled.videos.classes
    train, test = (features.of_split(labelled, split) for split in ("train", "test"))
    classifier, settings = _fit(train, labelled, how, place)
    probabilities = classifier.probabilities(_vectors(test, how.feature).to(place))  # (M,C)
    averaged = average_clips(probabilities, test.video_ids)  # (V,C)
    truth = labelled.videos.targets()[np.unique(test.video_ids)]
    return Probed(
        classifier,
        measure("linear", averaged, truth, how.averages),
        confusion_matrix(averaged.argmax(1), truth, names),
        settings,
    )


def _fit(
    train: SetFeatures, labelled: EvaluationSet, how: Probe, device: torch.device
) -> tuple[LinearClassifier, dict[str, Any]]:
    """Return the classifier and the settings that decided it; sees training clips only."""
    settings: dict[str, Any] = {"feature": how.feature, "optimiser": how.optimiser}
    vectors = _vectors(train, how.feature).to(device)
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
            "log_loss": {f"{strength:g}": round(v, 6) for strength, v in choice.losses.items()},
        }
    return fit_logistic(vectors, classes, count, l2), settings | {"l2": l2}


def _vectors(features: SetFeatures, feature: str) -> Tensor:
    """Return one vector per clip, (M,D)."""
    return features.video if feature == "video" else features.frames.mean(1)


def fold_means(results: Sequence[Results]) -> list[Results]:
    """Average results over the folds of a data set, for printing beside the folds.

    Args:
        results: Of any sets; those named ``NAME split 1``, ``NAME split 2``, ... are folds.

    Returns:
        One result per group, row, seed and data set with several folds, named like ``NAME (mean of
        splits 1, 2, 3)``, with the figures that all its folds have. Without confusion.
    """
    rows: dict[tuple[str, str, int | None, str], list[tuple[str, Results]]] = defaultdict(list)
    for one in results:
        fold = FOLD.fullmatch(one.data.name)
        if fold:
            rows[one.group, one.model.label, one.model.seed, fold[1]].append((fold[2], one))
    means = []
    for (*_, name), folds in rows.items():
        if len(folds) < 2:
            continue
        folds = sorted(folds, key=lambda fold: int(fold[0]))
        values: dict[Any, list[Measurement]] = defaultdict(list)
        for _, one in folds:
            for measurement in one.measurements:
                values[measurement.column].append(measurement)
        measurements = tuple(
            dataclasses.replace(
                found[0],
                value=math.fsum(m.value for m in found) / len(found),
                queries=sum(m.queries for m in found),
            )
            for found in values.values()
            if len(found) == len(folds)
        )
        title = f"{name} (mean of splits {', '.join(number for number, _ in folds)})"
        first = folds[0][1]
        data = dataclasses.replace(
            first.data,
            name=title,
            fingerprint="",
            train_videos=sum(one.data.train_videos for _, one in folds),
            test_videos=sum(one.data.test_videos for _, one in folds),
        )
        means.append(
            dataclasses.replace(first, data=data, measurements=measurements, confusion=None)
        )
    return means


def markdown_table(results: Sequence[Results]) -> str:
    """Return the results as a Markdown table, per cent: a row per set and model, seeds together.

    Args:
        results: Of a linear probe or fine-tuning, at least one.
    """
    cells: dict[tuple[str, str, str], dict[str, Summary]] = defaultdict(dict)
    for cell in summarise(results):
        cells[cell.data, cell.label, cell.group][cell.column[4]] = cell
    metrics = list(dict.fromkeys(metric for row in cells.values() for metric in row))
    tests = {one.data.name: one.data.test_videos for one in results}
    lines = [
        f"| data (test videos) | model | seeds | {' | '.join(metrics)} |",
        "|---" * (3 + len(metrics)) + "|",
    ]
    for (data, label, group), row in cells.items():
        seeds = max(cell.seeds for cell in row.values())
        values = [row[metric].text() if metric in row else "" for metric in metrics]
        name = f"{label} ({group})" if group else label
        lines.append(f"| {data} ({tests[data]}) | {name} | {seeds} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m training.linear_probe",
        description="Measure frozen features with a linear classifier (Tables 5 and 6).",
    )
    add_model_arguments(parser)
    add_evaluation_arguments(parser)
    add_probe_arguments(parser)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        results = _run(options)
        tables = markdown_table([*results, *fold_means(results)])
    except OutputError as error:
        return _fail(error, 1)
    except CCLError as error:
        return _fail(error, 2)
    sys.stdout.write(tables)
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


def add_probe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--feature``, ``--optimiser``, ``--norm``, ``--l2``, ``--metric`` and ``--average``."""
    parser.add_argument(
        "--feature",
        choices=FEATURES,
        default="video",
        help="the clip's vector (default), or the mean of its frames' vectors",
    )
    parser.add_argument(
        "--optimiser",
        choices=OPTIMISERS,
        default="logistic",
        help="logistic: to the optimum, on scaled features (default); sgd: as the paper trains",
    )
    parser.add_argument("--norm", action="store_true", help="sgd: a BatchNorm before the layer")
    parser.add_argument(
        "--l2",
        type=float,
        help="logistic: strength of the penalty (default: by cross-validation on train videos)",
    )
    parser.add_argument(
        "--metric",
        choices=("accuracy", "f-measure"),
        default="accuracy",
        help="f-measure: as Table 6, beside the accuracy",
    )
    parser.add_argument("--average", choices=AVERAGES, default="macro", help="of the f-measure")


def _run(options: argparse.Namespace) -> list[Results]:
    averages = (options.average,) if options.metric == "f-measure" else ()
    how = Probe(options.feature, options.optimiser, options.norm, options.l2, averages)

    def measure_set(features: SetFeatures, labelled: EvaluationSet, device: torch.device) -> Found:
        probed = probe(features, labelled, how, device)
        return Found(probed.measurements, probed.settings, probed.confusion, how.variant)

    return evaluate(options, "linear-probe", measure_set)


if __name__ == "__main__":
    sys.exit(main())
