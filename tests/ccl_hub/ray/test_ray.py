"""Ray Data: rows equal to embed_video, bad videos as rows, remote files, crashes, parquet.

One local cluster of two CPUs serves the whole module.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import Recipe, cut, write_video
from project import ROOT
from tiny_models import tiny_model

from ccl_hub import HubOptions
from ccl_hub.batch import BatchOptions
from ccl_hub.embed import Embeddings, embed_video
from ccl_hub.errors import (
    InputError,
    MediaLimitError,
    MediaNotFoundError,
    OutputError,
    UnreadableError,
)
from ccl_hub.model import CCLModel
from ccl_hub.ray.remote_files import COPIES_AT_ONCE, PREFIX, LocalCopies, remove_copies
from ccl_hub.video import MediaLimits

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

from ray.data.expressions import col  # noqa: E402

from ccl_hub.ray import COLUMNS, CCLEmbedder, embed_paths  # noqa: E402
from ccl_hub.ray.rows import FACTS  # noqa: E402

# Ray warns of its own defaults.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.* is deprecated:DeprecationWarning:ray\.data\."),
]
CLIPS = 3
FAULTS = """
import os, sys, time

if any("ccl_hub.decoding.worker" in word for word in sys.orig_argv):
    from ccl_hub.video import reader as video

    class VideoReader(video.VideoReader):
        def __init__(self, path, **kwargs):
            if path.stem.endswith("crash"):
                os.kill(os.getpid(), 9)
            if path.stem.endswith("hang"):
                time.sleep(600)
            super().__init__(path, **kwargs)

    video.VideoReader = VideoReader
"""  # of a sitecustomize.py: decoding processes fail on videos of certain names


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two whole videos, one that is cut short, one that is none, and one that is missing."""
    folder = tmp_path_factory.mktemp("media")
    long = write_video(folder, Recipe("long.mp4", "libx264", frames=60))
    short = write_video(folder, Recipe("short.mkv", "libx264", frames=20))
    stream = write_video(folder, Recipe("stream.ts", "mpeg2video", frames=60))
    text = folder / "text.mp4"
    text.write_text("not a video")
    partial = cut(write_video(folder, Recipe("whole.mkv", "libx264")), folder / "cut.mkv", 0.6)
    found = [long, short, stream, text, partial, folder / "missing.mp4"]
    return {path.stem: path for path in found}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for PYTHONPATH: decoding processes crash or hang on videos named so."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "sitecustomize.py").write_text(FAULTS)
    return folder


@pytest.fixture(scope="module")
def expected(model_folder: Path, media: dict[str, Path]) -> dict[str, Embeddings]:
    model = CCLModel.from_pretrained(model_folder)
    names = ("long", "short", "stream", "cut")
    return {name: embed_video(model, media[name], clips=CLIPS, batch_size=2) for name in names}


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


def same_rows(rows: list[dict], wanted: Embeddings) -> None:
    assert [row["clip_index"] for row in rows] == list(range(len(wanted.clips)))
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    np.testing.assert_allclose(vectors, wanted.clips, rtol=1e-5, atol=1e-6)
    spans = [(row["start_seconds"], row["end_seconds"]) for row in rows]
    np.testing.assert_array_equal(spans, wanted.clip_seconds)
    facts = wanted.provenance
    for name in (*FACTS, "completeness"):
        assert {row[name] for row in rows} == {getattr(facts, name)}, name


# Without a cluster -------------------------------------------------------------------------------


