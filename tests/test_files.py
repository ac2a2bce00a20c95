"""No half file: each final path is absent, old or whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccl_hub.errors import OutputError
from ccl_hub.files import check_place, write_atomically


def test_failure_while_writing_keeps_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"old")

    def fail(file) -> None:
        file.write(b"half")
        raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError, match="stopped here"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="check that the folder exists"):
        write_atomically(tmp_path / "no" / "x.npy", lambda file: file.write(b"x"))


def test_full_disk_is_a_clear_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"old")

    def full(file) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, full)
    assert path.read_bytes() == b"old"


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, lambda file: file.write(b"new"))
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_longest_allowed_name(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".npy")  # 254 of 255 bytes
    write_atomically(path, lambda file: file.write(b"x"))
    assert path.read_bytes() == b"x"


def test_a_file_in_place_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="check that the folder exists"):
        write_atomically(tmp_path / "file" / "x.npy", lambda file: file.write(b"x"))


def test_a_folder_that_cannot_be_synced_is_no_failure_of_the_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(folder: Path, flags: int) -> int:
        asked.append(folder)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ccl_hub.files.os.open", refuse)
    write_atomically(tmp_path / "x.npy", lambda file: file.write(b"x"))
    assert asked == [tmp_path.resolve()]
    monkeypatch.undo()
    assert (tmp_path / "x.npy").read_bytes() == b"x"


def test_zero_byte_in_a_name_is_a_clear_error() -> None:
    with pytest.raises(OutputError, match="null"):
        write_atomically(Path("a\0b.npy"), lambda file: file.write(b"x"))


def test_places_where_nothing_can_be_written_are_known_before_the_work(tmp_path: Path) -> None:
    check_place(tmp_path / "x.npy")
    with pytest.raises(OutputError, match="is a folder"):
        check_place(tmp_path)
    with pytest.raises(OutputError, match="there is no folder"):
        check_place(tmp_path / "no" / "x.npy")
    (tmp_path / "link.npy").symlink_to(tmp_path / "no" / "x.npy")
    with pytest.raises(OutputError, match="there is no folder"):
        check_place(tmp_path / "link.npy")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_known_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="no permission"):
        check_place(tmp_path / "x.npy")
    tmp_path.chmod(0o755)
