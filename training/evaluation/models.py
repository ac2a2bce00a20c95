"""The rows of a results table: models by name, and the reference rows beside them.

A model is given as ``PLACE`` or ``label=PLACE``. A place is a name of ``ccl_hub.list_models()``, a
model folder, a Hub id ``org/name``, the folder or a checkpoint of a training run, or one of:

``random-init``
    No training: He initialisation throughout, as the paper's random row.
``random-init-identity``
    The same, but conv6 passes frames on unchanged. Videos then start in the space of their frames,
    so in F=>V and V=>F this is the row to beat.
``imagenet``
    torchvision's supervised ResNet-18 inflated into the trunk; see :func:`imagenet_model`. A file
    elsewhere is given as ``imagenet=FILE``.
``kinetics-supervised=PLACE``
    The same network fine-tuned with labels on Kinetics-400, by ``python -m training.finetune``.

Random rows are loaded once for each seed. They, and ``imagenet``, take sampling and frame size of
the first model that has its own, so that the rows of one table see the same pixels. In
``LABEL=random-init=PLACE`` it is the model at PLACE whose shape and frames are taken.
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
from ccl_hub.network.weights import HUB_ID, expanded
from ccl_hub.registry import REGISTRY

from ..recipes.pretraining import Recipe
from ..run.checkpoints import NAME, list_checkpoints, read_checkpoint
from ..run.trained import find_checkpoint, trained_tensors
from .imagenet import find_imagenet_file, imagenet_model
from .results import ModelRecord

RANDOM_ROWS = ("random-init", "random-init-identity")
IMAGENET, SUPERVISED = "imagenet", "kinetics-supervised"
REFERENCE_ROWS = (*RANDOM_ROWS, IMAGENET, SUPERVISED)


@dataclass(frozen=True)
class NamedModel:
    """A model in eval mode, and how it is called in results."""

    model: CCLModel
    record: ModelRecord


@dataclass(frozen=True)
class _Wanted:
    """One parsed ``--model``: its row, the reference row it is (or ""), and its place (or "")."""

    label: str
    reference: str
    place: str


def load_models(
    texts: Sequence[str],
    seeds: Sequence[int] = (0,),
    device: str | torch.device | None = None,
) -> Iterator[NamedModel]:
    """Load the rows of a table one after the other, random ones once for each seed.

    Args:
        texts: As ``--model`` takes them.
        seeds: Of the random rows.
        device: As :meth:`CCLModel.from_pretrained` takes it.

    Yields:
        The models, in order. What can be wrong with names is found before the first.

    Raises:
        ConfigError: Two rows have one label.
        ModelNotFoundError: As :func:`load_named`.
        WeightsError: As :func:`load_named`.
    """
    wanted = [_parse(text) for text in texts]
    labels = [one.label for one in wanted]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(
                f"two models have the label {label!r}; name rows apart with LABEL=PLACE."
            )
    like: CCLConfig | None = None
    own = [one for one in wanted if one.reference not in (*RANDOM_ROWS, IMAGENET)]
    if own and len(own) < len(wanted):
        like = _load(own[0], 0, torch.device("cpu"), None).model.config
    place = resolve_device(device)
    for one in wanted:
        for seed in seeds if one.reference in RANDOM_ROWS else seeds[:1]:
            yield _load(one, seed, place, like)


def load_named(
    text: str,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    like: CCLConfig | None = None,
) -> NamedModel:
    """Load one row of a table.

    Args:
        text: ``PLACE`` or ``label=PLACE``; see the module docstring. A place that exists on this
            machine is taken as it is, ``=`` and all.
        seed: Initial weights of random rows; ``imagenet`` has a random projection too. The
            caller's generator is untouched.
        device: As :meth:`CCLModel.from_pretrained` takes it.
        like: Whose architecture and preprocessing random rows and ``imagenet`` take; the paper's
            if None.

    Returns:
        The model in eval mode, and its record: averaged weights of runs that kept an average.

    Raises:
        ModelNotFoundError: No such place; the valid names are listed. Nothing is downloaded for
            ``imagenet``: the message says how to get the file.
        WeightsError: The weights are damaged or do not fit.
        TrainingError: A checkpoint is damaged.
        ConfigError: A configuration or recipe cannot be read.

    Example:
        >>> load_named("random-init", seed=1).record.label
        'random-init'
    """
    return _load(_parse(text), seed, resolve_device(device), like)


def _parse(text: str) -> _Wanted:
    """Take ``text`` apart and say at once what cannot be a model."""
    before, equals, after = text.partition("=")
    if text in REFERENCE_ROWS:
        wanted = _Wanted(text, text, "")
    elif not equals or "/" in before or expanded(text).exists():
        wanted = _Wanted(_default_label(text), "", text)
    elif before in (IMAGENET, SUPERVISED):
        wanted = _Wanted(before, before, after)
    elif after in REFERENCE_ROWS:
        wanted = _Wanted(before, after, "")
    elif after.startswith(tuple(f"{row}=" for row in REFERENCE_ROWS)):
        reference, _, place = after.partition("=")
        wanted = _Wanted(before, reference, place)
    else:
        wanted = _Wanted(before, "", after)
    _check(wanted, text)
    return wanted


def _check(wanted: _Wanted, text: str) -> None:
    place = wanted.place
    if not wanted.label or (not wanted.reference and not place):
        raise ModelNotFoundError(f"{text!r} names no model; give PLACE or LABEL=PLACE.")
    if wanted.reference == SUPERVISED and not place:
        raise ModelNotFoundError(
            f"{SUPERVISED} needs a model trained with labels, which is not shipped: fine-tune on "
            "Kinetics-400 with 'python -m training.finetune --model random-init --data "
            f"packed/k400 --out RUN' and give {SUPERVISED}=RUN."
        )
    if wanted.reference == IMAGENET:
        find_imagenet_file(place)
    elif place and not (
        place in REGISTRY or expanded(place).exists() or HUB_ID.fullmatch(place.partition("@")[0])
    ):
        raise ModelNotFoundError(
            f"{place!r} is neither a known name, nor a folder or checkpoint here, nor a Hub id "
            f"'org/name'. Known names: {', '.join((*REGISTRY, *REFERENCE_ROWS))}."
        )


def _default_label(place: str) -> str:
    """The name itself, the last part of a folder or Hub id, or the run of a checkpoint."""
    if place in REGISTRY:
        return place
    path = expanded(place)
    if path.exists():
        if NAME.fullmatch(path.name):
            path = path.parent
        parts = path.resolve()
        return parts.parent.name if parts.name == "checkpoints" else parts.name
    return place.partition("@")[0].rpartition("/")[2]


def _load(wanted: _Wanted, seed: int, device: torch.device, like: CCLConfig | None) -> NamedModel:
    if wanted.reference in RANDOM_ROWS:
        if wanted.place:
            like = _load(_Wanted("", "", wanted.place), 0, torch.device("cpu"), None).model.config
        named = _random(wanted, seed, like)
    elif wanted.reference == IMAGENET:
        path = find_imagenet_file(wanted.place)
        model, description = imagenet_model(path, seed=seed, like=like)
        record = ModelRecord(
            wanted.label, path.name, None, model.weights_sha256, True, description
        )
        named = NamedModel(model, record)
    elif _is_run(wanted.place):
        named = _from_run(wanted)
    else:
        named = _from_folder_or_hub(wanted)
    return NamedModel(named.model.to(device).eval(), named.record)


def _is_run(place: str) -> bool:
    path = expanded(place)
    if place in REGISTRY or (path / "config.json").is_file():
        return False
    return path.is_file() or bool(list_checkpoints(path) or list_checkpoints(path / "checkpoints"))


def _random(wanted: _Wanted, seed: int, like: CCLConfig | None) -> NamedModel:
    config = CCLConfig() if like is None else CCLConfig(like.architecture, like.preprocessing)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CCLModel(config)
    description = "no training; He initialisation throughout"
    if wanted.reference == RANDOM_ROWS[1]:
        model.head.start_as_identity()
        description = "no training; He initialisation, but conv6 starts as identity over time"
    model.name = wanted.reference
    record = ModelRecord(wanted.label, wanted.reference, seed, "", True, description)
    return NamedModel(model, record)


def _from_run(wanted: _Wanted) -> NamedModel:
    path = find_checkpoint(expanded(wanted.place))
    checkpoint = read_checkpoint(path)
    if "objective" not in _table(checkpoint.state, "recipe"):
        raise TrainingError(
            f"{path}: not of training.pretrain. A fine-tuning holds a model once it is finished; "
            "continue it with --resume auto."
        )
    recipe = parse_dataclass(Recipe, checkpoint.state["recipe"], str(path))
    tensors, averaged = trained_tensors(checkpoint, recipe)
    model = CCLModel(recipe.model_config)
    model.load_state_dict(tensors)
    sha256 = file_sha256(path)
    model.name, model.weights_sha256 = wanted.label, sha256
    details = {
        "recipe": checkpoint.state["recipe"],
        "steps": checkpoint.state["step"],
        "weights": {"averaged": averaged},
    }
    description = _description(checkpoint.state["data"]["name"], details)
    source = f"{_default_label(wanted.place)}/{path.name}"
    record = ModelRecord(
        wanted.label, source, recipe.seed, sha256, bool(wanted.reference), description
    )
    return NamedModel(model, record)


def _from_folder_or_hub(wanted: _Wanted) -> NamedModel:
    model = CCLModel.from_pretrained(wanted.place)
    trained = model.config.provenance
    local = wanted.place not in REGISTRY and expanded(wanted.place).exists()
    # Folders exported from runs that differ in their seed only are the seeds of one row.
    seed = _table(trained.details, "recipe").get("seed") if local else None
    source = _default_label(wanted.place) if local else wanted.place
    record = ModelRecord(
        wanted.label,
        source,
        seed if isinstance(seed, int) else None,
        model.weights_sha256,
        bool(wanted.reference),
        _description(trained.trained_on, trained.details),
    )
    return NamedModel(model, record)


def _description(trained_on: str, details: dict[str, Any]) -> str:
    """One line on how a model was trained, as far as it is recorded."""
    parts = [f"trained on {trained_on}"] if trained_on else []
    recipe = _table(details, "recipe")
    if "steps" in details and recipe:
        batch, objective = _table(recipe, "optim").get("batch"), _table(recipe, "objective")
        parts.append(f"{details['steps']} steps of {batch} videos")
        parts.append(f"{objective.get('kind')}, preset {objective.get('preset')}")
        terms = objective.get("terms")
        if isinstance(terms, list) and objective.get("kind") != "mse":
            parts[-1] += f", terms {' + '.join(map(str, terms))}"
    if _table(details, "weights").get("averaged"):
        parts.append("averaged weights")
    return "; ".join(parts)


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a nested table; a record written by others may hold anything."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}
