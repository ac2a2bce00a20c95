"""A batch job as it should go: names, changes of sources, checksums, shards, memory."""

from __future__ import annotations

import csv
import json
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from embed_jobs import (
    QUICK,
    Program,
    ages,
    engines,
    ids,
    job,
    known,
    outputs,
    rows,
    tiny_folder,
    write_tiny,
)

from ccl_hub._util.folder_lock import is_held, only_writer
from ccl_hub.batch import BatchOptions, embed_batch
from ccl_hub.decoding.messages import Job
from ccl_hub.decoding.pool import DecodePool
from ccl_hub.embed import embed_video
from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.errors import InputError, OutputError
from ccl_hub.inputs.shards import Shard
from ccl_hub.job import JobOptions
from ccl_hub.sampling import Sampling


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("small"), 4)


def both(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, ["feats", "feats.parquet"])


# Files that are missing --------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are given to decoding processes."""
    asked: list[str] = []
    submit = DecodePool.submit

    def note(pool: DecodePool, job: Job) -> None:
        asked.append(job.path.name)
        submit(pool, job)

    monkeypatch.setattr(DecodePool, "submit", note)
    return asked


@both("name")
def test_missing_files_need_no_decoding_process(
    tmp_path: Path, name: str, decoded: list[str]
) -> None:
    """A list of 50,000 paths that went stale took a minute, in every run."""
    write_tiny(tmp_path / "000.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    names = ["empty.mp4", "loop.mp4", "000.mp4/x.mp4", *(f"gone/{n}.mp4" for n in range(40))]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*names, "000.mp4"]))
    items = embed_batch(
        (tmp_path / one for one in names), engines(), Sampling(1), BatchOptions(1, 1)
    )
    said = {names[item.index]: (item.code, item.reason) for item in items}
    decoded.clear()
    done = job([], tmp_path / name, lists=(listed,))
    assert decoded == ["000.mp4"]
    for again in (done, job([], tmp_path / name, lists=(listed,))):
        assert {event.id: (event.code, event.reason) for event in again.events} == {
            "000.mp4": ("", ""),
            **said,
        }
        assert again.summary.codes == {"not_found": len(names) - 1, "damaged": 1}
        assert again.summary.failures is not None
        assert len(again.summary.failures.read_text().splitlines()) == 1 + len(names)
    assert decoded == ["000.mp4"]
    assert known(tmp_path / name, "gone/7.mp4").code == "not_found"
    write_tiny(tmp_path / "gone/7.mp4", 7)
    assert job([], tmp_path / name, lists=(listed,)).codes["gone/7.mp4"] == ""
    assert decoded == ["000.mp4", "7.mp4"]


def test_a_missing_file_is_a_first_failure_too(tmp_path: Path, small: Path) -> None:
    gone = [tmp_path / "gone.mp4", tmp_path / "gone2.mp4"]
    done = job([*gone, small], tmp_path / "feats", root=tmp_path, fail_fast=True)
    assert done.summary.stopped and done.codes == {"gone.mp4": "not_found"}, done.codes


# What is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy"])
def test_outputs_are_those_of_one_video_alone(tmp_path: Path, small: Path, suffix: str) -> None:
    done = job(small, tmp_path, clips=2, suffix=suffix)
    assert done.summary.all_done and done.summary.counts == {"done": 4}
    assert done.summary.video_seconds > 1 and done.summary.elapsed_seconds > 0
    assert set(outputs(tmp_path)) == {f"{number:03d}.mp4{suffix}" for number in range(4)}
    alone = embed_video(engines()[0], small / "002.mp4", clips=2, batch_size=2)
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(tmp_path / "002.mp4.npy"), alone.clips)
        return
    found = Embeddings.load(tmp_path / f"002.mp4{suffix}")
    for name in ("clips", "clip_seconds", "frames", "frame_seconds", "video"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(alone, name), rtol=1e-5, atol=1e-5
        )
    assert found.provenance == alone.provenance


@pytest.mark.parametrize(("level", "shape"), [("frame", (2, 8, 16)), ("video", (16,))])
def test_levels_of_npy(tmp_path: Path, small: Path, level: str, shape: tuple) -> None:
    job([small / "001.mp4"], tmp_path, clips=2, suffix=".npy", level=level)
    assert np.load(tmp_path / "001.mp4.npy").shape == shape


