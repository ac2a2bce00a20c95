"""What an evaluation measured, as the JSON files that tables and the report are made of.

Each evaluation command writes one file per model and data set. A :class:`Measurement` is one
figure with everything that says which column of which table it belongs to; :func:`summarise` puts
the seeds of a row together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.config import parse_dataclass
from ccl_hub.errors import CCLError, TrainingError

from ..run.environment import software

logger = logging.getLogger(__name__)

RESULTS_VERSION = 1
KINDS = ("retrieval", "linear-probe", "finetune", "recall")
TASKS = ("F=>V", "V=>F", "F=>F", "V=>V", "linear", "finetune", "edited")


@dataclass(frozen=True)
class ModelRecord:
    """The model that was measured.

    Args:
        label: Row of the table, such as ``ccl_r18_mini``, ``random-init`` or ``MSE``; the seeds
            of one row share it.
        source: What was asked for: a name, a Hub id, or the last component of a folder's path.
        seed: Of initial weights or pretraining; None where there is one fixed set of weights.
        weights_sha256: Of the weights file, or "" for weights that were never a file.
        reference: The row serves for comparison (random weights, other methods).
        description: One line that says how it was trained, and with what budget.
    """

    label: str
    source: str = ""
    seed: int | None = None
    weights_sha256: str = ""
    reference: bool = False
    description: str = ""


@dataclass(frozen=True)
class DataRecord:
    """The labelled set that was measured on.

    Args:
        name: Such as ``weizmann`` or ``ucf101 split 1``; unique among the sets of one report.
        fingerprint: Of videos and frames, as the store gives it.
        train_videos: Videos of the train split.
        test_videos: Videos of the test split.
        classes: Number of classes.
        note: One line to print under tables, such as how the split was made.
    """

    name: str
    fingerprint: str = ""
    train_videos: int = 0
    test_videos: int = 0
    classes: int = 0
    note: str = ""


class Column(NamedTuple):
    """What a figure is of; figures of equal columns can be compared.

    Args:
        task: One of ``F=>V``, ``V=>F``, ``F=>F``, ``V=>V`` (retrieval), ``linear``, ``finetune``,
            ``edited`` (an edited frame finds its video).
        space: ``512`` (the representation) or ``128`` (the space of the loss); "" otherwise.
        level: ``clip``, ``video`` or ``frame``: what one vector, or one prediction, stands for.
        match: ``exact clip``, ``same video`` or ``class``: what counts as found; for ``edited``,
            how the frame was edited.
        metric: ``top-1``, ``top-5``, ..., ``macro-F1``, ``micro-F1``.
        centred: Each split's mean was subtracted first.
    """

    task: str
    space: str
    level: str
    match: str
    metric: str
    centred: bool = False


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Args:
        task: This, ``metric``, ``space``, ``level``, ``match`` and ``centred`` are those of its
            :class:`Column`.
        value: In [0, 1].
        queries: How many items the figure is a share of.
    """

    task: str
    metric: str
    value: float
    space: str = ""
    level: str = ""
    match: str = ""
    centred: bool = False
    queries: int = 0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise TrainingError(f"task is {self.task!r}; allowed: {', '.join(TASKS)}.")
        if not 0 <= self.value <= 1:  # NaN too
            raise TrainingError(
                f"{self.task} {self.metric} is {self.value}; allowed: shares from 0 to 1."
            )

    @property
    def column(self) -> Column:
        """What the figure is of."""
        return Column(self.task, self.space, self.level, self.match, self.metric, self.centred)


@dataclass(frozen=True)
class Confusion:
    """Counts of a classifier on the test split.

    Args:
        classes: Names, in order.
        counts: ``counts[i][j]`` test videos of class i were taken for class j.
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Results:
    """What one evaluation of one model on one data set gave; one JSON file.

    Args:
        kind: ``retrieval``, ``linear-probe``, ``finetune`` or ``recall``.
        model: What was measured.
        data: On what.
        measurements: The figures.
        settings: Everything that decided them: clips per video, precision, probe and so on.
        confusion: Of a classifier.
        curves: Name -> one value per epoch or step, such as the loss of a fine-tuning.
        group: The experiment it belongs to, such as an ablation; "" for a single evaluation.
        software: Commit and versions, which are filled in.
    """

    kind: str
    model: ModelRecord
    data: DataRecord
    measurements: tuple[Measurement, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    confusion: Confusion | None = None
    curves: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    software: dict[str, Any] = field(default_factory=software)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainingError(f"kind is {self.kind!r}; allowed: {', '.join(KINDS)}.")
        if not self.measurements:
            raise TrainingError(
                f"{self.model.label} on {self.data.name}: nothing was measured; "
                "results need at least one figure."
            )

    @property
    def file_name(self) -> str:
        """Name of the file: kind, group, row, seed and data set; another run replaces it."""
        seed = "" if self.model.seed is None else f"seed{self.model.seed}"
        words = (self.kind, self.group, self.model.label, seed, self.data.name)
        return "--".join(slug(word) for word in words if word) + ".json"


@dataclass(frozen=True)
class Summary:
    """One cell of a table: a row's figure in one column, over its seeds.

    Args:
        group: Of the results.
        label: Of the row.
        data: Name of the data set.
        column: What the figure is of.
        mean: In [0, 1].
        std: Standard deviation over seeds (n - 1), or None for one seed.
        seeds: Number of seeds.
        reference: The row serves for comparison.
    """

    group: str
    label: str
    data: str
    column: Column
    mean: float
    std: float | None
    seeds: int
    reference: bool

    def text(self) -> str:
        """Return per cent, with one decimal, such as ``34.4`` or ``34.4 ± 1.2``."""
        spread = "" if self.std is None else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def slug(text: str) -> str:
    """Return ``text`` with ``-`` for what a file name had better not hold; "" if nothing stays."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")