def test_a_batch_of_arrays_gives_a_table_with_every_column(
    model_folder: Path, media: dict[str, Path], expected: dict[str, Embeddings]
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
    same_rows(rows[2:-1], expected["long"])
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
    expected: dict[str, Embeddings],
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
    same_rows(rows[2:], expected["long"])
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


# Remote files ------------------------------------------------------------------------------------


def make_flaky() -> type:
    """Return a file system over local files whose faults are in the name: flaky://3/path."""

    class Flaky(fsspec.get_filesystem_class("file")):
        protocol = "flaky"
        root_marker = ""
        opened: dict = {}  # noqa: RUF012 - of the process, on purpose

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("flaky://")

        def open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
            failures, _, rest = path.partition("/")
            self.opened[path] = self.opened.get(path, 0) + 1
            if failures == "denied":
                raise PermissionError("denied")
            if self.opened[path] <= int(failures):
                raise ConnectionResetError("the line is down")
            return super().open("/" + rest, mode)

    return Flaky


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type:
    kind = make_flaky()
    fsspec.register_implementation("flaky", kind, clobber=True)
    monkeypatch.setattr("ccl_hub.ray.remote_files.FIRST_DELAY_SECONDS", 0.01)
    return kind


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put temporary files into a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def fetched(*paths: str, **options: object) -> list[bytes | Exception]:
    """What each path gives, in their order; copies are dropped as they are read."""
    found: dict[int, bytes | Exception] = {}
    with LocalCopies(**options) as copies:
        for number, copy in copies.fetch(paths):
            if isinstance(copy, Path):
                found[number] = copy.read_bytes()
                copies.drop(copy)
            else:
                found[number] = copy
    return [found[number] for number in range(len(paths))]


def test_a_remote_file_is_copied_with_its_suffix_and_deleted(scratch: Path) -> None:
    fsspec.filesystem("memory").pipe("/in/a.MP4", b"0123456789")
    with LocalCopies() as copies:
        ((number, copy),) = copies.fetch(["memory://in/a.MP4"])
        assert number == 0 and copy.read_bytes() == b"0123456789" and copy.suffix == ".MP4"
        assert copy.parent.parent == scratch and copy.parent.name.startswith(PREFIX)
        copies.drop(copy)
        assert not copy.exists()
        list(copies.fetch(["memory://in/a.MP4"]))  # not dropped
    assert not list(scratch.iterdir())
    with pytest.raises(KeyError), LocalCopies() as copies:
        next(copies.fetch(["memory://in/a.MP4"] * 9))
        raise KeyError
    assert not list(scratch.iterdir())


def test_local_files_are_not_copied(tmp_path: Path) -> None:
    local = tmp_path / "a.mp4"
    local.write_bytes(b"x")
    with LocalCopies() as copies:
        assert dict(copies.fetch(["a.mp4", f"file://{local}"])) == {0: Path("a.mp4"), 1: local}
        copies.drop(local)
    assert local.exists()


def test_files_are_copied_at_once_and_a_few_ahead(scratch: Path) -> None:
    names = [f"memory://many/{number}.bin" for number in range(20)]
    for number, name in enumerate(names):
        fsspec.filesystem("memory").pipe(name.removeprefix("memory:/"), bytes([number]))
    assert fetched(*names) == [bytes([number]) for number in range(20)]
    with LocalCopies() as copies:
        found = copies.fetch(names)
        copies.drop(next(found)[1])
        (folder,) = scratch.iterdir()
        assert len(list(folder.iterdir())) <= COPIES_AT_ONCE
    gate = threading.Barrier(COPIES_AT_ONCE, timeout=10)  # passed by so many at once, or never

    class Slow(fsspec.get_filesystem_class("memory")):
        protocol = "slow"

        def open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
            gate.wait()
            return io.BytesIO(b"x")

    fsspec.register_implementation("slow", Slow, clobber=True)
    urls = [f"slow://a/{number}.mp4" for number in range(COPIES_AT_ONCE)]
    assert fetched(*urls, retries=0) == [b"x"] * COPIES_AT_ONCE


def test_what_fails_for_a_while_is_tried_again(
    flaky: type, scratch: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = tmp_path_factory.mktemp("remote") / "a.mp4"
    source.write_bytes(b"x" * 10)
    copied, failed = fetched(f"flaky://3{source}", f"flaky://4{source}", retries=3)
    assert copied == b"x" * 10
    assert isinstance(failed, UnreadableError) and failed.code == "unreadable"
    assert "after 3 retries (the line is down)" in str(failed)
    assert flaky.opened == {f"3{source}": 4, f"4{source}": 4}
    assert not list(scratch.iterdir())


def test_what_cannot_succeed_is_tried_once(flaky: type, scratch: Path) -> None:
    urls = ("flaky://denied/a.mp4", "flaky://0/a/b.mp4", "nowhere://a/b.mp4", "", None)
    denied, missing, unknown, *empty = fetched(*urls)
    assert isinstance(denied, UnreadableError) and "denied" in str(denied)
    assert isinstance(missing, MediaNotFoundError) and "no such file" in str(missing)
    assert isinstance(unknown, UnreadableError) and "nowhere" in str(unknown)
    assert all(isinstance(error, MediaNotFoundError) for error in empty)
    assert set(flaky.opened.values()) == {1} and not list(scratch.iterdir())


def test_a_file_that_comes_short_is_tried_again(scratch: Path) -> None:
    class Stated(io.BytesIO):
        size = 20

    class Short(fsspec.get_filesystem_class("memory")):
        protocol = "short"

        def open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
            return Stated(b"0123456789")

    fsspec.register_implementation("short", Short, clobber=True)
    (error,) = fetched("short://in/short.mp4", retries=0)
    assert isinstance(error, UnreadableError) and "10 of 20 bytes" in str(error)


def test_a_file_that_is_too_large_is_not_copied(scratch: Path) -> None:
    fsspec.filesystem("memory").pipe("/in/big.mp4", b"x" * 11)
    (error,) = fetched("memory://in/big.mp4", max_bytes=10)
    assert isinstance(error, MediaLimitError) and "at most 10" in str(error)
    assert fetched("memory://in/big.mp4", max_bytes=11) == [b"x" * 11]
    assert not list(scratch.iterdir())


def test_no_place_for_copies_is_not_about_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    fsspec.filesystem("memory").pipe("/in/a.mp4", b"x")
    embedder = CCLEmbedder(model_folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match="TMPDIR"):
        embedder({"path": ["memory://in/a.mp4"]})


KILLED = """
import os, sys, tempfile
import fsspec
from ccl_hub.ray.remote_files import LocalCopies
tempfile.tempdir = sys.argv[1]
fsspec.filesystem("memory").pipe("/a.mp4", b"x")
with LocalCopies() as copies:
    list(copies.fetch(["memory://a.mp4"]))
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed(scratch: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, scratch], cwd=ROOT, check=False)
    (left,) = scratch.iterdir()
    assert (left / "0.mp4").read_bytes() == b"x"
    fsspec.filesystem("memory").pipe("/in/a.mp4", b"y")
    with LocalCopies() as copies:
        ((_, copy),) = copies.fetch(["memory://in/a.mp4"])
        remove_copies()
        assert copy.read_bytes() == b"y" and not left.exists()


def test_an_archive_that_cannot_be_read_costs_its_own_rows(flaky: type, scratch: Path) -> None:
    """Such file systems read, or connect, when they are made."""
    (scratch / "torn.zip").write_bytes(b"PK torn")
    urls = [f"zip://a.mp4::file://{scratch}/{name}.zip" for name in ("none", "torn")]
    missing, torn = fetched(*urls, retries=1)
    assert (missing.code, torn.code) == ("not_found", "unreadable")
    assert "zip" in str(torn)


def test_categories_and_empty_batches(model_folder: Path, media: dict[str, Path]) -> None:
    embedder = CCLEmbedder(model_folder, clips=1)
    paths = pa.array([str(media["long"])] * 2).dictionary_encode()
    assert embedder(pa.table({"path": paths})).num_rows == 2
    assert embedder({"path": np.array([])}).num_rows == 0


def test_a_remote_video_equals_the_local_one_and_keeps_its_name(
    model_folder: Path, media: dict[str, Path], expected: dict[str, Embeddings], scratch: Path
) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("long", "text"):
        memory.pipe(f"/videos/{name}.mp4", media[name].read_bytes())
    options = BatchOptions(limits=MediaLimits(max_bytes=10**6))
    embedder = CCLEmbedder(model_folder, clips=CLIPS, options=options)
    table = embedder({"path": ["memory://videos/long.mp4", "memory://videos/text.mp4"]})
    rows = table.to_pylist()
    same_rows(rows[:CLIPS], expected["long"])
    assert rows[0]["path"] == "memory://videos/long.mp4"
    assert rows[-1]["code"] == "unsupported" and str(scratch) not in rows[-1]["reason"]
    assert not list(scratch.iterdir())


# On a cluster ------------------------------------------------------------------------------------


def test_every_video_of_a_list_gives_its_rows(
    cluster: None, model_folder: Path, media: dict[str, Path], expected: dict[str, Embeddings]
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
    for name, wanted in expected.items():
        same_rows(rows[name], wanted)
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
    cluster: None, model_folder: Path, media: dict[str, Path], expected: dict[str, Embeddings]
) -> None:
    class Embedder(CCLEmbedder):
        def __init__(self, **kwargs: object) -> None:
            fsspec.register_implementation("flaky", make_flaky(), clobber=True)
            super().__init__(**kwargs)

    long, missing = media["long"], media["missing"]
    items = [{"path": f"flaky://{p}"} for p in (f"1{long}", f"3{long}", f"0{missing}")]
    by_value = ray.cloudpickle.register_pickle_by_value
    by_value(sys.modules[__name__])
    try:
        dataset = ray.data.from_items(items).map_batches(
            Embedder,
            fn_constructor_kwargs={"model": model_folder, "clips": CLIPS, "retries": 1},
            batch_size=2,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        rows = dataset.take_all()
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    by_path = {row["path"]: [r for r in rows if r["path"] == row["path"]] for row in rows}
    same_rows(by_path[f"flaky://1{long}"], expected["long"])
    assert [r["code"] for r in by_path[f"flaky://3{long}"]] == ["unreadable"]
    assert [r["code"] for r in by_path[f"flaky://0{missing}"]] == ["not_found"]


@pytest.mark.slow
def test_decoders_that_crash_or_hang_in_the_actors(
    cluster: None,
    model_folder: Path,
    media: dict[str, Path],
    expected: dict[str, Embeddings],
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
    same_rows(rows["long"], expected["long"])
    same_rows(rows["short"], expected["short"])
    assert [(row["status"], row["code"]) for row in rows["crash"]] == [("failed", "crashed")]
    assert [(row["status"], row["code"]) for row in rows["hang"]] == [("failed", "timeout")]
    assert set(rows) == {"long", "short", "crash", "hang"}


@pytest.mark.slow
def test_an_actor_that_dies_does_its_block_again(
    cluster: None,
    model_folder: Path,
    media: dict[str, Path],
    expected: dict[str, Embeddings],
    tmp_path: Path,
) -> None:
    deaths = tmp_path / "deaths"
    copies = tmp_path / "copies"
    copies.mkdir()

    class Embedder(CCLEmbedder):
        def _found(self, item: object) -> object:
            if not deaths.exists():
                deaths.mkdir()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._found(item)

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
        same_rows(sorted(found, key=lambda row: row["clip_index"]), expected[name])
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
