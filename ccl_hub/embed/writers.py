"""Files of embeddings: .npy (one level), .npz and .safetensors (every array, and the facts).

They hold arrays by their names, and the provenance as a mapping of facts. The command line imports
this module to check names, so numpy is imported only when it is used.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .._util.files import write_atomically
from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np

LEVELS = ("clip", "frame", "video")
SUFFIXES = (".npy", ".npz", ".safetensors")
ARRAYS = ("clips", "clip_seconds", "frames", "frame_seconds", "video")
LEVEL_ARRAYS = {"clip": "clips", "frame": "frames", "video": "video"}


def check_output(path: Path, level: str | None, source: Path | None = None) -> None:
    """Refuse an output name or level before any work is done.

    Args:
        path: Must end in .npy, .npz or .safetensors.
        level: "clip", "frame" or "video" for .npy; None for the others, which hold all three.
        source: The file that is embedded, which must not be replaced; None if there is none.

    Raises:
        InputError: The name or the level is not allowed.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"the output is {str(path)!r}; its name must end in one of {', '.join(SUFFIXES)}."
        )
    if level is not None and level not in LEVELS:
        raise InputError(f"level is {level!r}; allowed: {', '.join(LEVELS)}.")
    if level is not None and path.suffix != ".npy":
        raise InputError(
            f"level is {level!r} but {path.suffix} files hold every level; leave level out, "
            "or write a .npy file."
        )
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise InputError(
            f"the output {str(path)!r} is the embedded file itself, which it would replace; "
            "give another name."
        )


def write(
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, object],
    file: BinaryIO,
    suffix: str,
    level: str | None = None,
) -> None:
    """Write embeddings into an open file, array by array, without a copy of the whole.

    Args:
        arrays: The arrays that :data:`ARRAYS` names.
        facts: The provenance, which a .npy does not hold.
        file: New, open for writing.
        suffix: One of :data:`SUFFIXES`.
        level: For .npy: one of :data:`LEVELS`, or None for clips.
    """
    import numpy as np

    if suffix == ".npy":
        array = np.ascontiguousarray(arrays[LEVEL_ARRAYS[level or "clip"]])
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)
        return
    contiguous: dict[str, Any] = {
        name: np.ascontiguousarray(array) for name, array in arrays.items()
    }
    provenance = json.dumps(facts)
    if suffix == ".npz":
        # No allow_pickle: older numpy would store it as an array; none of these is an object.
        np.savez(file, provenance=np.array(provenance), **contiguous)
        return
    import safetensors.numpy

    file.write(safetensors.numpy.save(contiguous, metadata={"provenance": provenance}))


def write_npy(
    path: Path,
    level: str,
    clips_and_frames: tuple[int, int],
    pieces: Iterable[Mapping[str, np.ndarray]],
) -> int:
    """Write one level of a video as its pieces come; the bytes are those of :func:`write`.

    Args:
        path: Ends in .npy.
        level: One of :data:`LEVELS`.
        clips_and_frames: W, of all pieces together, and T.
        pieces: In order, the "clips" (b,D) of each and, for level "frame", its "frames" (b,T,D).

    Returns:
        Their dimension D.

    Raises:
        OutputError: The file cannot be written.
    """
    import numpy as np

    dim = 0

    def write(file: BinaryIO) -> None:
        nonlocal dim
        count, frames = clips_and_frames
        total: np.ndarray | None = None
        for piece in pieces:
            sums = piece["clips"].sum(axis=0, dtype=np.float64)  # (D,)
            if total is None:
                dim = len(sums)
                shape = {"clip": (count, dim), "frame": (count, frames, dim), "video": (dim,)}
                header = {"descr": "<f4", "fortran_order": False, "shape": shape[level]}
                np.lib.format.write_array_header_1_0(file, header)
            total = sums if total is None else total + sums
            if level != "video":
                file.write(np.ascontiguousarray(piece[LEVEL_ARRAYS[level]]).data)
        if level == "video" and total is not None:
            file.write((total / count).astype("<f4").data)

    write_atomically(path, write)
    return dim


def read(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Return the arrays and the facts that :func:`write` put into a .npz or .safetensors.

    Raises:
        InputError: The file is of another kind, or damaged.
        FileNotFoundError: There is no such file.
    """
    import safetensors

    if path.suffix not in (".npz", ".safetensors"):
        raise InputError(
            f"{path}: only .npz and .safetensors hold everything; read a .npy with numpy.load."
        )
    try:
        arrays, text = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        return arrays, json.loads(text)
    except (KeyError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path}: not embeddings that Embeddings.save() wrote, or damaged ({error}); "
            "make them again."
        ) from error


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    import numpy as np

    with path.open("rb") as binary, np.load(binary, allow_pickle=False) as file:
        return {name: file[name] for name in ARRAYS}, str(file["provenance"])


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in ARRAYS}
        return arrays, (file.metadata() or {})["provenance"]
