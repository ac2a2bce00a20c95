"""A batch job where something changed meanwhile: parts, sources, manifests, shards."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
from embed_jobs import ages, engines, ids, job, known, outputs, tiny_folder, write_tiny
from tiny_models import tiny_model

from ccl_hub import embed_many
from ccl_hub.backends import EngineInfo
from ccl_hub.batch import BatchOptions, engines_for
from ccl_hub.batch.pipeline import lane_threads
from ccl_hub.errors import InputError, OutputError
from ccl_hub.inputs.lists import listed_paths
from ccl_hub.inputs.shards import Shard
from ccl_hub.job import dataset, parts
from ccl_hub.job.destination import Destination


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "videos", 3)


def both(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, ["feats", "feats.parquet"])


def manifest(out: Path) -> Path:
    return Destination.at(out).state / "manifest-0-of-1.sqlite"


def change(out: Path, query: str, *values: object) -> None:
    with sqlite3.connect(manifest(out)) as database:
        database.execute(query, values)
    database.close()


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


@both("name")
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


def test_an_incomplete_video_is_tried_again_only_if_asked(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    job(videos, out)
    change(out, "UPDATE videos SET state = 'incomplete', code = 'incomplete' WHERE id = '000.mp4'")
    assert job(videos, out).now == [] and job(videos, out).codes["000.mp4"] == "incomplete"
    assert job(videos, out, retry_failed=True).now == ["000.mp4"]
    assert job(videos, out).summary.all_done


@pytest.mark.parametrize("hostile", ["absolute", "../beside.npz", "foreign.npz"])
def test_a_manifest_cannot_make_overwrite_remove_other_files(
    videos: Path, tmp_path: Path, hostile: str
) -> None:
    out = tmp_path / "feats"
    job(videos, out)
    precious = tmp_path / "precious" if hostile == "absolute" else out / hostile
    precious.write_text("mine")
    name = str(precious) if hostile == "absolute" else hostile
    change(out, "UPDATE videos SET output = ? WHERE id = '000.mp4'", name)
    job(videos, out, clips=2, overwrite=True)
    assert precious.read_text() == "mine"


def test_a_dataset_is_not_touched_where_it_cannot_be_written(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "feats.parquet"
    job(videos, out)
    whole = ages(out)

    def missing() -> None:
        raise OutputError("no pyarrow")

    monkeypatch.setattr("ccl_hub.job.run.check_pyarrow", missing)
    with pytest.raises(OutputError, match="no pyarrow"):
        job(videos, out, clips=2, overwrite=True)
    assert ages(out) == whole
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what find_spec answers None for
    with pytest.raises(OutputError, match=r"needs pyarrow, .*ccl-hub\[parquet\]"):
        dataset.check_pyarrow()


def test_weights_changed_in_memory_are_another_model(videos: Path, tmp_path: Path) -> None:
    job(videos, tmp_path / "feats")
    model = tiny_model()
    with torch.no_grad():
        model.trunk.conv1.weight.mul_(1.01)
    others = engines_for(model, None, "cpu", None, "torch", BatchOptions(threads=1))
    with pytest.raises(InputError, match="tensors_sha256 is"):
        job(videos, tmp_path / "feats", use=others)


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


def test_a_dataset_behind_a_link_keeps_its_state_where_it_is(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "feats.parquet"
    link.symlink_to(tmp_path / "disk" / "real.parquet")
    job(videos, link)
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [
        "real.parquet",
        "real.parquet.ccl",
    ]
    assert job(videos, link).now == []


@pytest.mark.skipif(os.name == "nt", reason="no pipes with names")
def test_a_list_from_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"not a regular file, .* save it to a file"):
        next(listed_paths(tmp_path / "pipe"))


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_shards_that_cannot_be(index: int, count: int) -> None:
    with pytest.raises(InputError, match=f"the shard is {index} of {count}; allowed"):
        Shard(index, count)


def test_one_path_is_not_taken_for_letters() -> None:
    with pytest.raises(InputError, match=r"paths is 'video\.mp4'; allowed: several"):
        embed_many("video.mp4", tiny_model())
    assert next(iter(embed_many(["no.mp4"], tiny_model()))).code == "not_found"


def test_every_core_has_work() -> None:
    (engine,) = engines()

    class Other:
        info = EngineInfo("openvino", "cpu", "float32")

    for cores in (1, 2, 16, 24, 64):
        threads = lane_threads(engine, BatchOptions(threads=cores))
        assert sum(threads) == cores and len(threads) <= 16 and max(threads) - min(threads) <= 1
        assert lane_threads(Other(), BatchOptions(threads=cores)) == [1] * cores


def test_outputs_of_other_programs_stay(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    job(videos, out)
    (out / "notes.txt").write_text("mine")
    job(videos, out, clips=2, overwrite=True)
    assert outputs(out)["notes.txt"] == b"mine"
