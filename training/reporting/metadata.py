"""Figures as the Hugging Face Hub reads them: ``model-index`` and ``.eval_results``.

``model-index`` is part of a model card's front matter; ``.eval_results/*.yaml`` feed the
leaderboards of data sets that are registered on the Hub, so only data sets with a Hub id have one.
Formats: https://huggingface.co/docs/hub/model-cards and https://huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import ConfigError

from ..evaluation.results import Column, Results, Summary, slug, summarise

logger = logging.getLogger(__name__)

RETRIEVAL = ("F=>V", "V=>F", "F=>F", "V=>V")
TASK_NAMES = {"linear": "Video classification, linear probe", "finetune": "Video classification"}


@dataclass(frozen=True)
class HubData:
    """A data set that is registered on the Hub as a benchmark.

    Args:
        id: Such as ``org/name``.
        task: A task of its ``eval.yaml``.
    """

    id: str
    task: str = "default"


def hub_data(texts: Sequence[str]) -> dict[str, HubData]:
    """Read ``NAME=ORG/DATASET`` or ``NAME=ORG/DATASET#TASK``.

    Args:
        texts: As given on the command line; NAME is a data set's name in the results.

    Returns:
        Name -> where it is on the Hub.

    Raises:
        ConfigError: A text has another form, or a name is there twice.
    """
    sets: dict[str, HubData] = {}
    for text in texts:
        name, _, hub = text.partition("=")
        matched = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:#([\w.%-]+))?", hub)
        if not name or matched is None:
            raise ConfigError(
                f"--hub-data is {text!r}; allowed: NAME=ORG/DATASET or NAME=ORG/DATASET#TASK."
            )
        if name in sets:
            raise ConfigError(f"--hub-data {name} is given twice; give each data set once.")
        sets[name] = HubData(matched[1], matched[2] or "default")
    return sets


def model_index(
    label: str, summaries: Iterable[Summary], data: Mapping[str, HubData]
) -> dict[str, Any]:
    """Return the ``model-index`` of one model, as plain values to dump as YAML or JSON.

    Data sets without a Hub id in ``data`` keep their own name. Values are per cent, the mean over
    seeds; spread and number of seeds stand in each metric's ``name``.
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for one in summaries:
        task = one.column.task
        kind = "feature-extraction" if task in RETRIEVAL else "video-classification"
        name = TASK_NAMES.get(task, f"Nearest-neighbour retrieval, {task}")
        dataset = data[one.data].id if one.data in data else _file_name(one.data)
        described = {
            "task": {"type": kind, "name": name},
            "dataset": {"type": dataset, "name": one.data, "split": "test"},
            "metrics": [],
        }
        entry = entries.setdefault((task, one.data), described)
        value = round(100 * one.mean, 2)
        metric = {"type": _metric_type(one.column), "value": value, "name": _describe(one)}
        entry["metrics"].append(metric)
    return {"model-index": [{"name": label, "results": list(entries.values())}]}


def eval_results(
    summaries: Iterable[Summary], data: Mapping[str, HubData]
) -> dict[str, list[dict[str, Any]]]:
    """Return the ``.eval_results`` files of one model by name, for the data sets in ``data``.

    They hold first choices alone: top-1 or an F-measure, 512-d, not centred.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for one in summaries:
        task, space, level, match, metric, centred = one.column
        headline = metric == "top-1" or metric.endswith("F1")
        if one.data not in data or centred or space not in ("", "512") or not headline:
            continue
        hub = data[one.data]
        words = (one.data, task.replace("=>", "2"), metric, level, match)
        name = "_".join(_file_name(word).lower() for word in words if word)
        dataset = {"id": hub.id, "task_id": hub.task}
        value = round(100 * one.mean, 2)
        files[f"{name}.yaml"] = [{"dataset": dataset, "value": value, "notes": _describe(one)}]
    return files


def metadata_files(results: Sequence[Results], data: Mapping[str, HubData]) -> dict[str, Any]:
    """Return both formats, as plain values, with a folder for each model.

    Reference rows are left out, and so are results of experiments such as ablations. Names are
    ``MODEL/model_index.yml`` and ``MODEL/.eval_results/*.yaml``; ``data`` are the data sets that
    have a Hub id.

    Raises:
        ConfigError: Two models differ only in letters that a folder's name cannot have.
    """
    models: dict[str, list[Summary]] = defaultdict(list)
    for one in summarise(results):
        if not one.reference and not one.group:
            models[one.label].append(one)
    files: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for label, summaries in models.items():
        folder = _file_name(label)
        owner = owners.setdefault(folder, label)
        if owner != label:
            raise ConfigError(f"{owner!r} and {label!r} would share a folder; rename one.")
        files[f"{folder}/model_index.yml"] = model_index(label, summaries, data)
        for name, entries in eval_results(summaries, data).items():
            files[f"{folder}/.eval_results/{name}"] = entries
    return files


def write_metadata(files: Mapping[str, Any], folder: Path) -> None:
    """Write what :func:`metadata_files` returns; files of an earlier report are named in the log.

    Raises:
        OutputError: A file cannot be written.
    """
    for name, values in files.items():
        make_folder((folder / name).parent)
        content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_atomically(folder / name, content)
    for path in sorted(folder.rglob("*.y*ml")):
        if path.relative_to(folder).as_posix() not in files:
            logger.warning("%s: of an earlier report; delete it if it is not meant to stay", path)


def _file_name(text: str) -> str:
    return slug(text) or "unnamed"


def _metric_type(column: Column) -> str:
    """Names of the Hub's metrics where it has them; the field calls top-k "recall at k"."""
    if column.metric.endswith("F1"):
        return "f1"
    k = column.metric.removeprefix("top-")
    if column.task in RETRIEVAL:
        return f"recall_at_{k}"
    return "accuracy" if k == "1" else f"top_{k}_accuracy"


def _describe(one: Summary) -> str:
    """Say in one line everything that decides the figure."""
    task, space, level, match, metric, centred = one.column
    words = [
        f"{task} {metric}, per cent",
        f"{space}-d" if space else "",
        f"by {level}" if level else "",
        match,
        "centred" if centred else "",
        f"mean of {one.seeds} seeds" if one.seeds > 1 else "",
        "" if one.std is None else f"standard deviation {100 * one.std:.2f}",
    ]
    return ", ".join(word for word in words if word)
