"""Figures as the Hugging Face Hub reads them: ``model-index`` and ``.eval_results``.

``model-index`` is part of a model card's front matter; ``.eval_results/*.yaml`` feed the
leaderboards of data sets that are registered on the Hub, so only data sets with a Hub id have one.
Formats: https://huggingface.co/docs/hub/model-cards and https://huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import ConfigError

from ..evaluation.results import Results, Summary, summarise

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
    found: dict[str, HubData] = {}
    for text in texts:
        name, _, place = text.partition("=")
        matched = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:#([\w.%-]+))?", place)
        if not name or matched is None:
            raise ConfigError(
                f"--hub-data {text!r}; allowed is NAME=ORG/DATASET or NAME=ORG/DATASET#TASK."
            )
        if name in found:
            raise ConfigError(f"--hub-data {name} is given twice; give each data set once.")
        found[name] = HubData(matched[1], matched[2] or "default")
    return found


def slug(text: str) -> str:
    """Return ``text`` as a file name: letters, digits and ``._+-``, never empty or a dot name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.") or "unnamed"


def model_index(
    label: str, results: Sequence[Results], data: Mapping[str, HubData] | None = None
) -> dict[str, Any]:
    """Return the ``model-index`` of one model, as plain values to dump as YAML or JSON.

    It takes the model's results outside experiments such as ablations. Data sets without a Hub id
    in ``data`` keep their own name. Values are per cent, the mean over seeds; spread and number of
    seeds stand in each metric's ``name``.
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for one in _of_model(label, results):
        task = "feature-extraction" if one.column[0] in RETRIEVAL else "video-classification"
        name = TASK_NAMES.get(one.column[0], f"Nearest-neighbour retrieval, {one.column[0]}")
        place = data[one.data].id if data and one.data in data else slug(one.data)
        described = {
            "task": {"type": task, "name": name},
            "dataset": {"type": place, "name": one.data, "split": "test"},
            "metrics": [],
        }
        entry = entries.setdefault((one.column[0], one.data), described)
        value = round(100 * one.mean, 2)
        metric = {"type": _metric_type(one), "value": value, "name": _describe(one)}
        entry["metrics"].append(metric)
    return {"model-index": [{"name": label, "results": list(entries.values())}]}


def eval_results(
    label: str, results: Sequence[Results], data: Mapping[str, HubData]
) -> dict[str, list[dict[str, Any]]]:
    """Return the ``.eval_results`` files of one model by name, for the data sets in ``data``.

    They hold first choices alone: top-1 or an F-measure, 512-d, not centred.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for one in _of_model(label, results):
        task, space, level, match, metric, centred = one.column
        headline = metric == "top-1" or metric.endswith("F1")
        if one.data not in data or centred or space not in ("", "512") or not headline:
            continue
        place = data[one.data]
        parts = (one.data, task.replace("=>", "2"), metric, level, match)
        name = "_".join(slug(part).lower() for part in parts if part)
        dataset = {"id": place.id, "task_id": place.task}
        value = round(100 * one.mean, 2)
        files[f"{name}.yaml"] = [{"dataset": dataset, "value": value, "notes": _describe(one)}]
    return files


def metadata_files(results: Sequence[Results], data: Mapping[str, HubData]) -> dict[str, Any]:
    """Return both formats, with plain values, one folder per model that is no reference row.

    Names are ``MODEL/model_index.yml`` and ``MODEL/.eval_results/*.yaml``; ``data`` are the data
    sets that have a Hub id.

    Raises:
        ConfigError: Two models differ only in letters that a folder's name cannot have.
    """
    labels = dict.fromkeys(
        one.label for one in summarise(results) if not one.reference and not one.group
    )
    files: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for label in labels:
        owner = owners.setdefault(slug(label), label)
        if owner != label:
            raise ConfigError(f"{owner!r} and {label!r} would share a folder; rename one.")
        files[f"{slug(label)}/model_index.yml"] = model_index(label, results, data)
        for name, entries in eval_results(label, results, data).items():
            files[f"{slug(label)}/.eval_results/{name}"] = entries
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


def _of_model(label: str, results: Sequence[Results]) -> list[Summary]:
    return [one for one in summarise(results) if one.label == label and not one.group]


def _metric_type(one: Summary) -> str:
    """Names of the Hub's metrics where it has them; recall at k is how the field calls top-k."""
    task, metric = one.column[0], one.column[4]
    if metric.endswith("F1"):
        return "f1"
    k = metric.removeprefix("top-")
    if task in RETRIEVAL:
        return f"recall_at_{k}"
    return "accuracy" if k == "1" else f"top_{k}_accuracy"


def _describe(one: Summary) -> str:
    """Everything that decides the figure, in one line."""
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
