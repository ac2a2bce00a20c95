"""Linear probe: one layer with softmax on frozen features (paper, Section 4.3, Tables 5 and 6).

    python -m training.linear_probe --model ccl_r18_mini --model random-init --data PACK --out OUT

The network stays in eval mode and as it is; its features of 10 uniform centre-crop clips of every
video are computed once. A classifier is fitted to the clips of the train split alone, and the
prediction for a test video is the mean over its clips.

Writes one results file per model, seed and set, and a table to standard output. Exit codes: 0
done; 2 a model, set or argument cannot be used; 1 a result cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .cli import add_evaluation_arguments, add_model_arguments, options_of, run
from .evaluation.classification import AVERAGES
from .evaluation.evaluate import EvaluationOptions
from .evaluation.probe import FEATURES, OPTIMISERS, Probe, measure_probe
from .evaluation.tables import classifier_table


@dataclass(frozen=True)
class Options(EvaluationOptions):
    """What the command line says; see ``--help``."""

    feature: str
    optimiser: str
    norm: bool
    l2: float | None
    metric: str
    average: str

    @property
    def probe(self) -> Probe:
        """How to probe."""
        averages = (self.average,) if self.metric == "f-measure" else ()
        return Probe(self.feature, self.optimiser, self.norm, self.l2, averages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    options = read_options(arguments)
    return run(lambda: print(classifier_table(measure_probe(options, options.probe)), end=""))


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.linear_probe",
        description="Measure frozen features with a linear classifier (Tables 5 and 6).",
    )
    add_model_arguments(parser)
    add_evaluation_arguments(parser)
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
    return options_of(Options, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
