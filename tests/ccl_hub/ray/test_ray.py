"""Ray Data: rows equal to embed_video, from parquet to parquet, and crashes inside actors.

One local cluster of two CPUs serves the whole module.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flaky_files import make_flaky
from project import ROOT

from ccl_hub import HubOptions
from ccl_hub.batch import BatchOptions
from ccl_hub.embed import Embeddings
from ccl_hub.errors import (
    InputError,
)
from ccl_hub.ray.remote_files import PREFIX

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

from ray.data.expressions import col  # noqa: E402

from ccl_hub.ray import COLUMNS, CCLEmbedder, embed_paths  # noqa: E402

# Ray warns of its own defaults.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.* is deprecated:DeprecationWarning:ray\.data\."),
]
CLIPS = 3


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """What Ray reads: no reports of its use, and no token in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module")
def cluster(environment: None) -> Iterator[None]:
    """A cluster of two CPUs that no other machine reaches."""
    ray.init(
        num_cpus=2,
        num_gpus=1,  # which Ray only counts
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200_000_000,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def rows_of(dataset: object) -> dict[str, list[dict]]:
    """Rows by the stem of their path, in the order of their clips."""
    found: dict[str, list[dict]] = {}
    for row in dataset.take_all():
        found.setdefault(Path(row["path"]).stem, []).append(row)
    return {name: sorted(rows, key=lambda r: r["clip_index"] or 0) for name, rows in found.items()}


# On a cluster ------------------------------------------------------------------------------------


def test_every_video_of_a_list_gives_its_rows(
    cluster: None,
    model_folder: Path,
    media: dict[str, Path],
    expected: dict[str, Embeddings],
    same_rows: Callable[..., None],
) -> None:
    dataset = embed_paths(
        [*media.values(), f"file://{media['long'].with_name('whole.mkv')}"],
        model_folder,
        clips=CLIPS,
        concurrency=2,
        cpus_per_actor=0.5,
        videos_per_task=2,
    )
    rows = rows_of(dataset)
    assert set(rows) == {*media, "whole"}
    for name in expected:
        same_rows(rows[name], name)
    status = {name: (found[0]["status"], found[0]["code"]) for name, found in rows.items()}
    assert status == {
        **dict.fromkeys(("long", "short", "stream", "whole"), ("ok", "")),
        "cut": ("incomplete", ""),
        "text": ("failed", "unsupported"),
        "missing": ("failed", "not_found"),
    }
    assert len(rows["text"]) == len(rows["missing"]) == 1


@pytest.mark.slow
def test_parquet_to_parquet(
    cluster: None,
    model_folder: Path,
    media: dict[str, Path],
    expected: dict[str, Embeddings],
    tmp_path: Path,
) -> None:
    names = ["long", "text", "short"]
    listed = pa.table(
        {"video": [str(media[n]) for n in names], "label": pa.array([1, None, 3], pa.int16())}
    )
    pq.write_table(listed, tmp_path / "list.parquet")

    class Embedder(CCLEmbedder):
        def __init__(self, **kwargs: object) -> None:
            assert kwargs.pop("device") == "cuda"
            assert ray.get_runtime_context().get_assigned_resources()["GPU"] == 0.25
            super().__init__(**kwargs)
            assert self.options.workers == self.options.threads == 1

    dataset = embed_paths(
        f"file://{tmp_path}/list.parquet",
        model_folder,
        clips=CLIPS,
        path_column="video",
        gpus_per_actor=0.25,
        videos_per_task=2,
        embedder=Embedder,
    )
    dataset.write_parquet(str(tmp_path / "out"))

    # A block is what an actor embeds at once, however the videos are listed.
    blocks = [pq.read_table(path) for path in (tmp_path / "out").glob("*.parquet")]
    assert sorted(len(set(block["video"].to_pylist())) for block in blocks) == [1, 2]
    pattern = str(tmp_path / "out" / "*.parquet")
    table = pq.read_table(tmp_path / "out")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert table.schema.field("label").type == pa.int16()
    assert table.column_names == ["video", "label", *COLUMNS]
    assert table.num_rows == 2 * CLIPS + 1
    wanted = expected["long"].clips

    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(tmp_path / "out")
    long = frame[frame["label"] == 1].sort_values("clip_index")
    np.testing.assert_allclose(np.stack(long["embedding"]), wanted, rtol=1e-5, atol=1e-6)
    assert frame.loc[frame["status"] == "failed", "embedding"].isna().all()

    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(pattern)
    assert frame.schema["embedding"] == polars.Array(polars.Float32, 16)
    long = frame.filter(polars.col("label") == 1).sort("clip_index")
    np.testing.assert_allclose(long["embedding"].to_numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert frame.filter(polars.col("status") == "failed")["embedding"].null_count() == 1

    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        query = "SELECT embedding FROM read_parquet(?) WHERE label = 1 ORDER BY clip_index"
        vectors = [row[0] for row in connection.execute(query, [pattern]).fetchall()]
    np.testing.assert_allclose(vectors, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Use 'expr' instead of 'fn'")
@pytest.mark.slow
def test_a_filter_by_an_expression_keeps_the_type_of_vectors(
    cluster: None, model_folder: Path, media: dict[str, Path], tmp_path: Path
) -> None:
    """What docs/clusters.md says: a Python function does not, and null vectors must go first."""
    options = HubOptions(token="hf_geheim", subfolder=model_folder.name)  # noqa: S106
    rows = embed_paths(
        [media["text"], media["long"]], model_folder.parent, level="video", hub=options
    )
    assert "geheim" not in f"{rows!r} {rows} {rows._logical_plan.dag}"
    rows = rows.materialize()

    def written(dataset: object, name: str) -> Any:
        dataset.write_parquet(str(tmp_path / name))
        return pq.read_table(tmp_path / name)["embedding"]

    kept = written(rows.filter(expr=col("status") != "failed"), "expression")
    assert kept.type == pa.list_(pa.float32(), 16) and (len(kept), kept.null_count) == (1, 0)
    lost = written(rows.filter(lambda row: row["status"] != "failed"), "function")
    assert not pa.types.is_fixed_size_list(lost.type), "Ray mends it: docs/clusters.md may say so"
    assert lost.to_pylist() == kept.to_pylist(), "the numbers are the same"

    polars = pytest.importorskip("polars")
    rows.write_parquet(str(tmp_path / "all"))
    frame = polars.read_parquet(tmp_path / "all")
    query = np.array(kept.to_pylist()[0])

    def best(frame: Any) -> set[str]:
        scores = polars.Series("score", frame["embedding"].to_numpy() @ query)
        ranked = frame.with_columns(scores).sort("score", descending=True)
        return {ranked["status"][0], frame["status"][int(np.argmax(scores))]}

    assert best(frame) == {"failed"}, "a null vector comes first"
    assert best(frame.filter(polars.col("status") != "failed")) == {"ok"}


# Ray's own listing threads are interrupted when a file turns out to be none.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_such_parquet(cluster: None, tmp_path: Path, media: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="cannot be read as parquet"):
        embed_paths(tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"long\.mp4: cannot be read as parquet"):
        embed_paths(media["long"])
    pq.write_table(pa.table({"file": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=r"no column 'path'.*are file"):
        embed_paths(tmp_path / "list.parquet")
    with pytest.raises(InputError, match="paths is empty"):
        embed_paths([])


@pytest.mark.slow
def test_a_model_that_cannot_be_had_fails_the_job(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(ray.exceptions.RayError, match="neither a known name"):
        embed_paths(["a.mp4"], str(tmp_path / "no_model")).take_all()


def test_a_flaky_file_system_in_the_actors(
    cluster: None,
    model_folder: Path,
    media: dict[str, Path],
    same_rows: Callable[..., None],
) -> None:
    class Embedder(CCLEmbedder):
        def __init__(self, **kwargs: object) -> None:
            fsspec.register_implementation("flaky", make_flaky(), clobber=True)
            super().__init__(**kwargs)

    long, missing = media["long"], media["missing"]
    items = [{"path": f"flaky://{p}"} for p in (f"1{long}", f"3{long}", f"0{missing}")]
    own = [sys.modules[name] for name in (__name__, make_flaky.__module__)]
    for module in own:  # the actors do not have the folders of the tests
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        dataset = ray.data.from_items(items).map_batches(
            Embedder,
            fn_constructor_kwargs={"model": model_folder, "clips": CLIPS, "retries": 1},
            batch_size=2,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        rows = dataset.take_all()
    finally:
        for module in own:
            ray.cloudpickle.unregister_pickle_by_value(module)
    by_path = {row["path"]: [r for r in rows if r["path"] == row["path"]] for row in rows}
    same_rows(by_path[f"flaky://1{long}"], "long")
    assert [r["code"] for r in by_path[f"flaky://3{long}"]] == ["unreadable"]
    assert [r["code"] for r in by_path[f"flaky://0{missing}"]] == ["not_found"]


@pytest.mark.slow
def test_decoders_that_crash_or_hang_in_the_actors(
    cluster: None,
    model_folder: Path,
    media: dict[str, Path],
    same_rows: Callable[..., None],
    faults: Path,
    tmp_path: Path,
) -> None:
    bad = [tmp_path / "crash.mp4", tmp_path / "hang.mp4"]
    for path in bad:
        shutil.copy(media["long"], path)
    path = os.pathsep.join([str(faults), os.environ["PYTHONPATH"]])
    dataset = embed_paths(
        [*bad, media["long"], media["short"]],
        model_folder,
        clips=CLIPS,
        options=BatchOptions(deadline_seconds=3.0),
        actor_options={"runtime_env": {"env_vars": {"PYTHONPATH": path}}},
    )
    rows = rows_of(dataset)
    same_rows(rows["long"], "long")
    same_rows(rows["short"], "short")
    assert [(row["status"], row["code"]) for row in rows["crash"]] == [("failed", "crashed")]
    assert [(row["status"], row["code"]) for row in rows["hang"]] == [("failed", "timeout")]
    assert set(rows) == {"long", "short", "crash", "hang"}


@pytest.mark.slow
def test_an_actor_that_dies_does_its_block_again(
    cluster: None,
    model_folder: Path,
    media: dict[str, Path],
    same_rows: Callable[..., None],
    tmp_path: Path,
) -> None:
    deaths = tmp_path / "deaths"
    copies = tmp_path / "copies"
    copies.mkdir()

    class Embedder(CCLEmbedder):
        def _rows_of(self, item: object) -> object:
            if not deaths.exists():
                deaths.mkdir()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._rows_of(item)

    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.write(media["long"], "long.mp4")
        archive.write(media["short"], "short.mkv")
    dataset = embed_paths(
        [f"zip://{name}::file://{tmp_path}/videos.zip" for name in ("long.mp4", "short.mkv")],
        model_folder,
        clips=CLIPS,
        embedder=Embedder,
        actor_options={"runtime_env": {"env_vars": {"TMPDIR": str(copies)}}},
    )
    rows = dataset.take_all()
    assert deaths.exists()
    for name in ("long", "short"):
        found = [row for row in rows if f"{name}." in row["path"]]
        same_rows(sorted(found, key=lambda row: row["clip_index"]), name)
    assert not list(copies.glob(f"{PREFIX}*")), "left by the process that died"


@pytest.mark.slow
def test_the_example(
    environment: None, model_folder: Path, media: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(media["long"], folder)
    shutil.copy(media["text"], folder / "deeper")
    command = [sys.executable, str(ROOT / "examples" / "embed_with_ray.py"), str(folder)]
    options = ["--out", "features", "--model", str(model_folder), "--clips", "2", "--cpus", "1"]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "3 rows in features; 1 videos failed" in done.stderr
    assert "text.mp4: unsupported: not a supported" in done.stderr
    assert pq.read_table(tmp_path / "features").num_rows == 3
    again = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2 and "is there already" in again.stderr
