"""A file in parts of a limited size, with their hashes: to carry what is too large in one piece.

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
    """Write the parts of a file and their hashes into a folder for them alone.

    Args:
        path: The file.
        folder: Made if missing; parts that it holds, of any file, are removed.
        part_bytes: Size of every part but the last, at least 1.

    Returns:
        The parts, in order. ``SHA256SUMS``, written last, lists them and the whole file.

    Raises:
        OutputError: The folder cannot be written.
    """
    make_folder(folder)
    (folder / SUMS_NAME).unlink(missing_ok=True)  # first, so that half a set of parts has no list
    for old in folder.glob("*.part-*"):
        old.unlink()
    count = max(1, -(-path.stat().st_size // part_bytes))
    digits = max(2, len(str(count - 1)))
    parts, lines = [], []
    with path.open("rb") as file:
        for number in range(count):
            part = folder / f"{path.name}.part-{number:0{digits}}"
            data = file.read(part_bytes)
            write_atomically(part, data)
            parts.append(part)
            lines.append(f"{hashlib.sha256(data).hexdigest()}  {part.name}")
    lines.append(f"{file_sha256(path)}  {path.name}")
    head = f"# cat {path.name}.part-* > {path.name} && sha256sum --check {SUMS_NAME}\n"
    write_atomically(folder / SUMS_NAME, head + "\n".join(lines) + "\n")
    return parts


def join_parts(folder: Path, target_folder: Path) -> Path:
    """Put a file together again.

    Args:
        folder: Parts and ``SHA256SUMS``, as :func:`split_file` wrote them.
        target_folder: Where the file goes, under its own name; made if missing.

    Returns:
        The file.

    Raises:
        TrainingError: The list or a part is missing or damaged.
        OutputError: The file cannot be written.
    """
    *sums, (sha256, name) = _read_sums(folder / SUMS_NAME)
    digest = hashlib.sha256()
    target = make_folder(target_folder) / name

    def write(file: BinaryIO) -> None:
        for part_sha256, part_name in sums:
            part = folder / part_name
            data = part.read_bytes() if part.is_file() else b""
            _require(part, part_sha256, hashlib.sha256(data).hexdigest())
            digest.update(data)
            file.write(data)
        _require(target, sha256, digest.hexdigest())

    write_atomically(target, write)
    return target


def _read_sums(path: Path) -> list[tuple[str, str]]:
    """Return hash and name of every part, and of the whole file last."""
    if not path.is_file():
        raise TrainingError(
            f"{path}: is missing, and says which parts belong together; bring it too."
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    sums = []
    for line in lines:
        if not line.startswith("#"):
            digest, _, name = line.partition("  ")
            sums.append((digest, name))
    if len(sums) < 2 or any(not name or Path(name).name != name for _, name in sums):
        raise TrainingError(f"{path}: does not list the parts of one file; write the parts again.")
    return sums


def _require(path: Path, expected: str, seen: str) -> None:
    if seen != expected:
        raise TrainingError(
            f"{path}: is missing or damaged, as its sha256 is {seen} and should be {expected}; "
            "bring this part again."
        )
