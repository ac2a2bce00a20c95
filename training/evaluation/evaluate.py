"""What the evaluations of frozen models share: every model on every set, one results file each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ccl_hub.network.devices import resolve_device

from .features import SetFeatures, features_of
from .labelled_sets import EvaluationSet, data_record, open_evaluation_sets
from .models import load_models
from .results import Confusion, Measurement, Results, write_results

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What every evaluation of frozen models is asked for.

    Args:
        model: Models, as :func:`load_models` takes them.
        seeds: Of the random rows.
        data: Labelled sets, as :func:`open_evaluation_set` takes them.
        test_share: Share of test videos where the data come without splits.
        clips: Per video.
        batch_clips: Computed at once.
        precision: ``fp32`` or ``bf16``.
        device: ``auto``, or as torch names it.
        threads: On the CPU; None leaves them as they are.
        workers: Threads that read frames.
        cache: Folder that keeps embeddings; None keeps none.
        group: Experiment the results belong to.
        out: Folder for the results files.
    """

    model: tuple[str, ...]
    seeds: tuple[int, ...]
    data: tuple[str, ...]
    test_share: float
    clips: int
    batch_clips: int
    precision: str
    device: str
    threads: int | None
    workers: int
    cache: Path | None
    group: str
    out: Path


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
    options: EvaluationOptions,
    kind: str,
    measure: Callable[[SetFeatures, EvaluationSet, torch.device], Found],
) -> list[Results]:
    """Measure every model on every set and write the results.

    Args:
        options: Models, sets, and where results go.
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
        for labelled in open_evaluation_sets(
            options.data,
            named.model.preprocessing,
            test_share=options.test_share,
            workers=options.workers,
        ):
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
