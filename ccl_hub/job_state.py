"""The state of a batch job beside its outputs: settings, locks, manifests.

A destination belongs to one model and one way of sampling: embeddings of two kinds in one folder
would be compared by mistake. ``settings.json`` holds what must be the same in every run. Each
shard has a manifest and a lock of its own, so that machines never write to the same file.

    FOLDER/.ccl/                settings.json, manifest-0-of-1.sqlite, lock-0-of-1
    feats.parquet.ccl/          the same beside a dataset, whose folder holds nothing but parts
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, OutputError
from .files import make_folder, write_atomically
from .folder_lock import is_held, only_writer
from .inputs import shard_of
from .manifest import Manifest, Row, read_row

__all__ = ["Destination", "JobState", "Shard", "open_state", "read_settings"]

logger = logging.getLogger(__name__)

STATE_NAME = ".ccl"
DATASET_SUFFIX = ".parquet"
_LABEL = re.compile(r"(?:manifest|lock)-(\d+)-of-(\d+)(?:\.sqlite)?")


@dataclass(frozen=True)
class Shard:
    """Which share of the videos one run takes: number ``index`` of ``count``, from 0."""

    index: int = 0
    count: int = 1

    @property
    def label(self) -> str:
        """As it is part of file names."""
        return f"{self.index}-of-{self.count}"

    def takes(self, id: str) -> bool:
        """Whether a video is in this share."""
        return shard_of(id, self.count) == self.index


@dataclass(frozen=True)
class Destination:
    """Where embeddings go: a folder of files, or a dataset if the name ends in .parquet."""

    path: Path

    @property
    def is_dataset(self) -> bool:
        """Whether it is a dataset."""
        return self.path.suffix == DATASET_SUFFIX

    @property
    def state(self) -> Path:
        """Folder of the state."""
        if self.is_dataset:
            return self.path.with_name(self.path.name + STATE_NAME)
        return self.path / STATE_NAME


class JobState:
    """The state of one shard of a job, while its lock is held.

    Args:
        destination: Where the embeddings go.
        shard: Of this run.
        manifest: Of this shard.
    """

    def __init__(self, destination: Destination, shard: Shard, manifest: Manifest) -> None:
        self.destination, self.shard, self.manifest = destination, shard, manifest
        # Of runs with another number of shards: a video is in one manifest of each number.
        counts = {count for _, count in _labels(destination.state)} - {shard.count}
        self._others = sorted(counts)

    def find(self, id: str) -> Row | None:
        """Return what is known of a video."""
        row = self.manifest.find(id)
        for count in () if row is not None else self._others:
            label = Shard(shard_of(id, count), count).label
            path = self.destination.state / f"manifest-{label}.sqlite"
            if path.is_file() and (row := read_row(path, id)) is not None:
                return row
        return row


@contextmanager
def open_state(
    destination: Destination, shard: Shard, settings: dict[str, Any], overwrite: bool
) -> Iterator[JobState]:
    """Claim a destination for a shard, waiting for another run of the same shard to end.

    Args:
        destination: Made if missing.
        shard: Of this run.
        settings: JSON values that must be the same in every run.
        overwrite: Remove everything that was made with other settings instead of refusing.

    Raises:
        OutputError: The destination cannot be written, is in use by a run with another number of
            shards, or its state is damaged.
        InputError: It holds embeddings made with other settings, or is a dataset made by another
            number of shards.
    """
    make_folder(destination.path)
    state = make_folder(destination.state)
    with only_writer(state, f"lock-{shard.label}", lambda: _say_waiting(destination)):
        with only_writer(state, "lock-settings", lambda: None):
            _claim(destination, shard, settings, overwrite)
        with Manifest(state / f"manifest-{shard.label}.sqlite") as manifest:
            yield JobState(destination, shard, manifest)


def read_settings(destination: Destination) -> dict[str, Any] | None:
    """Return the settings of a destination, or None if it has none.

    Raises:
        OutputError: They are damaged.
    """
    path = destination.state / "settings.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: cannot be read ({error}); choose another destination, or remove the folder "
            f"{destination.state} to embed every video anew."
        ) from error
    if not isinstance(found, dict):
        raise OutputError(f"{path}: holds no JSON object; remove {destination.state}.")
    return found


def _say_waiting(destination: Destination) -> None:
    logger.warning(
        "%s: another run is writing the same shard here; waiting for it to end.", destination.path
    )


def _claim(
    destination: Destination, shard: Shard, settings: dict[str, Any], overwrite: bool
) -> None:
    """Write the settings, or compare them with those that are there."""
    state = destination.state
    others = [label for label in _labels(state, "lock-*") if label != (shard.index, shard.count)]
    live = [label for label in others if is_held(state / f"lock-{Shard(*label).label}")]
    if any(count != shard.count for _, count in live):
        raise OutputError(
            f"{destination.path}: a run with another number of shards is writing here; wait for "
            "it to end, or give the same number."
        )
    found = read_settings(destination)
    if found is not None and found != settings:
        if not overwrite:
            shown = "; ".join(
                f"{key} is {found.get(key)!r} there, {settings.get(key)!r} now"
                for key in sorted({*found, *settings})
                if found.get(key) != settings.get(key)
            )
            raise InputError(
                f"{destination.path}: holds embeddings made otherwise ({shown}), which must not "
                "be mixed; give another destination, or --overwrite to remove what is there."
            )
        if live:
            raise OutputError(
                f"{destination.path}: a run is writing here, so nothing is removed; wait for it."
            )
        _remove_outputs(destination)
        found = None
    counts = {count for _, count in _labels(state)} - {shard.count}
    if destination.is_dataset and counts:
        raise InputError(
            f"{destination.path}: made by runs of {counts.pop()} shards, this is one of "
            f"{shard.count}; rows of a video could be there twice. Give the same number of shards."
        )
    if found != settings:
        data = (json.dumps(settings, indent=2) + "\n").encode()
        write_atomically(state / "settings.json", lambda file: file.write(data))


def _remove_outputs(destination: Destination) -> None:
    """Remove every output that a manifest names, and the manifests."""
    for index, count in _labels(destination.state):
        path = destination.state / f"manifest-{Shard(index, count).label}.sqlite"
        with Manifest(path) as manifest:
            for part in manifest.parts():
                (destination.path / part.name).unlink(missing_ok=True)
            if not destination.is_dataset:
                for row in manifest.rows("done", "incomplete"):
                    (destination.path / row.output).unlink(missing_ok=True)
        path.unlink()


def _labels(state: Path, pattern: str = "manifest-*.sqlite") -> list[tuple[int, int]]:
    """Return the shards that have left a file of a kind."""
    found = []
    for path in state.glob(pattern):
        match = _LABEL.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2])))
    return sorted(found)
