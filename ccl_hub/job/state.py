"""The state of a batch job beside its outputs: settings, locks, manifests.

A destination belongs to one model and one way of sampling: embeddings of two kinds in one folder
would be compared by mistake. ``settings.json`` holds what must be the same in every run. Each
shard has a manifest and a lock of its own, so that machines never write to the same file.

    FOLDER/.ccl/                settings.json, manifest-0-of-1.sqlite, lock-0-of-1, tmp-0-of-1/
    feats.parquet.ccl/          the same beside a dataset, whose folder holds nothing but parts
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._util.files import absolute_path, check_place, make_folder, special_kind, write_atomically
from .._util.folder_lock import is_held, only_writer
from ..embed.writers import SUFFIXES
from ..errors import InputError, OutputError
from ..inputs.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from ..inputs.names import output_name
from ..inputs.shards import Shard, shard_of
from .manifest import Manifest, Row, read_row

__all__ = [
    "Destination",
    "JobState",
    "is_folder",
    "is_part",
    "open_state",
    "read_settings",
    "remove_file",
    "root_of",
]

logger = logging.getLogger(__name__)

STATE_NAME = ".ccl"
DATASET_SUFFIX = ".parquet"
_FAILURES = re.compile(r"failures(-\d+-of-\d+)?\.csv")
_LABEL = re.compile(
    r"(?:manifest-(\d+)-of-(\d+)\.sqlite|lock-(\d+)-of-(\d+)|"
    r"part-(\d+)-of-(\d+)-[0-9a-f]{16}\.parquet)"
)


@dataclass(frozen=True)
class Destination:
    """Where embeddings go: a folder of files, or a dataset.

    Args:
        path: Absolute.
        is_dataset: Whether it is a dataset.
    """

    path: Path
    is_dataset: bool

    @classmethod
    def at(cls, path: str | Path) -> Destination:
        """Return what a name means: a dataset if it ends in .parquet, by the path behind links.

        The state of a dataset lies beside it, and must be on the same disk.
        """
        if Path(path).suffix == DATASET_SUFFIX:
            return cls(Path(os.path.realpath(path)), True)
        return cls(Path(absolute_path(path)), False)

    @property
    def state(self) -> Path:
        """Folder of the state."""
        if self.is_dataset:
            return self.path.with_name(self.path.name + STATE_NAME)
        return self.path / STATE_NAME

    def holds(self, path: Path) -> bool:
        """Whether a file is the job's own: an output, or part of its state."""
        listed = _FAILURES.fullmatch(path.name) is not None
        in_state = self.state.name in path.parts
        if not (listed or in_state or path.suffix in (*SUFFIXES, DATASET_SUFFIX)):
            return False
        place = Path(os.path.realpath(path.parent))
        own, state = (Path(os.path.realpath(one)) for one in (self.path, self.state))
        if place.is_relative_to(state):
            return True
        return place == own if listed else place.is_relative_to(own)

    def failures(self, shard: Shard) -> Path:
        """File that lists the videos of a shard that are not done."""
        folder = self.state if self.is_dataset else self.path
        return folder / ("failures.csv" if shard.count == 1 else f"failures-{shard.label}.csv")


class JobState:
    """The state of one shard of a job, while its lock is held.

    Args:
        destination: Where the embeddings go.
        shard: Of this run.
        root: Folder from which videos are named.
        manifest: Of this shard.
    """

    def __init__(
        self, destination: Destination, shard: Shard, root: Path, manifest: Manifest
    ) -> None:
        self.destination, self.shard, self.manifest = destination, shard, manifest
        self.root = root
        self.temporary = _temporary(destination, shard)
        # Of runs with another number of shards: a video is in one manifest of each number.
        counts = {count for _, count in _manifests(destination)} - {shard.count}
        self._others = sorted(counts)

    def find(self, id: str) -> Row | None:
        """Return what is known last of a video; from another number of shards it is taken over."""
        own = newest = self.manifest.find(id)
        for count in self._others:
            path = _manifest(self.destination, Shard(shard_of(id, count), count))
            row = read_row(path, id) if path.is_file() else None
            if row is not None and (newest is None or row.finished > newest.finished):
                newest = row
        if newest is not None and newest is not own:
            self.manifest.record(newest)
        return newest


