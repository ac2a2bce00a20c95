"""What an evaluation measured, as JSON files that tables and the report are made of.

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
from typing import Any

import numpy as np

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.config import parse_dataclass
from ccl_hub.errors import CCLError, TrainingError

from ..run.environment import software

logger = logging.getLogger(__name__)

RESULTS_VERSION = 1
KINDS = ("retrieval", "linear-probe", "finetune")
TASKS = ("F=>V", "V=>F", "F=>F", "V=>V", "linear", "finetune")


@dataclass(frozen=True)
class ModelRecord:
    """The model that was measured.

    Args:
        label: Row of the table, such as ``ccl_r18_mini``, ``random-init`` or ``MSE``; the seeds
            of one row share it.
        source: What was asked for: a name, Hub id, or the last part of a folder's path.
        seed: Of initial weights or pretraining; None where there is one fixed set of weights.
        weights_sha256: Of the weights file, or "" for weights that were never a file.
        reference: A row that is there to compare with (random weights, other methods).
        description: One line: how trained, with what budget.
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


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Args:
        task: One of ``F=>V``, ``V=>F``, ``F=>F``, ``V=>V`` (retrieval), ``linear``, ``finetune``.
        metric: ``top-1``, ``top-5``, ..., ``macro-F1``, ``micro-F1``.
        value: In [0, 1].
        space: ``512`` (the representation) or ``128`` (the space of the loss); "" otherwise.
        level: ``clip`` or ``video``; what one vector, or one prediction, stands for.
        match: ``exact clip``, ``same video`` or ``class``: what counts as found.
        centred: Each split's mean was subtracted first.
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
            raise TrainingError(f"task {self.task!r}; allowed are {', '.join(TASKS)}.")
        if not 0 <= self.value <= 1:  # NaN too
            raise TrainingError(
                f"{self.task} {self.metric} is {self.value}; allowed are shares from 0 to 1."
            )

    @property
    def column(self) -> tuple[str, str, str, str, str, bool]:
        """Everything but the figure: measurements of equal columns can be compared."""
        return (self.task, self.space, self.level, self.match, self.metric, self.centred)


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
        kind: ``retrieval``, ``linear-probe`` or ``finetune``.
        model: What was measured.
        data: On what.
        measurements: The figures.
        settings: Everything that decided them: clips per video, precision, probe and so on.
        confusion: Of a classifier.
        curves: Name -> one value per epoch or step, such as the loss of a fine-tuning.
        group: Rows of one experiment, such as an ablation; "" for a single evaluation.
        software: Commit and versions; filled in.
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
            raise TrainingError(f"kind {self.kind!r}; allowed are {', '.join(KINDS)}.")
        if not self.measurements:
            raise TrainingError(
                f"{self.model.label} on {self.data.name}: nothing was measured; "
                "results need at least one figure."
            )

    @property
    def file_name(self) -> str:
        """Name of the file: kind, group, row, seed and data set; another run replaces it."""
        seed = "" if self.model.seed is None else f"seed{self.model.seed}"
        parts = (self.kind, self.group, self.model.label, seed, self.data.name)
        slugs = [re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-.") for part in parts if part]
        return "--".join(slugs) + ".json"


@dataclass(frozen=True)
class Summary:
    """One cell of a table: a row's figure in one column, over its seeds.

    Args:
        group: Of the results.
        label: Row.
        data: Name of the data set.
        column: As :attr:`Measurement.column`.
        mean: In [0, 1].
        std: Standard deviation over seeds (n - 1), or None for one seed.
        seeds: Number of seeds.
        reference: The row is there to compare with.
    """

    group: str
    label: str
    data: str
    column: tuple[str, str, str, str, str, bool]
    mean: float
    std: float | None
    seeds: int
    reference: bool

    def text(self) -> str:
        """Return per cent, with one decimal, such as ``34.4`` or ``34.4 ± 1.2``."""
        spread = "" if self.std is None else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def write_results(results: Results, folder: Path) -> Path:
    """Write one JSON file into ``folder``, which is made if missing, and return its path.

    It replaces results of the same names and seed. Where other results have the place, whose names
    differ only in letters that a file's name cannot have, a hash sets the name apart.

    Raises:
        OutputError: It cannot be written.
    """
    values = {"schema": RESULTS_VERSION, **dataclasses.asdict(results)}
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    path = _place_for(results, make_folder(Path(folder)))
    write_atomically(path, text)
    return path


def _place_for(results: Results, folder: Path) -> Path:
    path = folder / results.file_name
    if not path.is_file():
        return path
    try:
        there = _names(_read_file(path))
    except CCLError as error:
        logger.warning("%s It is replaced.", error)
        return path
    if there == _names(results):
        return path
    digest = hashlib.sha256(json.dumps(_names(results)).encode()).hexdigest()[:8]
    return path.with_stem(f"{path.stem}--{digest}")


def _names(results: Results) -> tuple[str, str, str]:
    return (results.group, results.model.label, results.data.name)


def read_results(places: Iterable[str | Path]) -> list[Results]:
    """Read results.

    Args:
        places: Files, or folders of which every ``.json`` file is read, subfolders too.

    Returns:
        The results in order of places and names.

    Raises:
        TrainingError: A place is missing, or a file is no results file of this version.
    """
    found = []
    for place in map(Path, places):
        if not place.exists():
            raise TrainingError(f"{place}: no such results; give a results file or its folder.")
        files = sorted(place.rglob("*.json")) if place.is_dir() else [place]
        if not files:
            raise TrainingError(
                f"{place}: holds no results; run an evaluation with --out {place}."
            )
        found += [_read_file(path) for path in files]
    return found


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
        TrainingError: Two results give the same figure for the same seed, or a row was measured
            on different data under one name.
    """
    cells: dict[tuple[Any, ...], dict[int | None, float]] = {}
    references: dict[tuple[str, str], bool] = {}
    prints: dict[str, str] = {}
    for result in results:
        name, label = result.data.name, result.model.label
        if prints.setdefault(name, result.data.fingerprint) != result.data.fingerprint:
            raise TrainingError(
                f"{name}: results come from two different data sets of that name; "
                "measure all rows on one of them, or rename one."
            )
        references[result.group, label] = result.model.reference
        for one in result.measurements:
            seeds = cells.setdefault((result.group, label, name, one.column), {})
            if result.model.seed in seeds:
                raise TrainingError(
                    f"{label} on {name}: {one.task} {one.metric} is there twice for seed "
                    f"{result.model.seed}; give each results file once."
                )
            seeds[result.model.seed] = one.value
    summaries = []
    for (group, label, name, column), seeds in cells.items():
        values = np.array(list(seeds.values()))
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        mean = math.fsum(values) / len(values)
        reference = references[group, label]
        summaries.append(Summary(group, label, name, column, mean, std, len(values), reference))
    return summaries
