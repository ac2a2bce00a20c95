"""What a job repairs: damaged outputs and state, sources that change or go away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from embed_jobs import (
    DAMAGES,
    ages,
    damage,
    ids,
    job,
    outputs,
    rows,
    tiny_folder,
    write_tiny,
)

from ccl_hub.errors import OutputError
from ccl_hub.job.destination import Destination

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_output_and_no_other_is_made_again(tmp_path: Path, six: Path, how: str) -> None:
    job(six, tmp_path)
    whole, before = outputs(tmp_path), ages(tmp_path)
    damage(tmp_path / "003.mp4.npz", how)
    done = job(six, tmp_path)
    assert done.now == ["003.mp4"]
    assert outputs(tmp_path) == whole
    changed = {name for name, age in ages(tmp_path).items() if age != before[name]}
    assert changed == {"003.mp4.npz"}


def test_a_damaged_manifest_is_a_clear_error_and_can_be_removed(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "in", 3)
    for name in ("feats", "feats.parquet"):
        out = tmp_path / name
        job(folder, out)
        whole = rows(out) if "." in name else outputs(out)
        path = Destination.at(out).state / "manifest-0-of-1.sqlite"
        path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
        with pytest.raises(OutputError, match=r"manifest-0-of-1.*cannot be read.*remove it"):
            job(folder, out)
        path.unlink()
        assert len(job(folder, out).now) == 3
        assert (rows(out) if "." in name else outputs(out)) == whole


def test_damaged_settings_are_a_clear_error(tmp_path: Path) -> None:
    folder, out = tiny_folder(tmp_path / "in", 1), tmp_path / "feats"
    job(folder, out)
    for text in ("{", "[1]"):
        (out / ".ccl" / "settings.json").write_text(text)
        with pytest.raises(OutputError, match=r"settings\.json: .*remove"):
            job(folder, out)


both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


@both
def test_what_was_made_of_a_video_that_is_gone_stays(
    videos: Path, tmp_path: Path, name: str
) -> None:
    out, listed = tmp_path / name, [videos / f"00{i}.mp4" for i in range(3)]
    job(listed, out)
    whole = ages(out)
    shutil.move(videos, tmp_path / "elsewhere")  # a disk that is not mounted
    done = job(listed, out)
    assert done.now == [] and done.summary.all_done
    assert ages(out) == whole


@both
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


def test_new_videos_and_those_no_longer_asked_for(tmp_path: Path) -> None:
    folder, out = tiny_folder(tmp_path / "in", 3), tmp_path / "feats"
    job(folder, out)
    (folder / "000.mp4").unlink()
    write_tiny(folder / "sub" / "new.mp4", 8)
    assert job(folder, out).now == ["sub/new.mp4"]
    assert (out / "000.mp4.npz").is_file(), "what is not asked for is left alone"
    assert (out / "sub" / "new.mp4.npz").is_file()


@both
def test_any_time_of_change(videos: Path, tmp_path: Path, name: str) -> None:
    for seconds in (11_000_000_000, -11_000_000_000):
        try:
            os.utime(videos / "001.mp4", (seconds, seconds))
        except OSError:
            pytest.skip("this disk keeps no such time")
        assert "001.mp4" in job(videos, tmp_path / name).now
        assert job(videos, tmp_path / name).now == []
