"""The parts of a campaign that are carried to another machine."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ccl_hub._util.files import write_atomically
from ccl_hub.errors import TrainingError
from tools.campaign.file_parts import SUMS_NAME, join_parts, split_file
from training.run.checkpoints import list_checkpoints

logger = logging.getLogger(__name__)

RUN = "runs/long"
PARTS, DONE, STATE_NAME = "parts", "done", "state.tar.gz"
# Whole files under ``parts``, and the folders that they come from.
FOLDERS = {"checkpoint": f"{RUN}/checkpoints", "weights": "model"}
LARGE = {"packs", PARTS, "cache", "tensorboard"}  # folders that state leaves out


def newest_checkpoint(out: Path) -> Path | None:
    """Return the newest checkpoint of the long run."""
    checkpoints = list_checkpoints(out / RUN / "checkpoints")
    return checkpoints[-1] if checkpoints else None


def write_parts(out: Path) -> None:
    """Write what is worth carrying: state, the newest checkpoint of the long run, weights.

    Args:
        out: Folder of the campaign.

    Raises:
        OutputError: It cannot be written.
    """
    state = out / STATE_NAME
    files = sorted(_state_files(out), key=lambda name: name.parts[0] == DONE)  # marks last

    def write(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name in files:
                archive.add(out / name, arcname=str(name), recursive=False)

    write_atomically(state, write)
    whole = {"state": state, "checkpoint": newest_checkpoint(out)}
    whole["weights"] = out / "model" / "model.safetensors"
    for name, path in whole.items():
        if path is not None and path.is_file():
            parts = split_file(path, out / PARTS / name)
            size = path.stat().st_size / 1e6
            logger.info("%s: %.1f MB in %d parts", out / PARTS / name, size, len(parts))
    state.unlink()


def _state_files(out: Path) -> Iterator[Path]:
    """Yield the small files, from ``out``."""
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        hidden = any(part.startswith(".") for part in name.parts)
        large = path.suffix == ".safetensors" or name.name == STATE_NAME
        if path.is_file() and not hidden and not large and not LARGE & {*name.parts[:-1]}:
            if not _is_unmeasured(path):
                yield name


def _is_unmeasured(path: Path) -> bool:
    """Whether a file marks a training of the sweep that is still to be measured.

    Its weights are left behind, so on another machine it must be trained again.
    """
    row = path.name.removesuffix("-pretrain.json")
    return row != path.name and not (path.parent / f"{row}-probe.json").is_file()


def restore(out: Path) -> None:
    """Join what :func:`write_parts` wrote, in a folder in which no stage has run yet.

    Args:
        out: Folder of the campaign.

    Raises:
        TrainingError: A part is missing or damaged.
        OutputError: It cannot be written.
    """
    if (out / DONE).exists() or not (out / PARTS / "state" / SUMS_NAME).is_file():
        return
    for name, folder in FOLDERS.items():
        if (out / PARTS / name).is_dir():
            join_parts(out / PARTS / name, out / folder)
    state = join_parts(out / PARTS / "state", out)  # last, as it holds the marks of what is done
    try:
        with tarfile.open(state) as archive:
            archive.extractall(out, filter="data")
    except tarfile.TarError as error:
        raise TrainingError(
            f"{state}: cannot be unpacked ({error}); bring the parts again."
        ) from error
    state.unlink()
    logger.info("%s: restored from its parts", out)
