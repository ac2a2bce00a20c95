"""A checkpoint becomes a model folder: weights, settings, provenance, card, golden values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ccl_hub import CCLModel
from ccl_hub._util.files import write_atomically
from ccl_hub.config import Provenance, parse_dataclass
from ccl_hub.network.model_files import expanded
from ccl_hub.publish import golden, write_texts
from ccl_hub.publish.model_card import Card, Figure, render
from ccl_hub.publish.upload import PROVENANCE_NAME

from ..recipes.pretraining import Recipe
from .checkpoints import Checkpoint
from .environment import software
from .trained import trained_tensors

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
QUESTIONS = {
    "video_to_video": "V=>V, class (test to train)",
    "frame_to_video_clip": "F=>V, the clip that holds the frame",
    "frame_to_video_same_video": "F=>V, any clip of the same video",
    "video_to_frame_clip": "V=>F, a frame of the clip",
    "video_to_frame_same_video": "V=>F, any frame of the same video",
}


def export(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    dtype: str = "fp16",
    name: str = "",
    trained_on: str = "",
    ema: bool | None = None,
    licence: str = "",
) -> CCLModel:
    """Write the model folder.

    Args:
        checkpoint: Of a training run.
        folder: Made if missing; files of the same names are replaced.
        dtype: ``"fp16"`` or ``"fp32"`` weights.
        name: Name of the model; the recipe's if empty.
        trained_on: The training data in one line; the name of the packed set if empty.
        ema: Take the averaged weights; None takes them where the recipe keeps an average, as that
            is what was measured.
        licence: Of the weights, such as ``apache-2.0``; a placeholder in the card if empty.

    Returns:
        The model before its weights were rounded to ``dtype``, in eval mode.

    Raises:
        ConfigError: Averaged weights are asked for, but the run kept none.
        OutputError: The folder cannot be written.
    """
    folder = expanded(folder)
    recipe = parse_dataclass(Recipe, checkpoint.state["recipe"], str(checkpoint.path))
    tensors, ema = trained_tensors(checkpoint, recipe, ema)
    record = provenance(checkpoint, recipe, dtype, ema)
    source = Provenance(
        name=name or recipe.name,
        trained_on=trained_on or checkpoint.state["data"]["name"],
        details=record,
    )
    model = CCLModel(dataclasses.replace(recipe.model_config, provenance=source))
    model.load_state_dict(tensors)
    model.eval()
    model.save_pretrained(folder, DTYPES[dtype])
    write_texts(folder, model.config, render(model.config, model_card(record, licence)))
    write_atomically(folder / PROVENANCE_NAME, json.dumps(record, indent=2) + "\n")
    golden.write(CCLModel.from_pretrained(folder), folder)
    return model


def provenance(checkpoint: Checkpoint, recipe: Recipe, dtype: str, ema: bool) -> dict[str, Any]:
    """Return where the weights come from, as JSON values, with the figures of these weights."""
    state = checkpoint.state
    metrics = dict(state["metrics"])
    if recipe.ema.decay is not None and not ema:
        metrics.pop("trained", None)
    return {
        "recipe": _without_paths(recipe.to_dict()),
        "origin": state.get("origin", {}),
        "data": state["data"],
        "steps": state["step"],
        "finished": state["progress"] >= 1,
        "training_seconds": round(state["seconds"], 1),
        "weights": {"averaged": ema, "dtype": dtype},
        "metrics": metrics,
        # Older checkpoints leave out what wrote them, and a copy without git has no commit.
        "commit": state.get("software", {}).get("commit") or software()["commit"],
        "versions": state.get("software", software())["versions"],
    }


def _without_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """Keep the names of folders alone, so that a published record hides the machine's paths."""
    data, validation = dict(recipe["data"]), dict(recipe["validation"])
    teacher = dict(recipe["teacher"])
    for key in ("pack", "folder"):
        data[key] = Path(data[key]).name
    validation["packs"] = [Path(pack).name for pack in validation["packs"]]
    teacher["onnx"], teacher["cache"] = Path(teacher["onnx"]).name, ""
    start = Path(recipe["start"]).name
    return {**recipe, "start": start, "data": data, "validation": validation, "teacher": teacher}


def model_card(record: Mapping[str, Any], licence: str = "") -> Card:
    """Return the part of the model card that is about the training."""
    end = "to the end of" if record["finished"] else "stopped before the end of"
    trained = record["metrics"].get("trained", {})
    figures = [
        Figure(name, f"{title}, {space}, top-{k}", 100 * spaces[space][question][k])
        for name, spaces in trained.items()
        for space in spaces
        for question, title in QUESTIONS.items()
        for k in ("1", "5", "10")
    ]
    data = record["data"]
    return Card(
        licence=licence,
        training=f"{record['steps']} steps of {record['recipe']['optim']['batch']} videos, {end} "
        f"its schedule; objective preset `{record['recipe']['objective']['preset']}`. "
        f"{_labels(record)} Exact settings, data hash and versions: `{PROVENANCE_NAME}`.",
        data=f"{data['videos']} videos; fingerprint of the set `{data['fingerprint']}`.",
        measured="\n".join(_retrieval_lines(record)),
        figures=tuple(figures),
    )


def _labels(record: Mapping[str, Any]) -> str:
    """Say whether labels had a part in it, by way of other weights."""
    start, teacher = record["recipe"]["start"], record["recipe"]["teacher"]
    others = {"start": start, "teacher": teacher["network"] or teacher["onnx"]}
    used = [f"its {part} is `{name}`" for part, name in others.items() if name]
    if not used:
        return "No labels were used."
    return f"The clips have no labels, but {' and '.join(used)}, trained with labels or not."


def _retrieval_lines(record: Mapping[str, Any]) -> list[str]:
    """Return tables of the trained and the untrained network's retrieval, in per cent."""
    metrics = record["metrics"]
    trained, untrained = metrics.get("trained", {}), metrics.get("random_init", {})
    if not trained:
        return ["Retrieval was not measured with these weights."]
    clips = record["recipe"]["validation"]["clips"]
    lines = [
        f"Retrieval with {clips} clips of each video, by the weights before they were rounded for "
        "this file; top-1 / top-5 / top-10 in per cent.",
        "",
    ]
    for name, spaces in trained.items():
        lines += [f"### {name}", "", "| question | space | trained | random init |"]
        lines += ["|---|---|---|---|"]
        for space, questions in spaces.items():
            for question, title in QUESTIONS.items():
                before = untrained.get(name, {}).get(space, {}).get(question)
                now = questions[question]
                lines.append(f"| {title} | {space} | {_per_cent(now)} | {_per_cent(before)} |")
        lines.append("")
    return lines


def _per_cent(accuracies: Mapping[str, float] | None) -> str:
    if accuracies is None:
        return "not measured"
    return " / ".join(f"{100 * accuracies[k]:.1f}" for k in ("1", "5", "10"))