def test_a_level_of_files_that_hold_every_one_is_refused_before_anything_is_made(
    tmp_path: Path, small: Path
) -> None:
    with pytest.raises(InputError, match=r"level is 'clip' but \.npz files hold every level"):
        job(small, tmp_path / "x", level="clip")
    assert not list(tmp_path.iterdir())


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="format is 'csv'; allowed: npy, npz, safetensors"):
        JobOptions(suffix=".csv")
    with pytest.raises(InputError, match="level is 'all'; allowed: clip, frame, video"):
        JobOptions(level="all")


# Names -------------------------------------------------------------------------------------------

ODD = [
    b"a/x.mp4",
    b"b/x.mp4",
    b"x.mp4",
    b"x.mkv",
    b"12:30.mp4",
    b"-x.mp4",
    b"p%03d.mp4",
    b"x#y?z.mp4",
    b"new\nline.mp4",
    b"car\rriage.mp4",
    b'quote",comma.mp4',
    b"latin\xe9.mp4",
    b"latin\\xe9.mp4",
    unicodedata.normalize("NFC", "é.mp4").encode(),
    unicodedata.normalize("NFD", "é.mp4").encode(),
    b"n" * 251 + b".mp4",
    "日本.mp4".encode(),
    b" space .mp4",
    b"x.mp4.npz/inside.mp4",
    b".ccl/inside.mp4",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    source = write_tiny(folder / "source.avi", 1)
    try:
        for name in ODD:
            path = folder / os.fsdecode(name)
            path.parent.mkdir(exist_ok=True, parents=True)
            shutil.copy(source, path)
    except OSError:
        pytest.skip("this file system does not take every name")
    source.unlink()
    (folder / os.fsdecode(b"bad\xff\n.mp4")).write_text("no video")
    return folder


@both("name")
def test_every_name_has_its_own_output(tmp_path: Path, odd: Path, name: str) -> None:
    out = tmp_path / name
    hidden = odd / ".ccl" / "inside.mp4"  # only if it is asked for
    done = job([odd, hidden], out, root=odd)
    assert done.summary.counts == {"done": len(ODD), "failed": 1}, done.codes
    names = [event.id for event in done.events]
    assert len(set(names)) == len(ODD) + 1
    for event in done.events:
        json.loads(json.dumps(event.id + event.path + event.reason)).encode()
        assert known(out, event.id).state == event.state
    assert done.summary.failures is not None
    with done.summary.failures.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["id"] in names and row["id"].startswith("bad\\xff\n") and row["code"]
    if name == "feats":
        made = [place for place in outputs(out) if place.endswith(".npz")]
        assert len(made) == len({place.lower() for place in made}) == len(ODD)
        sources = {os.fsencode(Embeddings.load(out / place).provenance.source) for place in made}
        assert sources == {os.fsencode(odd) + b"/" + place for place in ODD}
    else:
        assert set(ids(out).values()) == {1} and len(ids(out)) == len(ODD)
    again = job([odd, hidden], out, root=odd)
    assert again.now == []


def test_a_root_is_the_same_however_it_is_written(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small)
    first = job([Path("000.mp4")], tmp_path / "x", root=Path("../" + small.name))
    assert first.now == ["000.mp4"]
    assert job([small / "000.mp4"], tmp_path / "x", root=small).now == []


def test_later_runs_name_videos_from_the_root_of_the_first(tmp_path: Path, small: Path) -> None:
    write_tiny(tmp_path / "more" / "y.mp4")
    out = tmp_path / "x"
    assert job(small, out).now == [f"{number:03d}.mp4" for number in range(4)]
    # By itself this would be called y.mp4, and another folder's y.mp4 the same.
    (now,) = job(tmp_path / "more", out).now
    assert now.startswith("_abs/") and now.endswith("more/y.mp4")
    assert job([small / "001.mp4"], out).now == []


# Sources that change -----------------------------------------------------------------------------


@both("name")
def test_a_changed_source_is_embedded_anew(tmp_path: Path, name: str) -> None:
    folder, out = tiny_folder(tmp_path / "in", 4), tmp_path / name
    job(folder, out)
    read = rows if name.endswith(".parquet") else outputs
    before = read(out)
    write_tiny(folder / "002.mp4", 50, 7)
    done = job(folder, out)
    assert done.now == ["002.mp4"] and done.summary.kept == 3
    after = read(out)
    assert len(after) == len(before) == 4 and after != before
    if name == "feats":
        assert {place for place in after if after[place] != before[place]} == {"002.mp4.npz"}
    else:
        assert set(ids(out).values()) == {1} and len(after & before) == 3
    os.utime(folder / "001.mp4", (5, 5))  # as new as it may look: the time counts
    assert job(folder, out).now == ["001.mp4"]
    assert read(out) == after
    assert job(folder, out).now == []


def test_every_video_of_a_part_made_anew_to_the_same_bytes_keeps_the_part(tmp_path: Path) -> None:
    """A part's name is its content's hash; the old part must not be removed under that name."""
    folder, out = tiny_folder(tmp_path / "in", 3), tmp_path / "feats.parquet"
    job(folder, out)
    before = rows(out)
    for path in folder.iterdir():
        os.utime(path, (7, 7))
    assert len(job(folder, out).now) == 3
    assert rows(out) == before
    assert job(folder, out).now == []


@both("name")
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


def test_new_videos_and_those_no_longer_asked_for(tmp_path: Path) -> None:
    folder, out = tiny_folder(tmp_path / "in", 3), tmp_path / "feats"
    job(folder, out)
    (folder / "000.mp4").unlink()
    write_tiny(folder / "sub" / "new.mp4", 8)
    assert job(folder, out).now == ["sub/new.mp4"]
    assert (out / "000.mp4.npz").is_file(), "what is not asked for is left alone"
    assert (out / "sub" / "new.mp4.npz").is_file()


@both("name")
def test_shards_are_disjoint_and_complete(tmp_path: Path, small: Path, name: str) -> None:
    now = [job(small, tmp_path / name, shard=Shard(index, 3)).now for index in range(3)]
    assert sorted(id for some in now for id in some) == [f"{n:03d}.mp4" for n in range(4)]
    whole = tmp_path / f"whole-{name}"
    job(small, whole)
    read = rows if name.endswith(".parquet") else outputs
    assert read(tmp_path / name) == read(whole)
    assert job(small, tmp_path / name, shard=Shard(1, 3)).now == []


def test_a_shard_of_nothing_is_done(tmp_path: Path, small: Path) -> None:
    one = [small / "000.mp4"]
    counts = [job(one, tmp_path / "x", shard=Shard(i, 2)).summary.counts["done"] for i in (0, 1)]
    assert sorted(counts) == [0, 1]


# Places ------------------------------------------------------------------------------------------


def test_a_destination_that_is_a_file_is_a_clear_error(tmp_path: Path, small: Path) -> None:
    for name in ("feats", "feats.parquet"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match="the folder cannot be made"):
            job(small, tmp_path / name)
        assert (tmp_path / name).read_text() == "mine"


def test_an_output_place_that_is_taken_by_a_folder_is_a_clear_error(
    tmp_path: Path, small: Path
) -> None:
    (tmp_path / "001.mp4.npz").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"001\.mp4\.npz: cannot be written"):
        job(small, tmp_path)
    (tmp_path / "001.mp4.npz").rmdir()
    assert job(small, tmp_path).summary.all_done


