"""Checkpoints of a training run: one safetensors file, whole or absent, with its own hash.

A checkpoint is a file ``step-00001234.safetensors``. Tensors (weights, optimizer, EMA, random
generators) are its payload; everything else is JSON in its header, beside the sha256 of both.
Pickle is never used. A file is written by temporary file, fsync and rename, so a kill at any
moment leaves the earlier checkpoints and at most one temporary file, which the next start removes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ccl_hub._util.files import make_folder, write_atomically
from ccl_hub.errors import TrainingError

logger = logging.getLogger(__name__)

FORMAT = "ccl-training-checkpoint"
VERSION = "1"
NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        tensors: By name: ``model/...``, ``ema/...``, ``optimizer/...``, ``random/...``.
        state: JSON values: position, recipe, data fingerprint, metrics.
        path: The file.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors named ``prefix/...`` without that prefix."""
        start = f"{prefix}/"
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after ``step`` optimizer steps."""
    return folder / f"step-{step:08d}.safetensors"


def list_checkpoints(folder: Path, after_step: int = -1) -> list[Path]:
    """Return the checkpoints in ``folder``, if it exists, of later steps, oldest first."""
    paths = folder.iterdir() if folder.is_dir() else ()
    steps = sorted((int(match[1]), p) for p in paths if (match := NAME.fullmatch(p.name)))
    return [path for step, path in steps if step > after_step]


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file; its folder is made if missing.
        tensors: Any dtype and device.
        state: JSON values.

    Raises:
        OutputError: The file cannot be written; earlier checkpoints are untouched.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(dict(state), sort_keys=True)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "state": text,
        "sha256": content_sha256(plain, text),
    }
    make_folder(path.parent)
    write_atomically(path, serialize(plain, header))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        path: A file made by :func:`write_checkpoint`.

    Raises:
        TrainingError: The file is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such checkpoint; give a step-*.safetensors file.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise TrainingError(
            f"{path}: is damaged or not a checkpoint ({error}); "
            "remove it, and --resume auto takes the one before."
        ) from error
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise TrainingError(
            f"{path}: its header says format {header.get('format')!r} version "
            f"{header.get('version')!r}, expected {FORMAT!r} version {VERSION!r}; "
            "give a checkpoint of a training run."
        )
    text = header.get("state", "")
    seen = content_sha256(tensors, text)
    if seen != header.get("sha256"):
        raise TrainingError(
            f"{path}: is damaged, as its sha256 is {seen} and should be {header.get('sha256')}; "
            "remove it, and --resume auto takes the one before."
        )
    return Checkpoint(tensors, json.loads(text), path)


def load_newest(folder: Path) -> Checkpoint | None:
    """Read the newest whole checkpoint; damaged ones are logged and passed over.

    Args:
        folder: Where checkpoints are kept.

    Returns:
        None if the folder holds no checkpoint at all.

    Raises:
        TrainingError: There are checkpoints and every one is damaged.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return read_checkpoint(path)
        except TrainingError as error:
            logger.warning("%s", error)
    if paths:
        raise TrainingError(
            f"{folder}: all {len(paths)} checkpoints are damaged; "
            "remove the folder to start over, or restore a copy."
        )
    return None


def prune(folder: Path, keep: int, step: int) -> None:
    """Delete old checkpoints.

    Args:
        folder: Where checkpoints are kept.
        keep: How many stay, at least 1, counted from ``step`` downwards.
        step: Of the checkpoint just written. Later ones stay and are left out of the count: they
            are damaged, as the run would have gone on from a whole one.
    """
    later = list_checkpoints(folder, after_step=step)
    until_now = [path for path in list_checkpoints(folder) if path not in later]
    for path in until_now[: -max(keep, 1)]:
        path.unlink(missing_ok=True)


def optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Take an optimizer's state apart by parameter name.

    Args:
        model: Its parameters are optimised, and their names become keys.
        optimizer: Any that keeps tensors and numbers for each parameter, as SGD and AdamW do.

    Returns:
        Tensors named ``<parameter>/<key>``, and the other values as ``{parameter: {key: value}}``.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            elif value is not None:
                values.setdefault(name, {})[key] = value
    return tensors, values


def restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    """Put back what :func:`optimizer_state` took apart, bit for bit.

    Raises:
        TrainingError: A tensor belongs to no parameter of ``model``.
    """
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise TrainingError(
                f"the checkpoint holds optimizer state for {name!r}, which this model lacks; "
                "it belongs to another architecture."
            )
        parameter = parameters[name]
        moved = tensor.clone() if tensor.ndim == 0 else tensor.to(parameter.device, copy=True)
        if tensor.shape == parameter.shape:
            moved = moved.contiguous(memory_format=_format_of(parameter))
        optimizer.state[parameter][key] = moved
    for name, entries in values.items():
        optimizer.state[parameters[name]].update(entries)


def _format_of(parameter: Tensor) -> torch.memory_format:
    """Return a parameter's memory format, on which the order of arithmetic may depend."""
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def content_sha256(tensors: Mapping[str, Tensor], text: str) -> str:
    """Hash a text and each tensor's name, dtype, shape and bytes, in order of names; as hex."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
