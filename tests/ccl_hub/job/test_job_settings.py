"""A destination belongs to one model and one sampling: refusal, overwriting, what is not ours."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from embed_jobs import (
    ages,
    change,
    engines,
    ids,
    job,
    outputs,
    save_model,
    tiny_folder,
)
from tiny_models import tiny_model

from ccl_hub.backends.int8_cache import tensors_sha256
from ccl_hub.batch import BatchOptions, engines_for
from ccl_hub.embed.embeddings import Embeddings
from ccl_hub.errors import InputError, OutputError
from ccl_hub.inputs.shards import Shard
from ccl_hub.job import parquet

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills process groups")


@pytest.mark.parametrize("name", ["feats", "feats.parquet"])
def test_other_settings_in_the_same_place_are_refused_and_name_both(
    tmp_path: Path, six: Path, name: str
) -> None:
    import torch

    from ccl_hub import CCLModel
    from ccl_hub.batch import BatchOptions, engines_for

    first, second = save_model(tmp_path / "one"), tmp_path / "two"
    net = CCLModel.from_pretrained(first)
    with torch.no_grad():
        net.trunk.conv1.weight.mul_(1.5)
    net.save_pretrained(second)

    def loaded(folder: Path, dtype: str = "float32") -> list:
        return engines_for(folder, None, "cpu", dtype, "torch", BatchOptions(threads=1))

    ours, theirs = loaded(first), loaded(second)
    out, one = tmp_path / name, [six / "000.mp4"]
    job(one, out, use=ours)
    whole = ages(out)
    hashes = [tensors_sha256(engines[0].model) for engines in (ours, theirs)]
    is_dataset = name.endswith(".parquet")
    cases = {
        f"tensors_sha256 is '{hashes[0]}' there, '{hashes[1]}' now": {"use": theirs},
        "sampling is 'clips=1' there, 'clips=3' now": {"clips": 3, "use": ours},
        "dtype is 'float32' there, 'bfloat16' now": {"use": loaded(first, "bfloat16")},
        f"root is '{six}' there, '{tmp_path}' now": {"root": tmp_path, "use": ours},
    }
    if is_dataset:
        cases["level is 'clip' there, 'video' now"] = {"level": "video", "use": ours}
    else:
        cases["format is 'npz' there, 'npy' now"] = {"suffix": ".npy", "use": ours}
    for message, other in cases.items():
        with pytest.raises(InputError) as caught:
            job(one, out, **other)
        assert message in str(caught.value) and "--overwrite" in str(caught.value)
    assert ages(out) == whole
    assert job(one, out, use=ours).now == []


def test_another_backend_is_refused(tmp_path: Path, six: Path) -> None:
    from dataclasses import replace

    class Other:
        """The same network that says it runs elsewhere."""

        def __init__(self) -> None:
            self.inner = engines()[0]
            self.info = replace(self.inner.info, backend="openvino-int8", detail="abc")

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    job([six / "000.mp4"], tmp_path / "x")
    with pytest.raises(InputError, match="backend is 'torch' there, 'openvino-int8 abc' now"):
        job([six / "000.mp4"], tmp_path / "x", use=[Other()])


def test_overwrite_removes_what_a_job_made_and_nothing_else(tmp_path: Path, six: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    out = tmp_path / "feats"
    job([six, bad], out, root=six)
    assert (out / "failures.csv").is_file() and len(outputs(out)) == 7
    (out / "notes.txt").write_text("mine")
    (out / "000.mp4.npy").write_text("mine, too")
    done = job([six / "001.mp4"], out, root=six, suffix=".safetensors", overwrite=True)
    assert done.now == ["001.mp4"]
    assert set(outputs(out)) == {"notes.txt", "000.mp4.npy", "001.mp4.safetensors"}
    assert (out / "notes.txt").read_text() == "mine"


def test_overwrite_with_the_same_settings_removes_nothing(tmp_path: Path, six: Path) -> None:
    job(six, tmp_path / "x")
    assert job(six, tmp_path / "x", overwrite=True).now == []


def test_overwrite_of_a_dataset_removes_every_part_of_every_shard(
    tmp_path: Path, six: Path
) -> None:

    out = tmp_path / "feats.parquet"
    for index in range(2):
        job(six, out, shard=Shard(index, 2))
    (out / "part-0-of-2-0123456789abcdef.parquet").write_text("of a run that was killed")
    with pytest.raises(InputError, match="made by runs of 2 shards, this is one of 1"):
        job(six, out)
    job(six, out, overwrite=True)
    assert ids(out) == dict.fromkeys(sorted(path.name for path in six.iterdir()), 1)
    (part,) = out.iterdir()
    assert part.name.startswith("part-0-of-1-")


def test_a_dataset_that_lost_its_state_is_not_mixed_with_another_number_of_shards(
    tmp_path: Path, six: Path
) -> None:

    out = tmp_path / "feats.parquet"
    job(six, out)
    shutil.rmtree(tmp_path / "feats.parquet.ccl")
    with pytest.raises(InputError, match="not the state of the job that made it"):
        job(six, out, shard=Shard(0, 2))
    job(six, out, overwrite=True)
    with pytest.raises(InputError, match="made by runs of 1 shards, this is one of 2"):
        job(six, out, shard=Shard(0, 2))
    assert set(ids(out).values()) == {1} and len(ids(out)) == 6


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
        parquet.check_pyarrow()


def test_weights_changed_in_memory_are_another_model(videos: Path, tmp_path: Path) -> None:
    job(videos, tmp_path / "feats")
    model = tiny_model()
    with torch.no_grad():
        model.trunk.conv1.weight.mul_(1.01)
    others = engines_for(model, None, "cpu", None, "torch", BatchOptions(threads=1))
    with pytest.raises(InputError, match="tensors_sha256 is"):
        job(videos, tmp_path / "feats", use=others)


def test_outputs_of_other_programs_stay(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "feats"
    job(videos, out)
    (out / "notes.txt").write_text("mine")
    job(videos, out, clips=2, overwrite=True)
    assert outputs(out)["notes.txt"] == b"mine"


both = pytest.mark.parametrize("name", ["feats", "feats.parquet"])


def state(out: Path) -> Path:
    return out.with_name(f"{out.name}.ccl") if out.suffix else out / ".ccl"


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


def test_overwrite_needs_no_root_that_is_gone(tmp_path: Path) -> None:
    first, second = tiny_folder(tmp_path / "a", 1), tiny_folder(tmp_path / "b", 2)
    out = tmp_path / "feats"
    job(first, out)
    shutil.rmtree(first)
    assert job(second, out, clips=2, overwrite=True).now == ["000.mp4", "001.mp4"]
    assert len(outputs(out)) == 2
