"""The parts of a dataset: each row once, whatever is rewritten, damaged or interrupted."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from embed_jobs import (
    DAMAGES,
    ages,
    damage,
    ids,
    job,
    known,
    rows,
    tiny_folder,
    write_tiny,
)

from ccl_hub.job import parts
from ccl_hub.job.manifest import Manifest, Part, Row

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")


@pytest.mark.parametrize("how", DAMAGES)
def test_the_videos_of_a_damaged_part_and_no_others_are_made_again(
    tmp_path: Path, six: Path, how: str
) -> None:
    out = tmp_path / "feats.parquet"
    job(six, out)
    extra = tiny_folder(tmp_path / "extra", 2)
    job(extra, out)  # a part of its own
    whole, before = rows(out), ages(out)
    assert len(before) == 2
    hurt = known(out, "000.mp4").output
    damage(out / hurt, how)
    done = job([six, extra], out)
    assert done.now == [f"{number:03d}.mp4" for number in range(6)]
    assert rows(out) == whole
    other = (before.keys() - {hurt}).pop()
    assert ages(out)[other] == before[other]


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


def test_the_same_video_after_its_part_was_written_anew(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video that is looked up before its part is rewritten, and found unchanged after it."""
    out = tmp_path / "feats.parquet"
    job(videos, out, checksum=True)
    write_tiny(videos / "000.mp4", 50)
    monkeypatch.setattr(parts.DatasetSink.__init__, "__defaults__", (1,))  # a part for each video
    assert job(videos, out, checksum=True).now == ["000.mp4"]
    monkeypatch.undo()
    held = {path.name for path in out.iterdir()}
    assert {known(out, f"00{i}.mp4").output for i in range(3)} <= held
    write_tiny(videos / "001.mp4", 51)
    assert job(videos, out, checksum=True).now == ["001.mp4"]
    assert ids(out) == {f"00{i}.mp4": 1 for i in range(3)}
    assert job(videos, out, checksum=True).now == []


def test_a_long_video_makes_a_part_of_its_own(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "feats.parquet"
    monkeypatch.setattr(parts, "MOST_SPOOLED_BYTES", 10)
    job(videos, out)
    assert len(list(out.iterdir())) == 3 and ids(out) == {f"00{i}.mp4": 1 for i in range(3)}
    assert job(videos, out).now == []
    write_tiny(videos / "001.mp4", 51)
    assert job(videos, out).now == ["001.mp4"]
    assert len(list(out.iterdir())) == 3 and ids(out) == {f"00{i}.mp4": 1 for i in range(3)}


def state(out: Path) -> Path:
    return out.with_name(f"{out.name}.ccl") if out.suffix else out / ".ccl"


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


def _stopped(self: object) -> None:
    raise RuntimeError("stopped")
