"""Parquet datasets: the schema, every reader that people use, parts, rows that no longer count."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from embed_jobs import engines, ids, job, known, rows, tiny_folder, write_tiny

from ccl_hub.embed import embed_video
from ccl_hub.errors import OutputError
from ccl_hub.job import parquet, parts

COUNT, CLIPS, DIM, FRAMES = 5, 3, 16, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("videos"), COUNT)


@pytest.fixture(scope="module")
def feats(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of several parts."""
    out = tmp_path_factory.mktemp("out") / "feats.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.DatasetSink.__init__, "__defaults__", (2 * CLIPS,))
        job(folder, out, clips=CLIPS)
    assert len(list(out.iterdir())) == 3
    return out


@pytest.fixture(scope="module")
def alone(folder: Path) -> np.ndarray:
    return embed_video(engines()[0], folder / "002.mp4", clips=CLIPS, batch_size=2).clips


def test_schema(feats: Path) -> None:
    schema = pq.read_schema(next(feats.iterdir()))
    assert {field.name: str(field.type) for field in schema} == {
        "id": "string",
        "path": "string",
        "clip_index": "int32",
        "start_seconds": "double",
        "end_seconds": "double",
        "embedding": f"fixed_size_list<element: float>[{DIM}]",
        "duration_seconds": "double",
        "completeness": "string",
        "model": "string",
        "weights_sha256": "string",
        "config_fingerprint": "string",
        "backend": "string",
        "dtype": "string",
        "sampling": "string",
    }


def test_values(feats: Path, folder: Path) -> None:
    table = pq.read_table(feats).to_pylist()
    mine = sorted(
        (row for row in table if row["id"] == "002.mp4"), key=lambda row: row["clip_index"]
    )
    whole = embed_video(engines()[0], folder / "002.mp4", clips=CLIPS, batch_size=2)
    made = whole.provenance
    assert [row["clip_index"] for row in mine] == list(range(CLIPS))
    for row, clip, span in zip(mine, whole.clips, whole.clip_seconds, strict=True):
        np.testing.assert_allclose(row["embedding"], clip, rtol=1e-5, atol=1e-5)
        assert (row["start_seconds"], row["end_seconds"]) == tuple(span)
        assert row["path"] == str(folder / "002.mp4")
        assert row["duration_seconds"] == made.duration_seconds
        for name in ("completeness", "config_fingerprint", "sampling", "dtype", "backend"):
            assert row[name] == getattr(made, name)


def check(vectors: object, alone: np.ndarray) -> None:
    """Compare the vectors of 002.mp4, in the order of clips, as some reader gives them."""
    found = np.stack([np.asarray(vector, dtype=np.float32) for vector in vectors])  # type: ignore
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)


def test_pandas(feats: Path, alone: np.ndarray) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(feats)
    assert len(frame) == COUNT * CLIPS
    check(frame[frame.id == "002.mp4"].sort_values("clip_index").embedding, alone)


def test_polars_takes_the_folder(feats: Path, alone: np.ndarray) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(feats)
    assert len(frame) == COUNT * CLIPS
    assert frame.schema["embedding"] == polars.Array(polars.Float32, DIM)
    mine = frame.filter(polars.col("id") == "002.mp4").sort("clip_index")
    check(mine["embedding"].to_numpy(), alone)
    lazy = polars.scan_parquet(feats).filter(polars.col("id") == "002.mp4").collect()
    assert len(lazy) == CLIPS


def test_a_video_that_failed_has_no_row_and_no_null_vector(folder: Path, tmp_path: Path) -> None:
    """Or polars would find it first: NaN is the largest score there."""
    polars = pytest.importorskip("polars")
    (tmp_path / "bad.mp4").write_text("no video")
    done = job([tmp_path / "bad.mp4", tmp_path / "gone.mp4", folder], tmp_path / "f.parquet")
    assert done.summary.counts == {"failed": 2, "done": COUNT}
    frame = polars.read_parquet(tmp_path / "f.parquet")
    assert len(frame) == COUNT and sum(frame.null_count().row(0)) == 0
    vectors = frame["embedding"].to_numpy()
    assert np.isfinite(vectors).all()
    scores = polars.Series(vectors @ vectors[3] / np.linalg.norm(vectors, axis=1))
    assert scores.arg_max() == 3
    assert done.summary.failures is not None and "gone.mp4" in done.summary.failures.read_text()


