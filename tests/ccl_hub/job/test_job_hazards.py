"""What users do to inputs and destinations between runs, and oddities that cost nothing else."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from embed_jobs import (
    FAULTY_READER,
    engines,
    ids,
    job,
    known,
    outputs,
    rows,
    tiny_folder,
    write_tiny,
)
from media import Recipe, cut, write_video

from ccl_hub._util.files import absolute_path, file_sha256
from ccl_hub.batch import embed_patiently
from ccl_hub.batch.options import BatchOptions
from ccl_hub.decoding.messages import Job
from ccl_hub.decoding.pool import DecodePool
from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.errors import InputError
from ccl_hub.inputs.names import LONGEST_OUTPUT_BYTES, output_name
from ccl_hub.inputs.shards import Shard
from ccl_hub.job import parts
from ccl_hub.job.manifest import Manifest, Part, Row
from ccl_hub.job.options import JobInputs
from ccl_hub.sampling import Sampling

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, and names of POSIX")
both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "in", 3)


def state(out: Path) -> Path:
    return out.with_name(f"{out.name}.ccl") if out.suffix else out / ".ccl"


# The destination ---------------------------------------------------------------------------------


@both
def test_outputs_without_their_state_are_neither_mixed_nor_removed(
    videos: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    job(videos, out)
    shutil.rmtree(state(out))  # as "cp -r feats/* elsewhere" leaves it
    before = outputs(out)
    for clips in (1, 2):
        with pytest.raises(InputError, match=r"not the state of the job.*--overwrite"):
            job(videos, out, clips=clips)
    assert outputs(out) == before
    assert len(job(videos, out, clips=2, overwrite=True).now) == 3
    if name == "feats":
        assert {Embeddings.load(out / file).clips.shape[0] for file in outputs(out)} == {2}
    else:
        assert set(ids(out).values()) == {2}


def test_files_of_the_user_that_are_called_like_outputs_are_safe(
    videos: Path, tmp_path: Path
) -> None:
    np.save(videos / "000.mp4.npy", np.zeros(3))
    (videos / "labels.npz").write_bytes(b"not ours, and not called like an output")
    before = outputs(videos)
    with pytest.raises(InputError, match=r"000\.mp4\.npy"):
        job(videos, videos, suffix=".npy")
    (videos / "000.mp4.npy").unlink()
    job(videos, videos, suffix=".npy")
    assert {k: v for k, v in outputs(videos).items() if k in before} == {
        k: v for k, v in before.items() if k != "000.mp4.npy"
    } | {"000.mp4.npy": (videos / "000.mp4.npy").read_bytes()}


def test_a_link_that_is_called_like_a_dataset_is_one(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    out = tmp_path / "feats.parquet"
    out.symlink_to(tmp_path / "store")
    job(videos, out)
    assert set(ids(tmp_path / "store")) == {f"00{i}.mp4" for i in range(3)}
    assert (tmp_path / "store.ccl" / "settings.json").is_file()


@both
def test_the_jobs_own_files_are_no_videos(videos: Path, tmp_path: Path, name: str) -> None:
    out = videos / name
    for _ in range(2):
        done = job([Path(f"{videos}/**/*")], out)
        assert done.summary.counts == {"done": 3}
    # As a shell expands videos/*.
    found = sorted(path for path in videos.rglob("*") if path.is_file())
    assert job(found, out).summary.counts == {"done": 3}


def test_a_destination_may_hold_another_one(videos: Path, tmp_path: Path) -> None:
    job(videos, tmp_path / "feats" / "inner")
    job(videos, tmp_path / "feats", clips=2)
    assert len(outputs(tmp_path / "feats" / "inner")) == 3
    shutil.rmtree(tmp_path / "feats" / ".ccl")
    for path in (tmp_path / "feats").glob("*.npz"):
        path.rename(path.with_name("still.jpg.npz"))
    with pytest.raises(InputError, match=r"still\.jpg\.npz"):
        job(videos, tmp_path / "feats")


def test_overwrite_needs_no_root_that_is_gone(tmp_path: Path) -> None:
    first, second = tiny_folder(tmp_path / "a", 1), tiny_folder(tmp_path / "b", 2)
    out = tmp_path / "feats"
    job(first, out)
    shutil.rmtree(first)
    assert job(second, out, clips=2, overwrite=True).now == ["000.mp4", "001.mp4"]
    assert len(outputs(out)) == 2


def test_the_jobs_own_files_are_known_by_any_name(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "sub").mkdir()
    (tmp_path / "link").symlink_to(videos)
    monkeypatch.chdir(videos / "sub")
    for inputs, out in ((Path("../*"), Path("..")), (tmp_path / "link" / "*", videos)):
        assert job([inputs], out, root=videos).summary.counts == {"done": 3}
        assert job([inputs], out, root=videos).summary.counts == {"done": 3}
        assert job([inputs], out, root=videos).summary.all_done


def test_nothing_is_made_for_inputs_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no input"):
        job([], tmp_path / "feats")
    assert not list(tmp_path.iterdir())


# The inputs --------------------------------------------------------------------------------------


@both
def test_a_folder_that_moves_goes_on_once_its_root_is_given(tmp_path: Path, name: str) -> None:
    project = tmp_path / "project"
    tiny_folder(project / "videos", 3)
    job(project / "videos", project / name)
    project.rename(tmp_path / "moved")
    videos, out = tmp_path / "moved" / "videos", tmp_path / "moved" / name
    with pytest.raises(InputError, match=r"moved.*--root.*other videos.*--root"):
        job(videos, out)
    done = job(videos, out, root=videos)
    assert done.now == [] and {event.path for event in done.events} == {
        str(path) for path in videos.iterdir()
    }
    assert job(videos, out).now == []  # the new place is noted
    with pytest.raises(InputError, match="root is"):
        job(videos, out, root=tmp_path)


def test_other_videos_go_by_their_whole_path_when_the_first_are_gone(tmp_path: Path) -> None:
    first, second = tiny_folder(tmp_path / "a", 1), tiny_folder(tmp_path / "b", 1)
    out = tmp_path / "feats"
    job(first, out)
    shutil.rmtree(first)
    done = job(second, out, root=first)
    assert done.now == [f"_abs{second}/000.mp4"]
    assert len(outputs(out)) == 2


def test_a_name_outside_the_root_is_told_of_once(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_folder(tmp_path / "other", 2)
    with caplog.at_level(logging.WARNING):
        job([videos, other], tmp_path / "feats", root=videos)
    assert [record.getMessage().count("_abs") for record in caplog.records] == [1]


@both
def test_any_time_of_change(videos: Path, tmp_path: Path, name: str) -> None:
    for seconds in (11_000_000_000, -11_000_000_000):
        try:
            os.utime(videos / "001.mp4", (seconds, seconds))
        except OSError:
            pytest.skip("this disk keeps no such time")
        assert "001.mp4" in job(videos, tmp_path / name).now
        assert job(videos, tmp_path / name).now == []


@both
def test_names_longer_than_any_path(videos: Path, tmp_path: Path, name: str) -> None:
    out, listed = tmp_path / name, tmp_path / "list.txt"
    listed.write_text("\n".join(["a/" * 3000 + "x.mp4", "b" * 300, str(videos / "000.mp4")]))
    assert sorted(job([], out, lists=(listed,)).codes.values()) == ["", "not_found", "not_found"]


def test_a_long_id_has_an_output_of_its_own() -> None:
    long = [f"{'a/' * 1500}{number}.mp4" for number in range(2)]
    made = [output_name(id, ".npz") for id in long]
    assert made[0] != made[1] and max(map(len, made)) < 100
    folder = made[0].split("/")[0]
    assert output_name(f"{folder}/x.mp4", ".npz").split("/")[0] != folder
    short = "a/" * ((LONGEST_OUTPUT_BYTES - 10) // 2) + "x.mp4"
    assert output_name(short, ".npz") == f"{short}.npz"


def test_dots_behind_a_link_are_where_the_system_finds_them(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tiny_folder(tmp_path / "real" / "deep", 1).parent
    write_tiny(real / "x.mp4", 1, frames=4)
    write_tiny(tmp_path / "x.mp4", 2, frames=8)
    (tmp_path / "link").symlink_to(real / "deep")
    monkeypatch.chdir(tmp_path)
    assert absolute_path("link/../x.mp4") == str(real / "x.mp4")
    assert absolute_path("./in/.././in//000.mp4") == str(videos / "000.mp4")
    assert absolute_path("/../a/../b") == "/b"
    assert absolute_path(tmp_path / "link" / "000.mp4") == str(tmp_path / "link" / "000.mp4")
    own = BatchOptions(workers=1, threads=1)
    sources = ["link/../x.mp4"]
    (item,) = embed_patiently(sources, engines(), Sampling(clips=1), own)
    assert item is not None and item.embeddings is not None
    assert item.embeddings.provenance.source_frames == 4
    done = job([Path("link/../x.mp4")], tmp_path / "feats")
    assert done.summary.counts == {"done": 1}
    assert known(tmp_path / "feats", "x.mp4").path == str(real / "x.mp4")


def test_a_folder_that_a_pattern_meets_may_be_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tiny_folder(tmp_path / "in" / "good", 1)
    locked = tmp_path / "in" / "lost+found"
    locked.mkdir()
    inner = os.scandir

    def scandir(path: str) -> object:
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return inner(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert job([videos.parent / "*"], tmp_path / "feats").summary.counts == {"done": 1}


# Failures that pass ------------------------------------------------------------------------------


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
        patch.setattr("ccl_hub.job.look.file_sha256", broken)
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


def test_failures_are_those_of_this_run(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    (videos / "bad.mp4").write_text("no video")
    assert "bad.mp4" in Path(job(videos, out).summary.failures or "").read_text()
    (videos / "bad.mp4").unlink()
    done = job(videos, out)
    assert done.summary.all_done and done.summary.failures is None
    assert not (out / "failures.csv").exists()


# What is finished counts -------------------------------------------------------------------------


def test_results_do_not_wait_for_the_next_source(videos: Path) -> None:
    """As of a folder that is watched: the second path comes long after the first."""
    came: list[int] = []

    def sources() -> Iterator[Path | None]:
        yield videos / "000.mp4"
        end = time.monotonic() + 60
        while not came:
            assert time.monotonic() < end, "the result waits"
            yield None
        yield videos / "001.mp4"

    own = BatchOptions(workers=1, threads=1)
    for item in embed_patiently(sources(), engines(), Sampling(clips=1), own):
        if item is not None:
            came.append(item.index)
    assert came == [0, 1]


@both
def test_an_error_of_a_list_comes_after_the_videos_in_front_of_it(
    tmp_path: Path, name: str
) -> None:
    tiny_folder(tmp_path, 6)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"".join(b"00%d.mp4\n" % i for i in range(6)) + b"\0.mp4\n")
    with pytest.raises(InputError, match="line 7: a zero byte"):
        job([], tmp_path / name, lists=(listed,))
    assert [known(tmp_path / name, f"00{i}.mp4").state for i in range(6)] == ["done"] * 6


# Parts of a dataset ------------------------------------------------------------------------------


def test_a_part_that_comes_back_under_its_name_is_whole(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long video changes, the run is stopped before its end, and the video is as before."""
    out = tmp_path / "feats.parquet"
    monkeypatch.setattr(parts, "MOST_SPOOLED_BYTES", 10)
    job(videos, out)
    before = rows(out)
    original = (videos / "000.mp4").read_bytes()
    write_tiny(videos / "000.mp4", 50)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(parts.DatasetSink, "finish", _stopped)
        job(videos, out)
    (videos / "000.mp4").write_bytes(original)
    assert job(videos, out).now == ["000.mp4"]
    assert rows(out) == before
    assert job(videos, out).now == []
    assert rows(out) == before


