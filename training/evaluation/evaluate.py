"""What evaluations of frozen models share: every model on every set, one results file each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .features import SetFeatures, features_of
from .labelled_sets import EvaluationSet, data_record, open_evaluation_sets
from .models import NamedModel, load_models
from .results import Confusion, Measurement, Results, write_results

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingOptions:
    """Which labelled sets are embedded, and how.

    Args:
        data: Labelled sets, as :func:`open_evaluation_set` takes them.
        test_share: Share of test videos where the data come without splits.
        clips: Per video.
        batch_clips: Computed at once.
        device: ``auto``, or as torch names it.
        workers: Threads that read frames.
        cache: Folder that keeps embeddings; None keeps none.
    """

    data: tuple[str, ...]
    test_share: float
    clips: int
    batch_clips: int
    device: str
    workers: int
    cache: Path | None


@dataclass(frozen=True)
class EvaluationOptions(EmbeddingOptions):
    """What every evaluation of frozen models is asked for, beside :class:`EmbeddingOptions`.

    Args:
        model: Models, as :func:`load_models` takes them.
        seeds: Of the random rows.
        precision: ``fp32`` or ``bf16``.
        threads: On the CPU; None leaves them as they are.
        group: Experiment the results belong to.
        out: Folder for the results files.
    """

    model: tuple[str, ...]
    seeds: tuple[int, ...]
    precision: str
    threads: int | None
    group: str
    out: Path


@dataclass(frozen=True)
class Measured:
    """What one evaluation measured in the embeddings of one set.

    Args:
        measurements: The figures.
        settings: What decided them, beside clips, precision and device; JSON values.
        confusion: Of a classifier.
        variant: What sets these rows apart from those of the default settings; "" for the default.
    """

    measurements: tuple[Measurement, ...]
    settings: dict[str, Any]
    confusion: Confusion | None = None
    variant: str = ""


def embedded_sets(
    models: Sequence[str],
    seeds: Sequence[int],
    options: EmbeddingOptions,
    *,
    bf16: bool = False,
) -> Iterator[tuple[NamedModel, EvaluationSet, SetFeatures]]:
    """Embed every set with every model, one after the other.

    Args:
        models: As :func:`load_models` takes them.
        seeds: Of the random rows.
        options: The sets, and how they are embedded.
        bf16: Compute the networks in bfloat16.

    Yields:
        A model, a set and its embeddings by that model, set by set for each model.

    Raises:
        CCLError: A model, a set or the cache cannot be used.
    """
    for named in load_models(models, seeds, options.device):
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
                bf16=bf16,
                cache=options.cache,
                workers=options.workers,
            )
            yield named, labelled, features


def evaluate(
    options: EvaluationOptions,
    kind: str,
    measure: Callable[[SetFeatures, EvaluationSet, torch.device], Measured],
) -> list[Results]:
    """Measure every model on every set and write the results.

    Args:
        options: Models, sets, and where results go.
        kind: As :class:`Results` has it.
        measure: Takes the embeddings of a set, the set, and the device to compute on.

    Returns:
        The results, set by set for each model.

    Raises:
        CCLError: A model or a set cannot be used, or results cannot be written.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    bf16 = options.precision == "bf16"
    embedded = embedded_sets(options.model, options.seeds, options, bf16=bf16)
    results = []
    for named, labelled, features in embedded:
        device = named.model.device
        measured = measure(features, labelled, device)
        settings = {
            "clips": options.clips,
            "precision": options.precision,
            "device": device.type,
            **measured.settings,
        }
        result = Results(
            kind=kind,
            model=named.record,
            data=data_record(labelled),
            measurements=measured.measurements,
            settings=settings,
            confusion=measured.confusion,
            group=", ".join(filter(None, (options.group, measured.variant))),
        )
        logger.info("wrote %s", write_results(result, options.out))
        results.append(result)
    return results
