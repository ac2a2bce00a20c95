"""Files known by their sha256: content decides, and no result has the hash of another one."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from embed_jobs import (
    FAULTY_READER,
    ages,
    job,
    known,
    outputs,
    rows,
    tiny_folder,
    write_tiny,
)
from media import Recipe, cut, write_video

from ccl_hub._util.files import file_sha256
from ccl_hub.decoding.messages import Job
from ccl_hub.decoding.pool import DecodePool
from ccl_hub.job.options import JobInputs

both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


@both
def test_checksum_looks_at_content_only(tmp_path: Path, name: str) -> None:
    folder, out = tiny_folder(tmp_path / "in", 3), tmp_path / name
    (folder / "bad.mp4").write_text("no video")
    assert len(job(folder, out, checksum=True).now) == 4
    assert len(known(out, "000.mp4").source_sha256) == 64
    read = rows if name.endswith(".parquet") else outputs
    before, old = read(out), ages(out)
    os.utime(folder / "000.mp4", (9, 9))
    done = job(folder, out, checksum=True)
    assert done.now == ["bad.mp4"], "nothing is known of what failed"
    assert done.summary.kept == 3 and read(out) == before
    assert {n: a for n, a in ages(out).items() if "failures" not in n} == {
        n: a for n, a in old.items() if "failures" not in n
    }
    assert job(folder, out).now == [], "the time that it has now is noted"

    stamp = (folder / "001.mp4").stat()
    data = (folder / "001.mp4").read_bytes()
    changed = (folder / "002.mp4").read_bytes()[: len(data)].ljust(len(data), b"\0")
    assert changed != data
    (folder / "001.mp4").write_bytes(changed)
    os.utime(folder / "001.mp4", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert job(folder, out).now == [], "size and time are the same"
    assert job(folder, out, checksum=True).now == ["001.mp4", "bad.mp4"]

    shutil.copy(folder / "000.mp4", folder / "good.mp4")
    good = (folder / "good.mp4").read_bytes()
    (folder / "good.mp4").unlink()
    (folder / "bad.mp4").write_bytes(bytes(len(good)))
    os.utime(folder / "bad.mp4", (3, 3))
    job(folder, out)
    (folder / "bad.mp4").write_bytes(good)
    os.utime(folder / "bad.mp4", (3, 3))
    assert job(folder, out, checksum=True).codes["bad.mp4"] == ""


def test_checksum_repairs_outputs_too(tmp_path: Path, small: Path) -> None:
    job(small, tmp_path, checksum=True)
    whole = outputs(tmp_path)
    (tmp_path / "001.mp4.npz").write_bytes(b"")
    assert job(small, tmp_path, checksum=True).now == ["001.mp4"]
    assert outputs(tmp_path) == whole


pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, and names of POSIX")


def state(out: Path) -> Path:
    return out.with_name(f"{out.name}.ccl") if out.suffix else out / ".ccl"


@both
def test_a_change_that_comes_before_the_first_hash_is_not_lost(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The file is looked at, found as before, and replaced before it is hashed."""
    out, inner = tmp_path / name, JobInputs.videos
    job(videos, out)
    before = rows(out) if out.suffix else outputs(out)

    def replaced(self: JobInputs, *arguments: object) -> Iterator[object]:
        *some, last = inner(self, *arguments)
        yield from some
        yield last
        write_tiny(last.path, 50, frames=7)

    with monkeypatch.context() as patch:
        patch.setattr(JobInputs, "videos", replaced)
        job(videos, out, checksum=True)
    assert job(videos, out, checksum=True).now == ["002.mp4"]
    assert (rows(out) if out.suffix else outputs(out)) != before


@both
def test_a_change_between_hash_and_decoding_is_found(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No result is kept with the hash of a content that it was not made of."""
    out, submit = tmp_path / name, DecodePool.submit

    def replaced(pool: DecodePool, job: Job) -> None:
        if job.path.name == "001.mp4":  # hashed, and not yet decoded
            write_tiny(job.path, 50, frames=7)
        submit(pool, job)

    with monkeypatch.context() as patch:
        patch.setattr(DecodePool, "submit", replaced)
        assert len(job(videos, out, checksum=True).now) == 3
    assert known(out, "001.mp4").source_sha256 == ""
    assert known(out, "002.mp4").source_sha256 == file_sha256(videos / "002.mp4")
    assert job(videos, out, checksum=True).now == ["001.mp4"]
    assert known(out, "001.mp4").source_sha256 == file_sha256(videos / "001.mp4")
    assert job(videos, out, checksum=True).now == []


@both
def test_a_file_that_cannot_be_hashed_is_unreadable_and_loses_nothing(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = tmp_path / name
    job(videos, out, checksum=True)
    before = rows(out) if out.suffix else outputs(out)

    def broken(path: Path) -> str:
        if path.name == "001.mp4":
            raise OSError(5, "Input/output error")
        return file_sha256(path)

    with monkeypatch.context() as patch:
        patch.setattr("ccl_hub.job.lookup.file_sha256", broken)
        done = job(videos, out, checksum=True)
    assert done.now == ["001.mp4"] and done.codes["001.mp4"] == "unreadable"
    assert _rows_or_files(outputs(out), out) == before
    assert job(videos, out, checksum=True).now == []


@both
def test_with_hashes_a_changed_video_that_crashes_loses_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    videos, out = tiny_folder(tmp_path / "in", 1), tmp_path / name
    path = write_tiny(videos / "crash-1.mp4", 1)
    job(videos, out, checksum=True)
    stamp = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(FAULTY_READER)
    monkeypatch.syspath_prepend(modules)
    assert job(videos, out, checksum=True).codes["crash-1.mp4"] == "crashed"
    assert known(out, "crash-1.mp4").state == "failed"


@both
@pytest.mark.parametrize("how", ["checksum", "retry"])
def test_a_failure_that_may_pass_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    videos, out = tiny_folder(tmp_path / "in", 2), tmp_path / name
    whole = write_video(tmp_path, Recipe("whole.mkv", "mpeg4", 60, (48, 32)))
    cut(whole, videos / "disk-1.mkv", 0.6)  # its output is incomplete
    job(videos, out, checksum=True)
    before = outputs(out)
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(FAULTY_READER)
    options = {"retry_failed": True} if how == "retry" else {"checksum": True}
    with monkeypatch.context() as patch:
        patch.syspath_prepend(modules)
        if how == "checksum":
            with closing(sqlite3.connect(state(out) / "manifest-0-of-1.sqlite")) as database:
                database.execute("UPDATE videos SET source_sha256 = 'other'")
                database.commit()
        done = job(videos, out, **options)
    assert done.codes["disk-1.mkv"] == "unreadable" and not done.summary.all_done
    assert done.summary.failures is not None
    assert "disk-1.mkv,failed,unreadable" in done.summary.failures.read_text()
    assert _rows_or_files(outputs(out), out) == _rows_or_files(before, out)
    assert known(out, "disk-1.mkv").state == "incomplete"
    again = job(videos, out)
    assert again.now == [] and again.codes["disk-1.mkv"] == "incomplete"


def _rows_or_files(found: dict[str, bytes], out: Path) -> object:
    if out.suffix:
        return rows(out)
    return {name: data for name, data in found.items() if "failures" not in name}


@both
def test_the_first_checksum_only_hashes(videos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    job(videos, out)
    before = outputs(out)
    assert job(videos, out, checksum=True).now == []
    assert outputs(out) == before
    assert len(known(out, "000.mp4").source_sha256) == 64
    os.utime(videos / "000.mp4", (5, 5))
    assert job(videos, out, checksum=True).now == []
