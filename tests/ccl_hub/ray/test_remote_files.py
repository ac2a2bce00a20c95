"""Files of any storage that fsspec knows: copied a few ahead, tried again, and removed."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from flaky_files import make_flaky
from project import ROOT

from ccl_hub.errors import (
    MediaLimitError,
    MediaNotFoundError,
    OutputError,
    UnreadableError,
)
from ccl_hub.ray.remote_files import COPIES_AT_ONCE, PREFIX, LocalCopies, remove_copies

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")


from ccl_hub.ray import CCLEmbedder  # noqa: E402


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type:
    kind = make_flaky()
    fsspec.register_implementation("flaky", kind, clobber=True)
    monkeypatch.setattr("ccl_hub.ray.remote_files.FIRST_DELAY_SECONDS", 0.01)
    return kind


def fetched(*paths: str, **options: object) -> list[bytes | Exception]:
    """What each path gives, in their order; copies are dropped as they are read."""
    found: dict[int, bytes | Exception] = {}
    with LocalCopies(**options) as copies:
        for number, copy in copies.fetch(paths):
            if isinstance(copy, Path):
                found[number] = copy.read_bytes()
                copies.drop(copy)
            else:
                found[number] = copy
    return [found[number] for number in range(len(paths))]


def test_a_remote_file_is_copied_with_its_suffix_and_deleted(scratch: Path) -> None:
    fsspec.filesystem("memory").pipe("/in/a.MP4", b"0123456789")
    with LocalCopies() as copies:
        ((number, copy),) = copies.fetch(["memory://in/a.MP4"])
        assert number == 0 and copy.read_bytes() == b"0123456789" and copy.suffix == ".MP4"
        assert copy.parent.parent == scratch and copy.parent.name.startswith(PREFIX)
        copies.drop(copy)
        assert not copy.exists()
        list(copies.fetch(["memory://in/a.MP4"]))  # not dropped
    assert not list(scratch.iterdir())
    with pytest.raises(KeyError), LocalCopies() as copies:
        next(copies.fetch(["memory://in/a.MP4"] * 9))
        raise KeyError
    assert not list(scratch.iterdir())


def test_local_files_are_not_copied(tmp_path: Path) -> None:
    local = tmp_path / "a.mp4"
    local.write_bytes(b"x")
    with LocalCopies() as copies:
        assert dict(copies.fetch(["a.mp4", f"file://{local}"])) == {0: Path("a.mp4"), 1: local}
        copies.drop(local)
    assert local.exists()


def test_files_are_copied_at_once_and_a_few_ahead(scratch: Path) -> None:
    names = [f"memory://many/{number}.bin" for number in range(20)]
    for number, name in enumerate(names):
        fsspec.filesystem("memory").pipe(name.removeprefix("memory:/"), bytes([number]))
    assert fetched(*names) == [bytes([number]) for number in range(20)]
    with LocalCopies() as copies:
        found = copies.fetch(names)
        copies.drop(next(found)[1])
        (folder,) = scratch.iterdir()
        assert len(list(folder.iterdir())) <= COPIES_AT_ONCE
    gate = threading.Barrier(COPIES_AT_ONCE, timeout=10)  # passed by so many at once, or never

    class Slow(fsspec.get_filesystem_class("memory")):
        protocol = "slow"

        def open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
            gate.wait()
            return io.BytesIO(b"x")

    fsspec.register_implementation("slow", Slow, clobber=True)
    urls = [f"slow://a/{number}.mp4" for number in range(COPIES_AT_ONCE)]
    assert fetched(*urls, retries=0) == [b"x"] * COPIES_AT_ONCE


def test_what_fails_for_a_while_is_tried_again(
    flaky: type, scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("remote") / "a.mp4"
    source.write_bytes(b"x" * 10)
    copied, failed = fetched(f"flaky://3{source}", f"flaky://4{source}", retries=3)
    assert copied == b"x" * 10
    assert isinstance(failed, UnreadableError) and failed.code == "unreadable"
    assert "after 3 retries (the line is down)" in str(failed)
    assert flaky.opened == {f"3{source}": 4, f"4{source}": 4}
    assert not list(scratch.iterdir())


def test_what_cannot_succeed_is_tried_once(flaky: type, scratch: Path) -> None:
    urls = ("flaky://denied/a.mp4", "flaky://0/a/b.mp4", "nowhere://a/b.mp4", "", None)
    denied, missing, unknown, *empty = fetched(*urls)
    assert isinstance(denied, UnreadableError) and "denied" in str(denied)
    assert isinstance(missing, MediaNotFoundError) and "no such file" in str(missing)
    assert isinstance(unknown, UnreadableError) and "nowhere" in str(unknown)
    assert all(isinstance(error, MediaNotFoundError) for error in empty)
    assert set(flaky.opened.values()) == {1} and not list(scratch.iterdir())


def test_a_file_that_comes_short_is_tried_again(scratch: Path) -> None:
    class Stated(io.BytesIO):
        size = 20

    class Short(fsspec.get_filesystem_class("memory")):
        protocol = "short"

        def open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
            return Stated(b"0123456789")

    fsspec.register_implementation("short", Short, clobber=True)
    (error,) = fetched("short://in/short.mp4", retries=0)
    assert isinstance(error, UnreadableError) and "10 of 20 bytes" in str(error)


def test_a_file_that_is_too_large_is_not_copied(scratch: Path) -> None:
    fsspec.filesystem("memory").pipe("/in/big.mp4", b"x" * 11)
    (error,) = fetched("memory://in/big.mp4", max_bytes=10)
    assert isinstance(error, MediaLimitError) and "at most 10" in str(error)
    assert fetched("memory://in/big.mp4", max_bytes=11) == [b"x" * 11]
    assert not list(scratch.iterdir())


def test_no_place_for_copies_is_not_about_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    fsspec.filesystem("memory").pipe("/in/a.mp4", b"x")
    embedder = CCLEmbedder(model_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match="TMPDIR"):
        embedder({"path": ["memory://in/a.mp4"]})


KILLED = """
import os, sys, tempfile
import fsspec
from ccl_hub.ray.remote_files import LocalCopies
tempfile.tempdir = sys.argv[1]
fsspec.filesystem("memory").pipe("/a.mp4", b"x")
with LocalCopies() as copies:
    list(copies.fetch(["memory://a.mp4"]))
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed(scratch: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, scratch], cwd=ROOT, check=False)
    (left,) = scratch.iterdir()
    assert (left / "0.mp4").read_bytes() == b"x"
    fsspec.filesystem("memory").pipe("/in/a.mp4", b"y")
    with LocalCopies() as copies:
        ((_, copy),) = copies.fetch(["memory://in/a.mp4"])
        remove_copies()
        assert copy.read_bytes() == b"y" and not left.exists()


def test_an_archive_that_cannot_be_read_costs_its_own_rows(flaky: type, scratch: Path) -> None:
    """Such file systems read, or connect, when they are made."""
    (scratch / "torn.zip").write_bytes(b"PK torn")
    urls = [f"zip://a.mp4::file://{scratch}/{name}.zip" for name in ("none", "torn")]
    missing, torn = fetched(*urls, retries=1)
    assert (missing.code, torn.code) == ("not_found", "unreadable")
    assert "zip" in str(torn)
