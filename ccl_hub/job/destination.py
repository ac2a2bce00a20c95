"""Where a batch job puts its results, and the names of all files that it makes there.

FOLDER/a/x.mp4.npz          an output of each video; failures.csv
FOLDER/.ccl/                settings.json, manifest-0-of-1.sqlite, lock-0-of-1, tmp-0-of-1/
feats.parquet/              part-0-of-1-0123456789abcdef.parquet and nothing but such parts
feats.parquet.ccl/          the same state, and failures.csv
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .._util.files import absolute_path, special_kind
from ..embed.writers import SUFFIXES
from ..errors import OutputError
from ..inputs.extensions import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from ..inputs.names import STATE_FOLDER
from ..inputs.shards import Shard

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
            return self.path.with_name(self.path.name + STATE_FOLDER)
        return self.path / STATE_FOLDER

    def holds(self, path: Path) -> bool:
        """Whether a file is one of the job itself: an output, or a file of its state."""
        lists_failures = _FAILURES.fullmatch(path.name) is not None
        in_state = self.state.name in path.parts
        if not (lists_failures or in_state or path.suffix in (*SUFFIXES, DATASET_SUFFIX)):
            return False
        folders = (path.parent, self.path, self.state)
        folder, outputs, state = (Path(os.path.realpath(folder)) for folder in folders)
        if folder.is_relative_to(state):
            return True
        return folder == outputs if lists_failures else folder.is_relative_to(outputs)

    def failures(self, shard: Shard) -> Path:
        """File that lists the videos of a shard that are not done."""
        folder = self.state if self.is_dataset else self.path
        return folder / ("failures.csv" if shard.count == 1 else f"failures-{shard.label}.csv")

    def manifest(self, shard: Shard) -> Path:
        """File of what became of the videos of a shard."""
        return self.state / f"manifest-{shard.label}.sqlite"

    def lock(self, shard: Shard) -> Path:
        """File that the run of a shard holds locked."""
        return self.state / f"lock-{shard.label}"

    def temporary(self, shard: Shard) -> Path:
        """Folder of files that are being written, on the same disk as the outputs."""
        return self.state / f"tmp-{shard.label}"

    def shards_with(self, kind: str) -> set[Shard]:
        """Return the shards that have left a file of a kind: "manifest", "lock" or "part"."""
        folder = self.path if kind == "part" else self.state
        shards = set()
        for path in folder.glob(f"{kind}-*"):
            match = _LABEL.fullmatch(path.name)
            if match:
                index, count = map(int, filter(None, match.groups()))
                if index < count:  # else it is nobody's
                    shards.add(Shard(index, count))
        return shards

    def parts(self) -> Iterator[Path]:
        """Yield the files of a dataset that have the name of a part."""
        return (path for path in self.path.glob("part-*") if is_part(path.name))

    def stray_output(self) -> Path | None:
        """Return an output of a job whose state is not there, if there is one."""
        if self.is_dataset:
            return next(self.parts(), None)
        for folder, inner, names in os.walk(self.path):
            # A folder with a state is another destination.
            inner[:] = [name for name in inner if not Path(folder, name, STATE_FOLDER).exists()]
            for name in names:
                stem, suffix = os.path.splitext(name)  # noqa: PTH122
                kind = os.path.splitext(stem)[1].partition("~")[0]  # noqa: PTH122
                if suffix in SUFFIXES and kind.lower() in (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS):
                    return Path(folder, name)
        return None


def is_part(name: str) -> bool:
    """Whether a file of a dataset has the name of a part."""
    return name.startswith("part-") and _LABEL.fullmatch(name) is not None


def remove_file(path: Path) -> None:
    """Remove a file unless it is gone.

    Raises:
        OutputError: It cannot be removed, or :func:`ccl_hub._util.files.special_kind` names it.
    """
    kind = special_kind(path)
    if kind is not None:
        raise OutputError(f"{path}: is {kind} where an output belongs; move it away, run again.")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR):
            return  # no such file can exist
        raise OutputError(
            f"{path}: cannot be removed ({error.strerror or error}); check who owns it and its "
            "folder, and run again."
        ) from error
