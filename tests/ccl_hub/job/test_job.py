"""A batch job as it should go: outputs, names, memory."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from embed_jobs import (
    QUICK,
    Program,
    engines,
    ids,
    job,
    known,
    outputs,
    tiny_folder,
    write_tiny,
)

from ccl_hub._util.files import absolute_path
from ccl_hub.batch import BatchOptions, embed_patiently
from ccl_hub.embed import embed_video
from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.errors import InputError
from ccl_hub.job import JobOptions
from ccl_hub.sampling import Sampling

both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


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


@both
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


PEAK = (
    "import atexit, resource, sys\n"
    "def tell(): sys.stderr.write("
    "f'peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n')\n"
    "atexit.register(tell)\n"
)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="forks")
@both
@pytest.mark.slow
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


pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, and names of POSIX")


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
def test_names_longer_than_any_path(videos: Path, tmp_path: Path, name: str) -> None:
    out, listed = tmp_path / name, tmp_path / "list.txt"
    listed.write_text("\n".join(["a/" * 3000 + "x.mp4", "b" * 300, str(videos / "000.mp4")]))
    assert sorted(job([], out, lists=(listed,)).codes.values()) == ["", "not_found", "not_found"]


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