@contextmanager
def open_state(
    destination: Destination,
    shard: Shard,
    settings: dict[str, Any],
    overwrite: bool,
    choose_root: Callable[[Path | None], Path],
) -> Iterator[JobState]:
    """Claim a destination for a shard, waiting for another run of the same shard to end.

    Args:
        destination: Made if missing.
        shard: Of this run.
        settings: JSON values that must be the same in every run.
        overwrite: Remove everything that was made with other settings instead of refusing.
        choose_root: (that of earlier runs, or None) -> the folder from which videos are named,
            which must also be the same unless the earlier one is gone.

    Raises:
        OutputError: The destination cannot be written, is in use by a run with another number of
            shards, or its state is damaged; also if its list of failures could not be written.
        InputError: It holds embeddings made with other settings or whose state is gone, or is a
            dataset made by another number of shards.
    """
    make_folder(destination.path)
    state = make_folder(destination.state)
    check_place(destination.failures(shard))
    with only_writer(state, f"lock-{shard.label}", lambda: _say_waiting(destination)):
        for left in make_folder(_temporary(destination, shard)).iterdir():
            remove_file(left)  # of a run that was killed
        with only_writer(state, "lock-settings", lambda: None):
            root = _claim(destination, shard, settings, overwrite, choose_root)
        with Manifest(_manifest(destination, shard)) as manifest:
            yield JobState(destination, shard, root, manifest)


def remove_file(path: Path) -> None:
    """Remove a file unless it is gone.

    Raises:
        OutputError: It cannot be removed, or :func:`ccl_hub._util.files.special_kind` names it.
    """
    kind = special_kind(path)
    if kind is not None:
        raise OutputError(f"{path}: is {kind} in the place of an output; move it away, run again.")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR):
            return  # there can be none
        raise OutputError(
            f"{path}: cannot be removed ({error.strerror or error}); check who owns it and its "
            "folder, and run again."
        ) from error


def read_settings(destination: Destination) -> dict[str, Any] | None:
    """Return the settings of a destination, or None if it has none.

    Raises:
        OutputError: They are damaged.
    """
    path = destination.state / "settings.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: cannot be read ({error}); choose another destination, or remove the folder "
            f"{destination.state} and give overwrite=True (--overwrite) to embed every video anew."
        ) from error
    if not isinstance(found, dict):
        raise OutputError(f"{path}: holds no JSON object; remove {destination.state}.")
    return found


def root_of(settings: dict[str, Any] | None) -> Path | None:
    """Return the folder from which earlier runs named videos, or None if there were none."""
    root = (settings or {}).get("root")
    return Path(root) if isinstance(root, str) else None


def is_folder(path: Path) -> bool:
    """Whether a folder is there and can be looked at; ``Path.is_dir`` raises if it may not be."""
    return os.path.isdir(path)  # noqa: PTH112


def _say_waiting(destination: Destination) -> None:
    logger.warning(
        "%s: another run is writing the same shard here; waiting for it to end.", destination.path
    )


