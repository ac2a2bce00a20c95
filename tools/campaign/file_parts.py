"""A file in parts of a limited size, with the hashes of all: to carry what is too large in one.

    cat NAME.part-* > NAME && sha256sum --check SHA256SUMS

joins the parts without this package; :func:`join_parts` does the same and checks every part.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from ccl_hub._util.files import file_sha256, make_folder, write_atomically
from ccl_hub.errors import TrainingError

PART_BYTES = 16_000_000
SUMS_NAME = "SHA256SUMS"


def split_file(path: Path, folder: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write the parts of a file and their hashes into a folder of their own.

    Args:
        path: The file.
        folder: Made if missing; parts that are there, of any file, are removed.
        part_bytes: Size of every part but the last, at least 1.

    Returns:
        The parts, in order. ``SHA256SUMS``, written last, lists them and the whole file.

    Raises:
        OutputError: The folder cannot be written.
    """
    make_folder(folder)
    (folder / SUMS_NAME).unlink(missing_ok=True)  # first: half a set of parts has no list
    for old in folder.glob("*.part-*"):
        old.unlink()
    count = max(1, -(-path.stat().st_size // part_bytes))
    digits = max(2, len(str(count - 1)))
    parts, lines = [], []
    with path.open("rb") as file:
        for number in range(count):
            part = folder / f"{path.name}.part-{number:0{digits}}"
            data = file.read(part_bytes)
            _write(part, data)
            parts.append(part)
            lines.append(f"{hashlib.sha256(data).hexdigest()}  {part.name}")
    lines.append(f"{file_sha256(path)}  {path.name}")
    head = f"# cat {path.name}.part-* > {path.name} && sha256sum --check {SUMS_NAME}\n"
    _write(folder / SUMS_NAME, (head + "\n".join(lines) + "\n").encode())
    return parts


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, data)


def join_parts(folder: Path, target_folder: Path) -> Path:
    """Put a file together again.

    Args:
        folder: Parts and ``SHA256SUMS``, as :func:`split_file` wrote them.
        target_folder: Where the file goes, under its own name; made if missing.

    Returns:
        The file.

    Raises:
        TrainingError: The list is missing or no such list, or a part is missing or damaged.
        OutputError: The file cannot be written.
    """
    *sums, (wanted, name) = _read_sums(folder / SUMS_NAME)
    digest = hashlib.sha256()
    target = make_folder(target_folder) / name

    def write(file: BinaryIO) -> None:
        for part_wanted, part_name in sums:
            part = folder / part_name
            data = part.read_bytes() if part.is_file() else b""
            _require(part, part_wanted, hashlib.sha256(data).hexdigest())
            digest.update(data)
            file.write(data)
        _require(target, wanted, digest.hexdigest())

    write_atomically(target, write)
    return target


def _read_sums(path: Path) -> list[tuple[str, str]]:
    """Return hash and name of every part, and of the whole file last."""
    if not path.is_file():
        raise TrainingError(f"{path}: missing; it says which parts belong together, bring it too.")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    sums = []
    for line in lines:
        if not line.startswith("#"):
            digest, _, name = line.partition("  ")
            sums.append((digest, name))
    if len(sums) < 2 or any(not name or Path(name).name != name for _, name in sums):
        raise TrainingError(f"{path}: no list of the parts of one file; write the parts again.")
    return sums


def _require(path: Path, wanted: str, seen: str) -> None:
    if wanted != seen:
        raise TrainingError(
            f"{path}: missing or damaged, its sha256 is {seen} and should be {wanted}; "
            "bring this part again."
        )
