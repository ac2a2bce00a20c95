"""What the evaluations of frozen models share: every model on every set, one results file each."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ccl_hub.network.devices import resolve_device

from .features import SetFeatures, features_of
from .labelled_sets import EvaluationSet, data_record, open_evaluation_sets
from .models import load_models
from .results import Confusion, Measurement, Results, write_results

__all__ = ["Found", "evaluate"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What one evaluation found in the embeddings of one set.

    Args:
        measurements: The figures.
        settings: What decided them, beside clips, precision and device.
        confusion: Of a classifier.
        variant: What sets these rows apart from those of the default settings; "" for the default.
    """

    measurements: tuple[Measurement, ...]
    settings: dict[str, Any]
    confusion: Confusion | None = None
    variant: str = ""


def evaluate(
    options: argparse.Namespace,
    kind: str,
    measure: Callable[[SetFeatures, EvaluationSet, torch.device], Found],
) -> list[Results]:
    """Measure every model on every set and write the results.

    Args:
        options: Of :func:`add_model_arguments` and :func:`add_evaluation_arguments`.
        kind: As :class:`Results` has it.
        measure: Given the embeddings of a set, the set, and the device to compute on.

    Returns:
        The results, set by set for each model.

    Raises:
        CCLError: A model, set or place cannot be used.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    results = []
    for named in load_models(options.model, options.seeds, device):
        for labelled in open_evaluation_sets(options, named.model.preprocessing):
            features = features_of(
                named.model,
                labelled,
                clips=options.clips,
                batch_clips=options.batch_clips,
                device=device,
                bf16=options.precision == "bf16",
                cache=options.cache,
                workers=options.workers,
            )
            found = measure(features, labelled, device)
            settings = {
                "clips": options.clips,
                "precision": options.precision,
                "device": device.type,
                **found.settings,
            }
            result = Results(
                kind=kind,
                model=named.record,
                data=data_record(labelled),
                measurements=found.measurements,
                settings=settings,
                confusion=found.confusion,
                group=", ".join(filter(None, (options.group, found.variant))),
            )
            logger.info("wrote %s", write_results(result, options.out))
            results.append(result)
    return results
