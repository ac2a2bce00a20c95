"""No half file: each final path is absent, old or whole."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ccl_hub._util.files import check_folder, check_writable, make_folder, write_atomically
from ccl_hub.errors import OutputError


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
        write_atomically(tmp_path / "no" / "x.npy", b"x")


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
    write_atomically(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_longest_allowed_name(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".npy")  # 254 of 255 bytes
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


def test_a_file_in_place_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="check that the folder exists"):
        write_atomically(tmp_path / "file" / "x.npy", b"x")


def test_a_folder_that_cannot_be_synced_is_no_failure_of_the_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(folder: Path, flags: int) -> int:
        asked.append(folder)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ccl_hub._util.files.os.open", refuse)
    write_atomically(tmp_path / "x.npy", b"x")
    assert asked == [tmp_path.resolve()]
    monkeypatch.undo()
    assert (tmp_path / "x.npy").read_bytes() == b"x"


def test_zero_byte_in_a_name_is_a_clear_error() -> None:
    with pytest.raises(OutputError, match="null"):
        write_atomically(Path("a\0b.npy"), b"x")


def test_places_where_nothing_can_be_written_are_known_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "x.npy")
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match="there is no folder"):
        check_writable(tmp_path / "no" / "x.npy")
    (tmp_path / "link.npy").symlink_to(tmp_path / "no" / "x.npy")
    with pytest.raises(OutputError, match="there is no folder"):
        check_writable(tmp_path / "link.npy")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_known_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="no permission"):
        check_writable(tmp_path / "x.npy")
    tmp_path.chmod(0o755)


@contextmanager
def special(kind: str, path: Path) -> Iterator[str]:
    """Put what is no file at a path, and give what it is called."""
    if kind == "pipe":
        os.mkfifo(path)
        yield "a pipe"
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
            patch.chdir(path.parent)  # names of sockets are short
            server.bind(path.name)
            yield "a socket"
    elif kind == "device":
        path.symlink_to(os.devnull)
        yield "a device"
    else:  # what the program's own messages go to
        path.symlink_to("/dev/stdout")
        yield "the file that stdout or stderr goes to"


@pytest.mark.skipif(sys.platform == "win32", reason="names are reserved there")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "stdout"])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_never_replaced(
    tmp_path: Path, kind: str, linked: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    there = path = tmp_path / "x.npy"
    with special(kind, there) as name:
        before = there.stat()
        if linked:
            path = tmp_path / "link.npy"
            path.symlink_to(there)
        for refuse in (
            check_writable,
            lambda path: write_atomically(path, b"x"),
        ):
            with pytest.raises(OutputError) as caught:
                refuse(path)
            assert str(caught.value) == (
                f"{path}: is {name}, and never replaced; give the name of a file, which is "
                "written as a whole, and copy it from there."
            )
        for make in (check_folder, make_folder):
            with pytest.raises(OutputError) as caught:
                make(path)
            assert str(caught.value) == (
                f"{path}: is {name}, and never replaced; give the name of a folder."
            )
        assert os.path.samestat(there.stat(), before)
        assert stat.S_IFMT(there.stat().st_mode) == stat.S_IFMT(before.st_mode)
    assert {one.name for one in tmp_path.iterdir()} <= {"x.npy", "link.npy"}
