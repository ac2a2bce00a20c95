"""Turn a checkpoint into a model folder: ``python -m training.export CHECKPOINT --out FOLDER``.

The folder holds ``model.safetensors``, ``config.json``, ``preprocessor_config.json``,
``training_provenance.json``, ``golden.safetensors`` and a model card ``README.md``;
``CCLModel.from_pretrained(folder)`` loads it, ``ccl-hub publish`` publishes it. Exit
codes: 0 written; 2 the checkpoint cannot be used; 1 the folder cannot be written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccl_hub import CCLModel
from ccl_hub._util.files import write_atomically
from ccl_hub.config import CCLConfig, Provenance
from ccl_hub.errors import CCLError, ConfigError, OutputError
from ccl_hub.network.weights import GOLDEN_NAME, expanded
from ccl_hub.publish import write_texts
from ccl_hub.publish.model_card import Card, Figure, render
from ccl_hub.publish.upload import PROVENANCE_NAME

from .recipes.pretraining import Recipe, recipe_from_dict
from .run.checkpoints import Checkpoint, list_checkpoints, read_checkpoint
from .run.environment import software

__all__ = ["export", "find_checkpoint", "main", "trained_tensors"]

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
QUESTIONS = {
    "video_to_video": "V=>V, class (test to train)",
    "frame_to_video_clip": "F=>V, the clip that holds the frame",
    "frame_to_video_same_video": "F=>V, any clip of the same video",
    "video_to_frame_clip": "V=>F, a frame of the clip",
    "video_to_frame_same_video": "V=>F, any frame of the same video",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors become one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m training.export",
        description="Turn a training checkpoint into a folder that from_pretrained() loads.",
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a step-*.safetensors file, or a run's folder for its newest"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp16")
    parser.add_argument("--name", default="", help="name of the model (default: the recipe's)")
    parser.add_argument("--trained-on", default="", help="the training data, in one line")
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="the averaged weights (default: where the run kept them), or the last ones",
    )
    parser.add_argument(
        "--licence", default="", help="of the weights, such as apache-2.0; needed to publish them"
    )
    options = parser.parse_args(arguments)
    try:
        checkpoint = read_checkpoint(find_checkpoint(options.checkpoint))
        export(
            checkpoint,
            options.out,
            dtype=options.dtype,
            name=options.name,
            trained_on=options.trained_on,
            ema=options.ema,
            licence=options.licence,
        )
    except OutputError as error:
        return _fail(error, 1)
    except CCLError as error:
        return _fail(error, 2)
    return 0


def _fail(error: CCLError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint file that ``path`` means: itself, or the newest of a run's folder."""
    for folder in (path / "checkpoints", path):
        found = list_checkpoints(folder)
        if found:
            return found[-1]
    return path


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
        ema: Take the averaged weights; None: where the recipe has them kept, as they are the ones
            that were measured.
        licence: Of the weights, such as ``apache-2.0``; a placeholder in the card if empty.

    Returns:
        The model, as it was before rounding to ``dtype``, in eval mode.

    Raises:
        ConfigError: Averaged weights are asked for but the run kept none.
        OutputError: The folder cannot be written.
    """
    folder = expanded(folder)
    recipe = recipe_from_dict(checkpoint.state["recipe"], str(checkpoint.path))
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
    _write_records(folder, model.config, record, licence)
    return model


def trained_tensors(
    checkpoint: Checkpoint, recipe: Recipe, ema: bool | None = None
) -> tuple[dict[str, Tensor], bool]:
    """Choose the weights to judge and to export.

    Args:
        checkpoint: Of a training run.
        recipe: Its recipe.
        ema: As :func:`export` takes it.

    Returns:
        The tensors of the model, and whether they are the averaged ones.

    Raises:
        ConfigError: Averaged weights are asked for but the run kept none.
    """
    if ema is None:
        ema = recipe.ema.decay is not None
    tensors = checkpoint.group("ema" if ema else "model")
    if not tensors:
        raise ConfigError(
            f"{checkpoint.path}: holds no averaged weights because ema.decay was not set; "
            "leave out --ema."
        )
    return tensors, ema


def _write_records(
    folder: Path, config: CCLConfig, record: Mapping[str, Any], licence: str
) -> None:
    """Write what stands beside the weights and the configuration."""
    write_texts(folder, config, render(config, model_card(record, licence)))
    content = _json(record).encode()
    write_atomically(folder / PROVENANCE_NAME, lambda file: file.write(content))
    if find_spec("av") is None:  # the golden clip cannot be decoded on this machine
        (folder / GOLDEN_NAME).unlink(missing_ok=True)  # of another model, exported here before
        logger.warning("%s: written without golden values, as PyAV is missing", folder)
        return
    from ccl_hub.publish import golden

    golden.write(CCLModel.from_pretrained(folder), folder)


def provenance(checkpoint: Checkpoint, recipe: Recipe, dtype: str, ema: bool) -> dict[str, Any]:
    """Return where the weights come from, as JSON values; figures only of these weights."""
    state = checkpoint.state
    metrics = dict(state["metrics"])
    if recipe.ema.decay is not None and not ema:
        metrics.pop("trained", None)
    return {
        "recipe": _without_places(recipe.to_dict()),
        "data": state["data"],
        "steps": state["step"],
        "finished": state["progress"] >= 1,
        "training_seconds": round(state["seconds"], 1),
        "weights": {"averaged": ema, "dtype": dtype},
        "metrics": metrics,
        # Older checkpoints do not say what wrote them; a copy without git knows no commit.
        "commit": state.get("software", {}).get("commit") or software()["commit"],
        "versions": state.get("software", software())["versions"],
    }


def _without_places(recipe: dict[str, Any]) -> dict[str, Any]:
    """Keep only the last part of folders: a published record tells nothing of the machine."""
    data, validation = dict(recipe["data"]), dict(recipe["validation"])
    for key in ("pack", "folder"):
        data[key] = Path(data[key]).name
    validation["packs"] = [Path(place).name for place in validation["packs"]]
    return {**recipe, "data": data, "validation": validation}


def model_card(record: Mapping[str, Any], licence: str = "") -> Card:
    """Return what the model card tells of a training run."""
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
        f"its schedule; objective preset `{record['recipe']['objective']['preset']}`. No labels "
        f"were used. Exact settings, data hash and versions: `{PROVENANCE_NAME}`.",
        data=f"{data['videos']} videos; fingerprint of the set `{data['fingerprint']}`.",
        measured="\n".join(_retrieval_lines(record)),
        figures=tuple(figures),
    )


def _retrieval_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the retrieval tables, trained beside random init, in per cent."""
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


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
