"""What takes the results of a batch job; here as a file for each video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from .._util.files import file_sha256, make_folder, write_atomically
from ..embed.embeddings import Embeddings
from ..errors import OutputError
from ..inputs.names import output_name
from .destination import remove_file
from .manifest import Row
from .state import JobState


@dataclass(frozen=True)
class Prepared:
    """A result that is written, or ready to be: its name, size and hash, or its rows."""

    output: str = ""
    size_bytes: int = 0
    sha256: str = ""
    rows: int = 0
    data: bytes | memoryview = b""


class Sink(Protocol):
    """Takes results and knows whether earlier ones are still there."""

    def intact(self, row: Row) -> bool:
        """Whether the output of a row is there, byte by byte; from any thread."""

    def prepare(self, id: str, embeddings: Embeddings) -> Prepared:
        """Do the slow part of keeping a result; from any thread."""

    def keep(self, row: Row, prepared: Prepared | None) -> None:
        """Let a result, or for None a failure, count instead of what was there before."""

    def finish(self) -> None:
        """Write what is left."""


@dataclass(frozen=True)
class SinkMaker:
    """Makes a sink from outside this room.

    Args:
        format: What the destination is called in its settings; another one is refused.
        make: Called once the destination is claimed.
        one_backend: Whether a run with another backend is refused. If not, those whose numbers
            are torch's in float32 go together: torch on a GPU, and a runtime on a CPU.
    """

    format: str
    make: Callable[[JobState], Sink]
    one_backend: bool = True


class FolderSink:
    """A file for each video, in folders as the videos are.

    Args:
        state: State of the job.
        suffix: Suffix of the files: ".npy", ".npz" or ".safetensors".
        level: Level of .npy files.
    """

    def __init__(self, state: JobState, suffix: str, level: str | None) -> None:
        self._state, self._suffix, self._level = state, suffix, level
        self._folder = state.destination.path

    def intact(self, row: Row) -> bool:
        """See :class:`Sink`."""
        return has_hash(self._folder / row.output, row.output_bytes, row.output_sha256)

    def prepare(self, id: str, embeddings: Embeddings) -> Prepared:
        """Write the file; it counts once it is in the manifest."""
        name = output_name(id, self._suffix)
        path = self._folder / name
        make_folder(path.parent)
        write_atomically(
            path,
            lambda file: embeddings.write(file, self._suffix, self._level),
            self._state.temporary,
        )
        try:
            return Prepared(name, path.stat().st_size, file_sha256(path))
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be read after it was written ({error.strerror or error}); check "
                "the disk, and run again."
            ) from error

    def keep(self, row: Row, prepared: Prepared | None) -> None:
        """See :class:`Sink`."""
        if prepared is None:
            # Even a file that a run wrote but was killed before it could record.
            remove_file(self._folder / output_name(row.id, self._suffix))
        else:
            row = replace(
                row,
                output=prepared.output,
                output_bytes=prepared.size_bytes,
                output_sha256=prepared.sha256,
            )
        self._state.manifest.record(row)

    def finish(self) -> None:
        """Nothing is left."""


def has_hash(path: Path, size_bytes: int, sha256: str) -> bool:
    """Whether a file is there, byte by byte."""
    try:
        whole = path.is_file() and path.stat().st_size == size_bytes
        return whole and file_sha256(path) == sha256
    except OSError:
        return False
