"""CCLEmbedder without a cluster: a batch of paths in, a table with every column out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from ccl_hub.batch import BatchOptions
from ccl_hub.embed import Embeddings
from ccl_hub.errors import (
    InputError,
)
from ccl_hub.video import MediaLimits

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")


from ccl_hub.ray import COLUMNS, CCLEmbedder, embed_paths  # noqa: E402

CLIPS = 3


def test_a_batch_of_arrays_gives_a_table_with_every_column(
    model_folder: Path, media: dict[str, Path], same_rows: Callable[..., None]
) -> None:
    embedder = CCLEmbedder(model_folder, clips=CLIPS)
    paths = [None, str(media["missing"]), str(media["long"]), ""]
    batch = {
        "path": np.array(paths, dtype=object),
        "label": np.array([3, 4, 5, 6]),
        "box": np.arange(8).reshape(4, 2),
    }
    table = embedder(batch)
    assert table.column_names == ["path", "label", "box", *COLUMNS]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == [3, 4, 5, 5, 5, 6]
    assert [row["path"] for row in rows] == [*paths[:2], *[paths[2]] * CLIPS, ""]
    assert rows[0]["box"] == [0, 1] and rows[-1]["box"] == [6, 7]
    same_rows(rows[2:-1], "long")
    for row in (*rows[:2], rows[-1]):
        assert (row["status"], row["code"]) == ("failed", "not_found")
        assert row["embedding"] is row["clip_index"] is row["start_seconds"] is None
        assert row["sampling"] == f"clips={CLIPS}" and row["reason"]


def test_an_empty_batch_and_one_of_bad_videos_keep_the_schema(
    model_folder: Path, media: dict[str, Path]
) -> None:
    embedder = CCLEmbedder(model_folder, clips=CLIPS)
    good, bad = ({"path": np.array([str(media[name])])} for name in ("long", "text"))
    empty = pa.table({"path": pa.array([], pa.string())})
    assert embedder(empty).num_rows == 0
    assert embedder(empty).schema == embedder(bad).schema == embedder(good).schema


def test_the_level_of_videos(
    model_folder: Path, media: dict[str, Path], expected: dict[str, Embeddings]
) -> None:
    embedder = CCLEmbedder(model_folder, clips=CLIPS, level="video")
    (row,) = embedder({"path": np.array([str(media["long"])])}).to_pylist()
    np.testing.assert_allclose(row["embedding"], expected["long"].video, rtol=1e-5, atol=1e-6)
    assert (row["clip_index"], row["start_seconds"]) == (None, 0.0)
    assert row["end_seconds"] == pytest.approx(60 / 25)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"file": ["a.mp4"]}, "no column 'path'"),
        ({"path": [1]}, "type int64"),
        ({"path": ["a.mp4"], "code": ["x"]}, "'code' is there already"),
    ],
)
def test_a_table_that_cannot_be_is_refused(model_folder: Path, batch: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        CCLEmbedder(model_folder)(batch)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"level": "frame"}, "level is 'frame'"),
        ({"clips": 2, "every_seconds": 1.0}, "give one"),
        ({"clips": 0}, "clips"),
        ({"videos_per_task": 0}, "videos_per_task is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"backend": "tpu"}, "backend is 'tpu'"),
        ({"backend": "openvino", "gpus_per_actor": 0.5}, "gpus_per_actor=0.5"),
    ],
)
def test_arguments_are_checked_before_there_is_a_cluster(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        embed_paths(["a.mp4"], **arguments)
    assert not ray.is_initialized()


def test_a_decoder_that_crashes_or_hangs_costs_its_own_row_alone(
    model_folder: Path,
    media: dict[str, Path],
    same_rows: Callable[..., None],
    faults: Path,
    monkeypatch: pytest.MonkeyPatch,
    scratch: Path,
) -> None:
    monkeypatch.syspath_prepend(faults)
    long = media["long"].read_bytes()
    for name in ("long", "crash", "hang"):
        fsspec.filesystem("memory").pipe(f"/faults/{name}.mp4", long)
    # Names of copies are not those of their URLs:
    monkeypatch.setattr("ccl_hub.ray.remote_files._suffix", lambda remote: f"_{Path(remote).name}")
    options = BatchOptions(workers=2, deadline_seconds=3.0)
    embedder = CCLEmbedder(model_folder, clips=CLIPS, options=options)
    names = ("crash", "hang", "long")
    rows = embedder({"path": [f"memory://faults/{name}.mp4" for name in names]}).to_pylist()
    same_rows(rows[2:], "long")
    assert [(row["status"], row["code"]) for row in rows[:2]] == [
        ("failed", "crashed"),
        ("failed", "timeout"),
    ]
    assert "SIGKILL" in rows[0]["reason"] and "after 3 s" in rows[1]["reason"]
    assert not list(scratch.iterdir())


def test_options_and_the_backend_reach_the_engines(model_folder: Path) -> None:
    options = BatchOptions(threads=1, memory_bytes=1 << 30, limits=MediaLimits(max_bytes=1))
    embedder = CCLEmbedder(model_folder, options=options)
    assert (embedder.options.threads, embedder.options.memory_bytes) == (1, 1 << 30)
    (row,) = embedder({"path": [__file__]}).to_pylist()
    assert row["code"] == "too_large"
    with pytest.raises(InputError, match="backend openvino takes float32"):
        CCLEmbedder(model_folder, backend="openvino", dtype="bfloat16")


def test_vectors_that_are_not_finite_are_a_failed_row(
    media: dict[str, Path], tmp_path: Path
) -> None:
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters()).fill_(3e38)  # finite, but its products are not
    spoiled = model.save_pretrained(tmp_path / "spoiled")
    (row,) = CCLEmbedder(spoiled, clips=1)({"path": [str(media["long"])]}).to_pylist()
    assert (row["status"], row["code"], row["embedding"]) == ("failed", "not_finite", None)


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'ccl-hub\[ray\]'"):
        embed_paths(["a.mp4"])


def test_categories_and_empty_batches(model_folder: Path, media: dict[str, Path]) -> None:
    embedder = CCLEmbedder(model_folder, clips=1)
    paths = pa.array([str(media["long"])] * 2).dictionary_encode()
    assert embedder(pa.table({"path": paths})).num_rows == 2
    assert embedder({"path": np.array([])}).num_rows == 0


def test_a_remote_video_equals_the_local_one_and_keeps_its_name(
    model_folder: Path,
    media: dict[str, Path],
    same_rows: Callable[..., None],
    scratch: Path,
) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("long", "text"):
        memory.pipe(f"/videos/{name}.mp4", media[name].read_bytes())
    options = BatchOptions(limits=MediaLimits(max_bytes=10**6))
    embedder = CCLEmbedder(model_folder, clips=CLIPS, options=options)
    table = embedder({"path": ["memory://videos/long.mp4", "memory://videos/text.mp4"]})
    rows = table.to_pylist()
    same_rows(rows[:CLIPS], "long")
    assert rows[0]["path"] == "memory://videos/long.mp4"
    assert rows[-1]["code"] == "unsupported" and str(scratch) not in rows[-1]["reason"]
    assert not list(scratch.iterdir())
