"""The rows of a results table: models by name, and the reference rows beside them.

A model is given as ``PLACE`` or ``label=PLACE``. A place is a name of ``ccl_hub.list_models()``, a
model folder, a Hub id ``org/name``, the folder or a checkpoint of a training run, or one of:

``random-init``
    No training: He initialisation throughout, as in the paper's random row.
``random-init-identity``
    The same, but conv6 passes frames on unchanged. Videos then start in the space of their frames,
    so in F=>V and V=>F this is the row to beat.
``imagenet``
    torchvision's supervised ResNet-18 inflated into the trunk; see :func:`imagenet_model`. A file
    elsewhere is given as ``imagenet=FILE``.
``efficientnet_lite0``
    The image encoder that ``ccl_lite0`` starts from, untouched; :func:`references.lite0_model`.
``thumbnail``, ``thumbnail-difference``
    24 x 24 grey pixels: the mean frame, or the mean difference of frames. Who does not beat them
    has learned nothing that a user could want.
``kinetics-supervised=PLACE``
    The same network fine-tuned with labels on Kinetics-400, by ``python -m training.finetune``.

Random rows are loaded once for each seed. They, and the others without a PLACE, take sampling and
frame size of the first model that has its own, so that the rows of one table see the same pixels.
``LABEL=random-init=PLACE`` takes the architecture and the frames of the model at PLACE.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ccl_hub import CCLModel
from ccl_hub._util.files import file_sha256
from ccl_hub.config import CCLConfig, parse_dataclass
from ccl_hub.errors import ConfigError, ModelNotFoundError, TrainingError
from ccl_hub.network.devices import resolve_device
from ccl_hub.network.model_files import HUB_ID, expanded
from ccl_hub.registry import REGISTRY

from ..recipes.pretraining import Recipe
from ..run.checkpoints import NAME, list_checkpoints, read_checkpoint
from ..run.trained import find_checkpoint, trained_tensors
from .imagenet import find_imagenet_file, imagenet_model
from .references import LITE0, lite0_model, thumbnail_model
from .results import ModelRecord

RANDOM_ROWS = ("random-init", "random-init-identity")
IMAGENET, SUPERVISED = "imagenet", "kinetics-supervised"
THUMBNAILS = ("thumbnail", "thumbnail-difference")
BORROWING_ROWS = (*RANDOM_ROWS, IMAGENET, LITE0, *THUMBNAILS)
"""Rows that take sampling and frame size of another."""
REFERENCE_ROWS = (*BORROWING_ROWS, SUPERVISED)


@dataclass(frozen=True)
class NamedModel:
    """A model in eval mode, and what results say of it."""

    model: CCLModel
    record: ModelRecord


@dataclass(frozen=True)
class _Row:
    """One parsed ``--model``: its label, which reference row it is (or ""), its PLACE (or "")."""

    label: str
    reference: str
    source: str


def load_models(
    texts: Sequence[str],
    seeds: Sequence[int] = (0,),
    device: str | torch.device | None = None,
) -> Iterator[NamedModel]:
    """Load the rows of a table one after the other, random ones once for each seed.

    Args:
        texts: ``PLACE`` or ``label=PLACE``, as ``--model`` takes them; see the module docstring. A
            PLACE that exists on this machine is taken as it is, ``=`` and all.
        seeds: Initial weights of the random rows; the first is that of the projection of
            ``imagenet`` too. The caller's generator is untouched.
        device: As :meth:`CCLModel.from_pretrained` takes it.

    Yields:
        The models in eval mode, in order, with their records; averaged weights of runs that kept
        an average. Wrong names are found before the first is loaded.

    Raises:
        ConfigError: Two rows have one label, or a configuration or recipe cannot be read.
        ModelNotFoundError: There is no such model; the valid names are listed. Nothing is
            downloaded for ``imagenet``: the message says how to get the file.
        WeightsError: The weights are damaged or do not fit.
        TrainingError: A checkpoint is damaged.

    Example:
        >>> [named.record.seed for named in load_models(["random-init"], seeds=(0, 1))]
        [0, 1]
    """
    rows = [_parse(text) for text in texts]
    labels = [row.label for row in rows]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(
                f"two models have the label {label!r}; name rows apart with LABEL=PLACE."
            )
    like: CCLConfig | None = None
    trained = [row for row in rows if row.reference not in BORROWING_ROWS]
    if trained and len(trained) < len(rows):
        like = _load(trained[0], 0, None).model.config
    device = resolve_device(device)
    for row in rows:
        for seed in seeds if row.reference in RANDOM_ROWS else seeds[:1]:
            named = _load(row, seed, like)
            named.model.to(device).eval()
            yield named


def _parse(text: str) -> _Row:
    """Take ``text`` apart and refuse at once what cannot be a model."""
    before, equals, after = text.partition("=")
    if text in REFERENCE_ROWS:
        row = _Row(text, text, "")
    elif not equals or "/" in before or expanded(text).exists():
        row = _Row(_default_label(text), "", text)
    elif before in (IMAGENET, SUPERVISED):
        row = _Row(before, before, after)
    elif after in REFERENCE_ROWS:
        row = _Row(before, after, "")
    elif after.startswith(tuple(f"{name}=" for name in REFERENCE_ROWS)):
        reference, _, source = after.partition("=")
        row = _Row(before, reference, source)
    else:
        row = _Row(before, "", after)
    _check(row, text)
    return row


def _check(row: _Row, text: str) -> None:
    source = row.source
    if not row.label or not (row.reference or source):
        raise ModelNotFoundError(f"{text!r} names no model; give PLACE or LABEL=PLACE.")
    if row.reference == SUPERVISED and not source:
        raise ModelNotFoundError(
            f"{SUPERVISED} needs a model trained with labels, which is not shipped: fine-tune on "
            "Kinetics-400 with 'python -m training.finetune --model random-init --data "
            f"packed/k400 --out RUN' and give {SUPERVISED}=RUN."
        )
    if row.reference == IMAGENET:
        find_imagenet_file(source)
    elif source and not (
        source in REGISTRY
        or expanded(source).exists()
        or HUB_ID.fullmatch(source.partition("@")[0])
    ):
        raise ModelNotFoundError(
            f"{source!r} is neither a known name, nor a folder or checkpoint here, nor a Hub id "
            f"'org/name'. Known names: {', '.join((*REGISTRY, *REFERENCE_ROWS))}."
        )


def _default_label(source: str) -> str:
    """The name itself, the last component of a folder or Hub id, or the run of a checkpoint."""
    if source in REGISTRY:
        return source
    path = expanded(source)
    if path.exists():
        folder = (path.parent if NAME.fullmatch(path.name) else path).resolve()
        return folder.parent.name if folder.name == "checkpoints" else folder.name
    return source.partition("@")[0].rpartition("/")[2]


def _load(row: _Row, seed: int, like: CCLConfig | None) -> NamedModel:
    """Load one row on the CPU; random rows and ``imagenet`` have the shape and frames of ``like``.

    Without it they have those of the paper.
    """
    if row.reference in RANDOM_ROWS:
        if row.source:
            like = _load(_Row("", "", row.source), 0, None).model.config
        return _random(row, seed, like)
    if row.reference == IMAGENET:
        path = find_imagenet_file(row.source)
        model, description = imagenet_model(path, seed=seed, like=like)
        record = ModelRecord(row.label, path.name, None, model.weights_sha256, True, description)
        return NamedModel(model, record)
    if row.reference in (LITE0, *THUMBNAILS):
        base = like or CCLConfig()
        if row.reference == LITE0:
            model, description = lite0_model(base)
        else:
            model, description = thumbnail_model(base, row.reference != THUMBNAILS[0])
        sha256 = model.weights_sha256
        record = ModelRecord(row.label, row.reference, None, sha256, True, description)
        return NamedModel(model, record)
    return _from_run(row) if _is_run(row.source) else _from_folder_or_hub(row)


def _is_run(source: str) -> bool:
    path = expanded(source)
    if source in REGISTRY or (path / "config.json").is_file():
        return False
    return path.is_file() or bool(list_checkpoints(path) or list_checkpoints(path / "checkpoints"))


def _random(row: _Row, seed: int, like: CCLConfig | None) -> NamedModel:
    config = CCLConfig() if like is None else CCLConfig(like.architecture, like.preprocessing)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CCLModel(config)
    description = "no training; He initialisation throughout"
    if row.reference == RANDOM_ROWS[1]:
        model.head.start_as_identity()
        description = "no training; He initialisation, but conv6 starts as identity over time"
    model.name = row.reference
    return NamedModel(model, ModelRecord(row.label, row.reference, seed, "", True, description))


def _from_run(row: _Row) -> NamedModel:
    path = find_checkpoint(expanded(row.source))
    checkpoint = read_checkpoint(path)
    if "objective" not in _table(checkpoint.state, "recipe"):
        raise TrainingError(
            f"{path}: this checkpoint is not of training.pretrain. A fine-tuning holds a model "
            "once it is finished; continue it with --resume auto."
        )
    recipe = parse_dataclass(Recipe, checkpoint.state["recipe"], str(path))
    tensors, averaged = trained_tensors(checkpoint, recipe)
    model = CCLModel(recipe.model_config)
    model.load_state_dict(tensors)
    sha256 = file_sha256(path)
    model.name, model.weights_sha256 = row.label, sha256
    details = {
        "recipe": checkpoint.state["recipe"],
        "steps": checkpoint.state["step"],
        "weights": {"averaged": averaged},
    }
    description = _description(checkpoint.state["data"]["name"], details)
    source = f"{_default_label(row.source)}/{path.name}"
    record = ModelRecord(row.label, source, recipe.seed, sha256, bool(row.reference), description)
    return NamedModel(model, record)


def _from_folder_or_hub(row: _Row) -> NamedModel:
    model = CCLModel.from_pretrained(row.source)
    trained = model.config.provenance
    local = row.source not in REGISTRY and expanded(row.source).exists()
    # Folders exported from runs that differ in their seed only are the seeds of one row.
    seed = _table(trained.details, "recipe").get("seed") if local else None
    record = ModelRecord(
        row.label,
        _default_label(row.source) if local else row.source,
        seed if isinstance(seed, int) else None,
        model.weights_sha256,
        bool(row.reference),
        _description(trained.trained_on, trained.details),
    )
    return NamedModel(model, record)


def _description(trained_on: str, details: dict[str, Any]) -> str:
    """Say in one line how a model was trained, as far as it is recorded."""
    clauses = [f"trained on {trained_on}"] if trained_on else []
    recipe = _table(details, "recipe")
    if "steps" in details and recipe:
        batch, objective = _table(recipe, "optim").get("batch"), _table(recipe, "objective")
        clauses.append(f"{details['steps']} steps of {batch} videos")
        clauses.append(f"{objective.get('kind')}, preset {objective.get('preset')}")
        terms = objective.get("terms")
        if isinstance(terms, list) and objective.get("kind") != "mse":
            clauses[-1] += f", terms {' + '.join(map(str, terms))}"
    if _table(details, "weights").get("averaged"):
        clauses.append("averaged weights")
    return "; ".join(clauses)


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a nested table; a record written by others may hold anything."""
    table = values.get(key)
    return table if isinstance(table, dict) else {}
