"""The state of a batch job beside its outputs: settings, locks, manifests.

A destination belongs to one model and one way of sampling: embeddings of two kinds in one folder
would be compared by mistake. ``settings.json`` holds what must be the same in every run. Each
shard has its own manifest and lock, so that machines never write to the same file. Their
names are those of :mod:`ccl_hub.job.destination`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._util.files import check_writable, make_folder, write_atomically
from .._util.folder_lock import is_held, only_writer
from ..backends.make import FLOAT32_RUNTIMES
from ..embed.writers import SUFFIXES
from ..errors import InputError, OutputError
from ..inputs.names import output_name
from ..inputs.shards import Shard, shard_of
from .destination import Destination, remove_file
from .manifest import Manifest, Row, read_row

logger = logging.getLogger(__name__)


class JobState:
    """The state of one shard of a job, while its lock is held.

    Args:
        destination: Where the embeddings go.
        shard: Shard of this run.
        root: Folder from which videos are named.
        manifest: Manifest of this shard.
    """

    def __init__(
        self, destination: Destination, shard: Shard, root: Path, manifest: Manifest
    ) -> None:
        self.destination, self.shard, self.manifest = destination, shard, manifest
        self.root = root
        self.temporary = destination.temporary(shard)
        # Runs with another number of shards: a video is in one manifest of each number.
        counts = {other.count for other in destination.shards_with("manifest")}
        self._other_counts = sorted(counts - {shard.count})

    def find(self, id: str) -> Row | None:
        """Return the latest row of a video, taken over if another number of shards wrote it."""
        here = newest = self.manifest.find(id)
        for count in self._other_counts:
            path = self.destination.manifest(Shard(shard_of(id, count), count))
            row = read_row(path, id) if path.is_file() else None
            if row is not None and (newest is None or row.finished > newest.finished):
                newest = row
        if newest is not None and newest is not here:
            self.manifest.record(newest)
        return newest


@contextmanager
def open_state(
    destination: Destination,
    shard: Shard,
    settings: dict[str, Any],
    overwrite: bool,
    choose_root: Callable[[Path | None], Path],
    waits: Callable[[], None] = lambda: None,
) -> Iterator[JobState]:
    """Claim a destination for a shard, waiting for another run of the same shard to end.

    Args:
        destination: Made if missing.
        shard: Shard of this run.
        settings: JSON values that must be the same in every run.
        overwrite: Remove everything that was made with other settings instead of refusing.
        choose_root: (root of earlier runs, or None) -> the folder from which videos are named,
            which must also be the same unless the earlier one is gone.
        waits: Called if another run has to end first.

    Raises:
        OutputError: The destination cannot be written, is in use by a run with another number of
            shards, its state is damaged, or its list of failures cannot be written.
        InputError: It holds embeddings made with other settings or whose state is gone, or is a
            dataset made by another number of shards.
    """
    make_folder(destination.path)
    state = make_folder(destination.state)
    check_writable(destination.failures(shard))

    def say_waiting() -> None:
        logger.warning(
            "%s: another run is writing the same shard here; waiting for it to end.",
            destination.path,
        )
        waits()

    with only_writer(state, destination.lock(shard).name, say_waiting):
        for path in make_folder(destination.temporary(shard)).iterdir():
            remove_file(path)  # a killed run has left it
        with only_writer(state, "lock-settings", lambda: None):
            root = _claim(destination, shard, settings, overwrite, choose_root)
        with Manifest(destination.manifest(shard)) as manifest:
            yield JobState(destination, shard, root, manifest)


def earlier_backend(destination: Destination) -> str | None:
    """Return the backend that a destination was begun with, if it is one that "auto" may choose.

    Raises:
        OutputError: The settings there are damaged.
    """
    backend = (_read_settings(destination) or {}).get("backend")
    return backend if backend in ("torch", *FLOAT32_RUNTIMES) else None


def _read_settings(destination: Destination) -> dict[str, Any] | None:
    """Return the settings of a destination, or None if it has none.

    Raises:
        OutputError: They are damaged.
    """
    path = destination.state / "settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: cannot be read ({error}); choose another destination, or remove the folder "
            f"{destination.state} and give overwrite=True (--overwrite), which embeds every video "
            "again."
        ) from error
    if not isinstance(settings, dict):
        raise OutputError(f"{path}: holds no JSON object; remove {destination.state}.")
    return settings


def _claim(
    destination: Destination,
    shard: Shard,
    settings: dict[str, Any],
    overwrite: bool,
    choose_root: Callable[[Path | None], Path],
) -> Path:
    """Write the settings, or compare them with those that are there; return the root."""
    others = destination.shards_with("lock") - {shard}
    live = [other for other in others if is_held(destination.lock(other))]
    if any(other.count != shard.count for other in live):
        raise OutputError(
            f"{destination.path}: a run with another number of shards is writing here; wait for "
            "it to end, or give the same number."
        )
    before = _read_settings(destination)
    differs_anyway = any((before or {}).get(key) != value for key, value in settings.items())
    root_before = (before or {}).get("root")
    earlier = Path(root_before) if isinstance(root_before, str) else None
    root = choose_root(None if differs_anyway and overwrite else earlier)
    settings = {**settings, "root": str(root)}
    moved = earlier is not None and earlier != root and not os.path.isdir(earlier)  # noqa: PTH112
    if before is not None and moved:
        before = {**before, "root": str(root)}
    stray = destination.stray_output() if before is None else None
    if stray is not None and not overwrite:
        raise InputError(
            f"{destination.path}: holds {stray}, but not the state of the job that made it "
            f"({destination.state}), so embeddings of two kinds could be mixed; give another "
            "destination, bring the state back, or overwrite=True (--overwrite) to remove the "
            "parts of a dataset, or to write over the outputs of these videos and leave others."
        )
    differs = "its state is gone" if stray else _difference(destination, shard, before, settings)
    if differs and not overwrite:
        raise InputError(
            f"{destination.path}: {differs}; give another destination, or overwrite=True "
            "(--overwrite) to remove or replace what is there."
        )
    if differs and live:
        raise OutputError(
            f"{destination.path}: a run is writing here, so nothing is removed; wait for it."
        )
    if differs:
        _remove_outputs(destination)
    for other in destination.shards_with("manifest"):
        if other.count != shard.count:  # what is listed there is taken over, and listed again
            remove_file(destination.failures(other))
    if _read_settings(destination) != settings:
        text = json.dumps(settings, indent=2) + "\n"
        path, folder = destination.state / "settings.json", destination.temporary(shard)
        write_atomically(path, text, folder)
    return root


def _difference(
    destination: Destination, shard: Shard, before: dict[str, Any] | None, settings: dict[str, Any]
) -> str:
    """Return why a run must not go on with what is there; "" if it may."""
    if before is not None and before != settings:
        shown = "; ".join(
            f"{key} is {before.get(key)!r} there, {settings.get(key)!r} now"
            for key in sorted({*before, *settings})
            if before.get(key) != settings.get(key)
        )
        return f"holds embeddings made otherwise ({shown}), which must not be mixed"
    made_by = destination.shards_with("manifest") | destination.shards_with("part")
    counts = {other.count for other in made_by} - {shard.count}
    if destination.is_dataset and counts:
        return (
            f"made by runs of {min(counts)} shards, this is one of {shard.count}, and rows of a "
            "video could be there twice; give the same number of shards"
        )
    return ""


def _remove_outputs(destination: Destination) -> None:
    """Remove every output that a manifest names, every part, the lists of failures, the rest."""
    if destination.is_dataset:
        for path in list(destination.parts()):
            remove_file(path)
    for shard in destination.shards_with("manifest"):
        path = destination.manifest(shard)
        with Manifest(path) as manifest:
            for row in () if destination.is_dataset else manifest.rows("done", "incomplete"):
                # A file of another name than this video's would be somebody else's.
                if row.output in {output_name(row.id, suffix) for suffix in SUFFIXES}:
                    remove_file(destination.path / row.output)
        remove_file(destination.failures(shard))
        remove_file(path)