def test_a_lock_file_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(OutputError, match="lock: cannot be locked"), only_writer(tmp_path, "lock"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="no locks on Windows")
def test_looking_at_a_lock_is_not_taken_for_a_run(tmp_path: Path) -> None:
    import threading

    told: list[str] = []
    with only_writer(tmp_path, "lock"):
        assert is_held(tmp_path / "lock")
        entered = threading.Event()

        def wait() -> None:
            with only_writer(tmp_path, "lock", lambda: told.append("waiting")):
                entered.set()

        threading.Thread(target=wait).start()
        assert not entered.wait(0.2), "it is held"
    assert entered.wait(5) and not told, "held for a moment only, which is no news"
    assert not is_held(tmp_path / "lock")


# Memory ------------------------------------------------------------------------------------------

PEAK = (
    "import atexit, resource, sys\n"
    "def tell(): sys.stderr.write("
    "f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n')\n"
    "atexit.register(tell)\n"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with Program(tmp_path_factory.mktemp("program")) as started:
        yield started


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="forks")
@both("name")
def test_memory_does_not_grow_with_the_videos_that_are_done(
    tmp_path: Path, program: Program, name: str
) -> None:
    peaks = []
    for count in (100, 2000):
        folder, out = tmp_path / f"in{count}", tmp_path / f"{count}-{name}"
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:05d}.mp4").write_text(f"video {number}")
        for code in (QUICK, QUICK + PEAK):
            done = program.run(folder, "--out", out, "--clips", 2, "--json", before=code)
            assert done.code == 0, done.stderr
        assert len(done.videos) == count and all(video["kept"] for video in done.videos)
        peaks.append(int(done.stderr.rpartition("peak ")[2]) >> 10)
    assert peaks[1] - peaks[0] < 10, f"{peaks} MB"