def _claim(
    destination: Destination,
    shard: Shard,
    settings: dict[str, Any],
    overwrite: bool,
    choose_root: Callable[[Path | None], Path],
) -> Path:
    """Write the settings, or compare them with those that are there; return the root."""
    state = destination.state
    others = set(_labels(state, "lock-*")) - {(shard.index, shard.count)}
    live = [one for one in others if is_held(state / f"lock-{Shard(*one).label}")]
    if any(count != shard.count for _, count in live):
        raise OutputError(
            f"{destination.path}: a run with another number of shards is writing here; wait for "
            "it to end, or give the same number."
        )
    found = read_settings(destination)
    earlier = root_of(found)
    anew = found is None or any(found.get(key) != settings[key] for key in settings)
    root = choose_root(None if anew and overwrite else earlier)
    settings = {**settings, "root": str(root)}
    if found is not None and earlier is not None and earlier != root and not is_folder(earlier):
        found = {**found, "root": str(root)}  # the videos have moved
    stray = _stray_output(destination) if found is None else None
    if stray is not None and not overwrite:
        raise InputError(
            f"{destination.path}: holds {stray}, but not the state of the job that made it "
            f"({destination.state}), so embeddings of two kinds could be mixed; give another "
            "destination, bring the state back, or overwrite=True (--overwrite) to remove the "
            "parts of a dataset, or to write over the outputs of these videos and leave others."
        )
    differs = "its state is gone" if stray else _difference(destination, shard, found, settings)
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
    for other in _manifests(destination):
        if other[1] != shard.count:  # what is listed there is taken over, and listed anew
            remove_file(destination.failures(Shard(*other)))
    if read_settings(destination) != settings:
        data = (json.dumps(settings, indent=2) + "\n").encode()
        folder = _temporary(destination, shard)
        write_atomically(state / "settings.json", lambda file: file.write(data), folder)
    return root


def _difference(
    destination: Destination,
    shard: Shard,
    found: dict[str, Any] | None,
    settings: dict[str, Any],
) -> str:
    """Say why a run must not go on with what is there; "" if it may."""
    if found is not None and found != settings:
        shown = "; ".join(
            f"{key} is {found.get(key)!r} there, {settings.get(key)!r} now"
            for key in sorted({*found, *settings})
            if found.get(key) != settings.get(key)
        )
        return f"holds embeddings made otherwise ({shown}), which must not be mixed"
    made = {*_manifests(destination), *_labels(destination.path, "part-*")}
    counts = {count for _, count in made} - {shard.count}
    if destination.is_dataset and counts:
        return (
            f"made by runs of {min(counts)} shards, this is one of {shard.count}, and rows of a "
            "video could be there twice; give the same number of shards"
        )
    return ""


def _stray_output(destination: Destination) -> Path | None:
    """Return an output of a job whose state is not there, if there is one."""
    if destination.is_dataset:
        return next((p for p in destination.path.glob("part-*") if is_part(p.name)), None)
    for folder, inner, names in os.walk(destination.path):
        # Other destinations have their own state.
        inner[:] = [name for name in inner if not Path(folder, name, STATE_NAME).exists()]
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122
            kind = os.path.splitext(stem)[1].partition("~")[0]  # noqa: PTH122
            if suffix in SUFFIXES and kind.lower() in (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS):
                return Path(folder, name)
    return None


def _remove_outputs(destination: Destination) -> None:
    """Remove every output that a manifest names, every part, the lists of failures, the rest."""
    if destination.is_dataset:
        for path in destination.path.glob("part-*"):
            if is_part(path.name):
                remove_file(path)
    for one in _manifests(destination):
        path = _manifest(destination, Shard(*one))
        with Manifest(path) as manifest:
            for row in () if destination.is_dataset else manifest.rows("done", "incomplete"):
                # A name that is not that of this video would be somebody else's file.
                if row.output in {output_name(row.id, suffix) for suffix in SUFFIXES}:
                    remove_file(destination.path / row.output)
        remove_file(destination.failures(Shard(*one)))
        remove_file(path)


def is_part(name: str) -> bool:
    """Whether a file of a dataset has the name of a part."""
    return name.startswith("part-") and _LABEL.fullmatch(name) is not None


def _manifest(destination: Destination, shard: Shard) -> Path:
    return destination.state / f"manifest-{shard.label}.sqlite"


def _temporary(destination: Destination, shard: Shard) -> Path:
    """Folder of files that are being written, on the same disk as the outputs."""
    return destination.state / f"tmp-{shard.label}"


def _manifests(destination: Destination) -> list[tuple[int, int]]:
    """Return the shards that have a manifest."""
    return _labels(destination.state, "manifest-*")


def _labels(folder: Path, pattern: str) -> list[tuple[int, int]]:
    """Return the shards that have left a file of a kind."""
    found = set()
    for path in folder.glob(pattern):
        match = _LABEL.fullmatch(path.name)
        if match:
            index, count = filter(None, match.groups())
            found.add((int(index), int(count)))
    return sorted(found)