def test_rows_whose_part_is_gone_are_made_again(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats.parquet"
    job(videos, out)
    before = rows(out)
    with closing(sqlite3.connect(state(out) / "manifest-0-of-1.sqlite")) as database:
        database.execute("UPDATE videos SET output = 'part-0-of-1-0000000000000000.parquet'")
        database.execute("INSERT INTO stale VALUES ('part-0-of-1-1111111111111111.parquet', 'x')")
        database.commit()
    assert len(job(videos, out).now) == 3
    assert rows(out) == before


def test_few_parts_are_written_anew_at_once(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, videos = tmp_path / "feats.parquet", tiny_folder(tmp_path / "more", 12)
    monkeypatch.setattr(parts.DatasetSink.__init__, "__defaults__", (2,))
    monkeypatch.setattr(parts, "REWRITTEN_AT_ONCE", 1)
    job(videos, out)
    before = rows(out)
    for path in list(videos.iterdir())[::2]:
        os.utime(path, (7, 7))
    assert len(job(videos, out).now) == 6
    assert rows(out) == before and job(videos, out).now == []


def test_an_interrupted_change_does_not_spoil_what_follows(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.add_to_spool("a", 1, b"a")
        with pytest.raises(KeyboardInterrupt), manifest.together():
            manifest.add_to_spool("b", 1, b"b")
            manifest.commit()  # would let half of it count
            raise KeyboardInterrupt
        manifest.add_to_spool("c", 1, b"c")
        manifest.commit()
    with Manifest(tmp_path / "m.sqlite") as manifest:
        assert [id for id, _ in manifest.spool()] == ["a", "c"]


def test_a_new_part_may_have_the_name_of_one_that_goes(tmp_path: Path) -> None:
    def row(id: str, output: str) -> Row:
        return Row(id, id, 1, 1, "", "done", "", "", output, 0, "", 1.0, 1.0)

    with Manifest(tmp_path / "m.sqlite") as manifest:
        for name in ("A", "B"):
            manifest.add_part(Part(name, 1, ""))
            manifest.record(row(f"in {name}", name))
        manifest.replace_parts(None, [], {"A": Part("B", 1, ""), "B": Part("C", 1, "")})
        assert [part.name for part in manifest.parts()] == ["B", "C"]
        assert [row.output for row in manifest.rows("done")] == ["B", "C"]
        manifest.replace_parts(None, [], {"C": Part("B", 1, ""), "B": None})
        assert [part.name for part in manifest.parts()] == ["B"]


def test_a_manifest_that_was_never_made_is_empty(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    for number in range(2):
        job(videos, out, shard=Shard(number, 2))
    (out / ".ccl" / "manifest-1-of-3.sqlite").touch()
    for number in range(3):
        assert job(videos, out, shard=Shard(number, 3)).now == []


def _stopped(self: object) -> None:
    raise RuntimeError("stopped")
