"""Several runs of one job, at once or with other numbers of shards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from embed_jobs import (
    Program,
    ages,
    ids,
    job,
    outputs,
    rows,
    tiny_folder,
    write_tiny,
)

from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.inputs.shards import Shard

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")


COUNT = 200
# Executed in a run, so that it is at work for some seconds however fast the machine is.
SLOWLY = """
import time
from ccl_hub.job.events import JobSummary
add = JobSummary.add
def slow(self, event):
    time.sleep(0.02)
    add(self, event)
JobSummary.add = slow
"""
# Executed in a run, so that it stops behind its first video until a file is there.
HELD = """
import time
from pathlib import Path
from ccl_hub.job.events import JobSummary
add, told = JobSummary.add, []
def held(self, event):
    told.append(event)
    while len(told) > 1 and not Path({go!r}).exists():
        time.sleep(0.01)
    add(self, event)
JobSummary.add = held
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("videos"), COUNT)


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_a_second_run_waits_and_finds_everything_done(
    tmp_path: Path, program: Program, many: Path, model: Path, name: str
) -> None:
    arguments = (many, "--model", model, "--clips", 1, "--out", tmp_path / name, "--json")
    first = program.start(*arguments, before=SLOWLY)
    while not first.videos:
        assert first.poll() is None, first.stderr
        time.sleep(0.01)
    second = program.start(*arguments)
    first.wait()
    second.wait()
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    assert "another run is writing the same shard here; waiting" in second.stderr
    assert "waiting" not in first.stderr
    assert len(first.videos) == len(second.videos) == COUNT
    assert not any(video["kept"] for video in first.videos)
    assert all(video["kept"] for video in second.videos)
    assert len(rows(tmp_path / name) if "." in name else outputs(tmp_path / name)) == COUNT


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
@pytest.mark.slow
def test_shards_at_once_share_the_videos(
    tmp_path: Path, program: Program, many: Path, model: Path, name: str
) -> None:
    out = tmp_path / name
    arguments = (many, "--model", model, "--clips", 1, "--out", out, "--json", "--workers", 1)
    go = tmp_path / "go"
    held = HELD.format(go=str(go))
    runs = [program.start(*arguments, "--shard", f"{index}/3", before=held) for index in range(3)]
    while not runs[0].videos:
        assert runs[0].poll() is None, runs[0].stderr
        time.sleep(0.01)
    other = program.run(*arguments, "--shard", "0/2")
    assert other.code == 1, other.stderr
    assert "a run with another number of shards is writing here" in other.stderr
    go.touch()
    for run in runs:
        assert run.wait().code == 0, run.stderr
        assert "waiting" not in run.stderr
    told = [video["id"] for run in runs for video in run.videos]
    assert sorted(told) == sorted(path.name for path in many.iterdir())
    if name == "feats":
        found = outputs(out)
        assert len(found) == COUNT
        for place in found:
            Embeddings.load(out / place)
    else:
        assert len(rows(out)) == sum(ids(out).values()) == COUNT


def test_runs_without_shards_after_shards_take_over_what_is_done(tmp_path: Path) -> None:
    from ccl_hub.inputs.shards import Shard

    folder, out = tiny_folder(tmp_path / "in", 8), tmp_path / "feats"
    for number in range(4):
        (folder / f"bad{number}.mp4").write_text("no video")
    job(folder, out)
    whole = ages(out)
    failures = 0
    for index in range(2):
        done = job(folder, out, shard=Shard(index, 2))
        assert done.now == []
        listed = done.summary.failures
        assert listed == out / f"failures-{index}-of-2.csv"
        failures += len(listed.read_text().splitlines()) - 1
    assert failures == 4
    assert not (out / "failures.csv").exists(), "it would go stale"
    (folder / "bad0.mp4").write_bytes((folder / "000.mp4").read_bytes())
    now = [id for index in range(2) for id in job(folder, out, shard=Shard(index, 2)).now]
    assert now == ["bad0.mp4"]
    done = job(folder, out)
    assert len((out / "failures.csv").read_text().splitlines()) == 4
    assert not list(out.glob("failures-*"))
    assert {n: a for n, a in ages(out).items() if n in whole and n.endswith("npz")} == {
        n: a for n, a in whole.items() if n.endswith("npz")
    }


both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


@both
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


def test_the_newest_word_on_a_video_counts_whatever_the_number_of_shards(
    videos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "feats"
    (videos / "001.mp4").write_bytes(b"not a video")
    assert job(videos, out).codes["001.mp4"] == "unsupported"
    write_tiny(videos / "001.mp4", 1)
    for index in range(2):
        job(videos, out, shard=Shard(index, 2))
    done = job(videos, out)
    assert done.now == [] and done.summary.all_done


def test_a_manifest_that_was_never_made_is_empty(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    for number in range(2):
        job(videos, out, shard=Shard(number, 2))
    (out / ".ccl" / "manifest-1-of-3.sqlite").touch()
    for number in range(3):
        assert job(videos, out, shard=Shard(number, 3)).now == []
