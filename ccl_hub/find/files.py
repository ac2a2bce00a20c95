"""The files of a library beside its database: what it is, and what was learnt on it.

    LIBRARY/library.json       model, time between frames, generation of the tables
    LIBRARY/lance/             the database
    LIBRARY/.ccl/              state of the batch job: settings, manifest and spool
    LIBRARY/chance.json, background.npz, space-1.npz    what was learnt on the library itself
    LIBRARY/failures.csv       videos that could not be read

Whitening makes a new generation of the tables, with a new set of learnt files; the number in
``library.json`` says which one counts, so that both change in one moment.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .._util.files import absolute_path, write_atomically
from ..config import parse_dataclass
from ..errors import ConfigError, InputError
from .matching.chance import Chance
from .matching.evidence import Background, Keys
from .space import Space

FORMAT, VERSION = "ccl-library", 1
WRITER, READERS = ".writer", ".readers"
"""Lock files: of the one process that writes, and of those that read while none drops anything."""


@dataclass(frozen=True)
class Facts:
    """What ``library.json`` says.

    Args:
        format: "ccl-library".
        version: Of the format.
        model: Name, folder or Hub id of the model.
        config_fingerprint: Of the model as the library looks at videos.
        weights_sha256: Of the file of its weights, or "".
        dim: Dimension D of its vectors.
        frame_seconds: Time between frames.
        key_frames_only: Whether key frames alone are taken.
        generation: Which set of tables counts.
    """

    format: str
    version: int
    model: str
    config_fingerprint: str
    weights_sha256: str
    dim: int
    frame_seconds: float
    key_frames_only: bool
    generation: int = 0

    def difference(self, other: Facts) -> str:
        """Return in words how another library differs; "" if vectors of both can be compared."""
        ignored = ("generation", "model")
        mine, others = asdict(self), asdict(other)
        return "; ".join(
            f"{name} is {mine[name]!r} there, {others[name]!r} now"
            for name in mine
            if name not in ignored and mine[name] != others[name]
        )


class LibraryFiles:
    """The files of one library.

    Args:
        folder: Absolute path of the library.
        facts: What it is.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.folder, self.facts = folder, facts

    @classmethod
    def read(cls, folder: str | Path) -> LibraryFiles:
        """Read ``library.json``.

        Raises:
            InputError: There is none, or none that this version reads.
        """
        path = Path(absolute_path(folder))
        text = path / "library.json"
        try:
            values = json.loads(text.read_text(encoding="utf-8"))
            facts = parse_dataclass(Facts, values, str(text))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{folder}: no library in this folder; make one with 'ccl-find index VIDEOS "
                f"--out {folder}' (Library.create)."
            ) from error
        except (OSError, ValueError, ConfigError) as error:
            raise InputError(
                f"{text}: cannot be read ({error}); index the videos into another folder."
            ) from error
        if facts.format != FORMAT or facts.version != VERSION:
            raise InputError(
                f"{text}: format {facts.format!r}, version {facts.version}; this version of "
                f"ccl_hub reads {FORMAT!r}, version {VERSION}; upgrade ccl-hub, or index anew."
            )
        return cls(path, facts)

    @staticmethod
    def are_at(folder: Path) -> bool:
        """Whether there is a library."""
        return (folder / "library.json").exists()

    @property
    def database(self) -> Path:
        """Folder of the database."""
        return self.folder / "lance"

    def write(self, facts: Facts) -> None:
        """Write ``library.json``, from which moment on it counts."""
        write_atomically(self.folder / "library.json", json.dumps(asdict(facts), indent=2) + "\n")
        self.facts = facts

    def space(self) -> Space:
        """Return the space in which vectors are compared."""
        path = self._learnt("space.npz")
        return Space.load(path) if path.is_file() else Space()

    def write_space(self, space: Space, generation: int) -> None:
        """Write the space of a generation that does not count yet."""
        space.save(self.folder / f"space-{generation}.npz")

    def chance(self) -> Chance | None:
        """Return the E-values; None if the library is not calibrated."""
        path = self._learnt("chance.json")
        if not path.is_file():
            return None
        return Chance.from_json(path.read_text(encoding="utf-8"), str(path))

    def background(self) -> Background | None:
        """Return the sample that the E-values belong to, or None."""
        path = self._learnt("background.npz")
        if not path.is_file():
            return None
        with path.open("rb") as binary, np.load(binary, allow_pickle=False) as file:
            return Background(file["keys"], file["vectors"].astype(np.float32))

    def calibrated_on(self) -> Keys:
        """Return the fingerprints of the videos that were there when the sample was taken."""
        path = self._learnt("background.npz")
        if not path.is_file():
            return np.empty(0, np.int64)
        with path.open("rb") as binary, np.load(binary, allow_pickle=False) as file:
            return np.asarray(file["videos"]) if "videos" in file else np.empty(0, np.int64)

    def write_background(self, background: Background, videos: Keys) -> None:
        """Write the sample; E-values of an earlier one no longer count.

        Args:
            background: The sample.
            videos: Fingerprints of the videos that are there.
        """
        self._learnt("chance.json").unlink(missing_ok=True)
        data, vectors = io.BytesIO(), background.vectors.astype(np.float16)
        np.savez(data, keys=background.keys, vectors=vectors, videos=videos)
        write_atomically(self._learnt("background.npz"), data.getvalue())

    def write_chance(self, chance: Chance) -> None:
        """Write the E-values."""
        write_atomically(self._learnt("chance.json"), chance.to_json())

    def _learnt(self, name: str) -> Path:
        """Return a file of what was learnt on this generation of the tables."""
        stem, _, suffix = name.partition(".")
        generation = self.facts.generation
        return self.folder / (f"{stem}-{generation}.{suffix}" if generation else name)