def test_duckdb(feats: Path, alone: np.ndarray) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as db:
        db.execute(f"CREATE VIEW feats AS FROM '{feats}/*.parquet'")
        query = "SELECT count(*) FROM feats"
        assert db.execute(query).fetchone() == (COUNT * CLIPS,)
        query = "SELECT embedding FROM feats WHERE id = '002.mp4' ORDER BY clip_index"
        check([row[0] for row in db.execute(query).fetchall()], alone)
        nearest = (
            "SELECT id, array_cosine_similarity(embedding::FLOAT[16], ?::FLOAT[16]) AS similarity "
            "FROM feats ORDER BY similarity DESC LIMIT 1"
        )
        best = db.execute(nearest, [alone[0].tolist()]).fetchone()
        assert best is not None and best[1] > 0.9999


def test_duckdb_is_told_the_length_of_vectors(feats: Path) -> None:
    """By a view, as docs/batch.md has it: Parquet has no lists of fixed size."""
    duckdb = pytest.importorskip("duckdb")
    opened = pa.dataset.dataset(feats, format="parquet")
    files = f"from '{feats}/*.parquet'"
    told = f"{files} select * replace (embedding::FLOAT[{DIM}] as embedding)"
    with duckdb.connect() as db:
        db.register("opened", opened)
        for query, kind in (
            (files, "FLOAT[]"),
            (told, f"FLOAT[{DIM}]"),
            ("from opened", f"FLOAT[{DIM}]"),
        ):
            found = {name: of for name, of, *_ in db.execute(f"describe {query}").fetchall()}
            assert found["embedding"] == kind, query
        db.execute(f"create view feats as {told}")
        nearest = "select max(array_cosine_similarity(embedding, embedding)) from feats"
        assert db.execute(nearest).fetchone()[0] == pytest.approx(1, abs=1e-5)