def write_results(results: Results, folder: Path) -> Path:
    """Write one JSON file into ``folder``, which is made if missing, and return its path.

    It replaces results of the same names and seed. Where a file of that name holds results whose
    names differ in letters that a file name cannot have, a hash sets the new file apart.

    Raises:
        OutputError: It cannot be written.
    """
    values = {"schema": RESULTS_VERSION, **dataclasses.asdict(results)}
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    path = _path_for(results, make_folder(Path(folder)))
    write_atomically(path, text)
    return path


def _path_for(results: Results, folder: Path) -> Path:
    path = folder / results.file_name
    if not path.is_file():
        return path
    try:
        earlier = _read_file(path)
    except CCLError as error:
        logger.warning("%s It is replaced.", error)
        return path
    if _names(earlier) == _names(results):
        return path
    digest = hashlib.sha256(json.dumps(_names(results)).encode()).hexdigest()[:8]
    return path.with_stem(f"{path.stem}--{digest}")


def _names(results: Results) -> tuple[str, str, str]:
    return (results.group, results.model.label, results.data.name)


def read_results(paths: Iterable[str | Path]) -> list[Results]:
    """Read results.

    Args:
        paths: Files, or folders of which every ``.json`` file is read, subfolders too.

    Returns:
        The results in the order of paths, those of a folder by name.

    Raises:
        TrainingError: A path does not exist, or a file does not hold results of this version.
    """
    results = []
    for path in map(Path, paths):
        if not path.exists():
            raise TrainingError(f"{path}: no such results; give a results file or its folder.")
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not files:
            raise TrainingError(f"{path}: holds no results; run an evaluation with --out {path}.")
        results += [_read_file(file) for file in files]
    return results


def _read_file(path: Path) -> Results:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TrainingError(f"{path}: not a results file ({error}); measure again.") from error
    version = values.pop("schema", None) if isinstance(values, dict) else None
    if version != RESULTS_VERSION:
        raise TrainingError(
            f"{path}: results of version {version!r}; this program reads {RESULTS_VERSION}. "
            "Measure again, or move the file away."
        )
    return parse_dataclass(Results, values, str(path))


def summarise(results: Sequence[Results]) -> list[Summary]:
    """Put the seeds of each row together.

    Args:
        results: Of any kinds, rows and data sets.

    Returns:
        One :class:`Summary` per group, row, data set and column, in order of first appearance.

    Raises:
        TrainingError: Two results give the same figure for the same seed, or rows were measured
            on different data of one name.
    """
    cells: dict[tuple[str, str, str, Column], dict[int | None, float]] = {}
    references: dict[tuple[str, str], bool] = {}
    fingerprints: dict[str, str] = {}
    for result in results:
        name, label = result.data.name, result.model.label
        if fingerprints.setdefault(name, result.data.fingerprint) != result.data.fingerprint:
            raise TrainingError(
                f"{name}: results come from two different data sets of that name; "
                "measure all rows on one of them, or rename one."
            )
        references[result.group, label] = result.model.reference
        for one in result.measurements:
            by_seed = cells.setdefault((result.group, label, name, one.column), {})
            if result.model.seed in by_seed:
                raise TrainingError(
                    f"{label} on {name}: {one.task} {one.metric} is there twice for seed "
                    f"{result.model.seed}; give each results file once."
                )
            by_seed[result.model.seed] = one.value
    summaries = []
    for (group, label, name, column), by_seed in cells.items():
        values = np.array(list(by_seed.values()))
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        mean = math.fsum(values) / len(values)
        reference = references[group, label]
        summaries.append(Summary(group, label, name, column, mean, std, len(values), reference))
    return summaries