def test_pyarrow_dataset(feats: Path, alone: np.ndarray) -> None:
    found = pa.dataset.dataset(feats, format="parquet")
    table = found.to_table(filter=pa.dataset.field("id") == "002.mp4").sort_by("clip_index")
    check(table["embedding"].to_pylist(), alone)
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    np.testing.assert_allclose(flat.reshape(-1, DIM), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lancedb_searches_the_vectors(feats: Path, alone: np.ndarray, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    found = pa.dataset.dataset(feats, format="parquet")
    table = lancedb.connect(str(tmp_path)).create_table("feats", found.to_table())
    hits = table.search(alone[1], vector_column_name="embedding").limit(COUNT * CLIPS).to_list()
    assert hits[0]["id"] == "002.mp4" and hits[0]["_distance"] < 1e-6


def test_levels(folder: Path, tmp_path: Path) -> None:
    whole = embed_video(engines()[0], folder / "002.mp4", clips=CLIPS, batch_size=2)
    one = [folder / "002.mp4"]
    job(one, tmp_path / "frame.parquet", clips=CLIPS, level="frame")
    table = pq.read_table(tmp_path / "frame.parquet").sort_by(
        [("clip_index", "ascending"), ("frame_index", "ascending")]
    )
    assert table["clip_index"].to_pylist() == [c for c in range(CLIPS) for _ in range(FRAMES)]
    assert table["frame_index"].to_pylist() == list(range(FRAMES)) * CLIPS
    assert table["start_seconds"].to_pylist() == whole.frame_seconds.reshape(-1).tolist()
    assert table["end_seconds"] == table["start_seconds"]
    check(table["embedding"].to_pylist(), whole.frames.reshape(-1, DIM))

    job(one, tmp_path / "video.parquet", clips=CLIPS, level="video")
    (row,) = pq.read_table(tmp_path / "video.parquet").to_pylist()
    assert "clip_index" not in row and "frame_index" not in row
    assert (row["start_seconds"], row["end_seconds"]) == (0, whole.provenance.duration_seconds)
    check([row["embedding"]], whole.video[None])


def test_parts_roll_over_and_the_folder_holds_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "feats.parquet"
    monkeypatch.setattr(parts.DatasetSink.__init__, "__defaults__", (4,))
    seen: list[set[str]] = []
    inner = parquet.write_atomically

    def watched(path: Path, data: memoryview, temporary_folder: Path) -> None:
        def filling(file: BinaryIO) -> None:
            file.write(data)
            seen.append({path.name for path in out.iterdir()})

        inner(path, filling, temporary_folder)

    monkeypatch.setattr(parquet, "write_atomically", watched)
    job(folder, out, clips=CLIPS)
    assert len(seen) == 3
    everything = set().union(*seen) | {path.name for path in out.iterdir()}
    assert all(name.startswith("part-0-of-1-") for name in everything), "not even for a moment"
    assert all(name.endswith(".parquet") for name in everything)
    assert sorted(pq.read_metadata(part).num_rows for part in out.iterdir()) == [3, 6, 6]
    assert ids(out) == {f"{number:03d}.mp4": CLIPS for number in range(COUNT)}
    stems = {path.name for path in tmp_path.iterdir()}
    assert stems == {"feats.parquet", "feats.parquet.ccl"}


def test_videos_that_wait_for_a_part_outlive_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "feats.parquet"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            parts.DatasetSink, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        job(folder, out, clips=CLIPS)
    assert list(out.iterdir()) == []
    assert known(out, "000.mp4").state == "done"
    assert job(folder, out, clips=CLIPS).now == []
    assert ids(out) == {f"{number:03d}.mp4": CLIPS for number in range(COUNT)}


def test_rows_of_changed_and_failed_videos_leave_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tiny_folder(tmp_path / "in", 6), tmp_path / "feats.parquet"
    monkeypatch.setattr(parts.DatasetSink.__init__, "__defaults__", (2,))
    job(folder, out)
    old = rows(out)
    assert len(list(out.iterdir())) == 3
    write_tiny(folder / "000.mp4", 60, 7)
    (folder / "003.mp4").write_text("no video")
    write_tiny(folder / "004.mp4", 61, 7)
    write_tiny(folder / "005.mp4", 62, 7)  # with 004 a whole part
    done = job(folder, out)
    assert done.now == ["000.mp4", "003.mp4", "004.mp4", "005.mp4"]
    assert ids(out) == {f"{number:03d}.mp4": 1 for number in (0, 1, 2, 4, 5)}
    kept = [json.loads(row)["id"] for row in rows(out) & old]
    assert sorted(kept) == ["001.mp4", "002.mp4"]
    assert job(folder, out).now == []


def test_a_video_of_many_rows_has_a_part_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is made anew to the same bytes, which is the same name."""
    folder, out = tiny_folder(tmp_path / "in", 2), tmp_path / "feats.parquet"
    monkeypatch.setattr(parts, "MOST_SPOOLED_BYTES", 10)
    job(folder, out)
    whole = rows(out)
    assert len(list(out.iterdir())) == 2 and ids(out) == {"000.mp4": 1, "001.mp4": 1}
    os.utime(folder / "000.mp4", (5, 5))
    assert job(folder, out).now == ["000.mp4"]
    assert rows(out) == whole
    write_tiny(folder / "000.mp4", 70, 7)
    assert job(folder, out).now == ["000.mp4"]
    assert ids(out) == {"000.mp4": 1, "001.mp4": 1} and len(rows(out) & whole) == 1
    assert job(folder, out).now == []


def test_a_part_that_nobody_named_is_removed(folder: Path, tmp_path: Path) -> None:
    """A run may be killed between a part and the manifest."""
    out = tmp_path / "feats.parquet"
    job(folder, out)
    (part,) = out.iterdir()
    (out / "part-0-of-1-0123456789abcdef.parquet").write_bytes(part.read_bytes())
    assert job(folder, out).now == []
    assert list(out.iterdir()) == [part]


def test_an_unreadable_part_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no part")
    with pytest.raises(OutputError, match=r"x\.parquet: this part .* cannot be read"):
        parquet.without(tmp_path / "x.parquet", ["a"])


def test_without_pyarrow_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what find_spec answers None for
    with pytest.raises(OutputError, match=r"pip install 'ccl-hub\[parquet\]'"):
        parquet.check_pyarrow()
