"""The database: what is put in is found exactly, by the index too, and by readers meanwhile."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccl_hub.find import store as store_module
from ccl_hub.find.space import Space
from ccl_hub.find.store import Store, Video, key_of, with_vectors

DIM = 32


def rows(id: str, count: int, seed: int) -> tuple[pa.Table, Video, np.ndarray]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    seconds = pa.array(np.arange(count) * 0.5, pa.float32())
    table = with_vectors({"key": pa.array([key_of(id)] * count), "seconds": seconds}, vectors)
    video = Video(key_of(id), id, f"/{id}", count / 2, "complete", "", "{}")
    return table, video, vectors


def filled(folder: Path, videos: int, count: int) -> tuple[Store, np.ndarray]:
    store, vectors = Store(folder), []
    store.create(DIM)
    for number in range(videos):
        table, video, some = rows(f"v{number}", count, number)
        store.put(table, None, [video])
        vectors.append(some)
    return store, np.stack(vectors)


def test_the_nearest_are_those_of_exact_search(tmp_path: Path) -> None:
    store, vectors = filled(tmp_path, 5, 40)
    queries = vectors[[0, 3], [7, 9]]
    found = store.nearest(queries, 10)
    cosines = np.sort(queries @ vectors.reshape(-1, DIM).T, axis=1)[:, ::-1][:, :10]
    assert found.queries.tolist() == [0] * 10 + [1] * 10
    assert np.allclose(found.cosines.reshape(2, 10), cosines, atol=2e-3)
    assert found.keys[0] == key_of("v0") and found.seconds[0] == 3.5
    others = store.nearest(queries, 10, without=key_of("v0"))
    assert key_of("v0") not in others.keys
    assert len(store.nearest(np.zeros((1, DIM), np.float32), 10).keys) == 0


def test_the_index_finds_what_exact_search_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, vectors = filled(tmp_path, 20, 100)
    queries = vectors[:, 50]
    exact = store.nearest(queries, 10)
    monkeypatch.setattr(store_module, "INDEX_FROM_ROWS", 1000)
    store.optimize()
    assert indexes(store) == {"key_idx", "vector_for_2000"}
    found = store.nearest(queries, 10)
    same = [
        len(np.intersect1d(found.seconds[found.queries == n], exact.seconds[exact.queries == n]))
        for n in range(len(queries))
    ]
    assert np.mean(same) >= 7  # of noise in few dimensions, the worst case of an index
    nearest = found.keys[np.searchsorted(found.queries, range(20))]
    assert nearest.tolist() == [key_of(f"v{number}") for number in range(20)]
    # Rows that come after the index was made are found, and those that went are not.
    table, video, new = rows("new", 30, 99)
    store.put(table, None, [video])
    store.remove([key_of("v3")])
    again = store.nearest(np.concatenate([new[:1], vectors[3, 50:51]]), 1)
    assert again.keys[0] == key_of("new") and key_of("v3") not in again.keys
    assert len(store.of(key_of("new")).keys) == 30
    assert len(store.sample(500).keys) == 500


def indexes(store: Store) -> set[str]:
    return {index.name for index in store._table("frames").list_indices()}


def test_the_index_is_made_anew_for_four_times_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, vectors = filled(tmp_path, 6, 100)
    monkeypatch.setattr(store_module, "INDEX_FROM_ROWS", 500)
    store.optimize()
    assert indexes(store) == {"key_idx", "vector_for_600"}
    for number in range(6, 25):
        table, video, _ = rows(f"v{number}", 100, number)
        store.put(table, None, [video])
        if number in (22, 24):
            store.optimize()
            rows_now = 600 if number == 22 else 2500
            assert indexes(store) == {"key_idx", f"vector_for_{rows_now}"}
    found = store.nearest(vectors[:, 50], 1)
    assert found.keys.tolist() == [key_of(f"v{number}") for number in range(6)]


@pytest.mark.parametrize("index_from", [100, 10_000])
def test_votes_are_the_same_without_vectors(
    index_from: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, vectors = filled(tmp_path, 20, 40)
    monkeypatch.setattr(store_module, "INDEX_FROM_ROWS", index_from)
    store.optimize()
    queries = vectors.reshape(-1, DIM)[::7]
    found = store.nearest(queries, 8)
    votes = store.nearest(queries, 8, with_vectors=False)
    assert votes.vectors.shape == (len(found.keys), 0) and len(found.keys) == 8 * len(queries)
    for name in ("keys", "seconds", "queries", "cosines"):
        assert np.array_equal(getattr(votes, name), getattr(found, name)), name
    exact = np.einsum("rd,rd->r", found.vectors, queries[found.queries])
    assert np.allclose(found.cosines, exact, atol=2e-3)


def test_versions_that_a_reader_may_see_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "KEEP_VERSIONS", timedelta(milliseconds=1))
    store, vectors = filled(tmp_path, 3, 40)
    reader = Store(tmp_path)
    assert reader.frame_count == 120 and len(reader.videos) == 3
    store.remove([key_of("v1")])
    time.sleep(0.01)
    store.optimize()
    assert reader.frame_count == 120
    assert {key_of("v1")} == set(reader.nearest(vectors[1, :1], 1).keys.tolist())
    versions = len(store._table("frames").list_versions())
    store.forget_versions()
    assert len(store._table("frames").list_versions()) == 1 < versions


def test_indexes_that_a_killed_writer_left_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lancedb import index

    store, _ = filled(tmp_path, 10, 100)
    monkeypatch.setattr(store_module, "INDEX_FROM_ROWS", 500)
    for name in ("vector_idx", "vector_for_900"):
        config = index.IvfRq(distance_type="cosine")
        store._table("frames").create_index("vector", config=config, name=name)
    store.optimize()
    assert indexes(store) == {"key_idx", "vector_for_900"}


def test_a_reader_sees_one_version_until_it_asks_for_the_latest(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 2, 10)
    readers = [Store(tmp_path), Store(tmp_path)]
    assert all(len(reader.videos) == 2 and reader.frame_count == 20 for reader in readers)
    table, video, new = rows("new", 10, 9)
    store.put(table, None, [video])
    assert readers[0].frame_count == 20
    readers[0].refresh()
    assert readers[0].frame_count == 30 and len(readers[0].videos) == 3
    assert readers[0].nearest(new[:1], 1).keys[0] == key_of("new")
    assert readers[1].frame_count == 20


def test_frames_of_a_video_that_does_not_count_yet_are_not_found(tmp_path: Path) -> None:
    """A writer that is killed between frames and videos leaves frames of no video."""
    store, _ = filled(tmp_path, 2, 10)
    table, _, new = rows("half", 10, 9)
    store.put(table, None, [])
    assert key_of("half") not in store.nearest(new[:1], 5).keys


def test_another_generation_holds_the_same_videos_in_another_space(tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 4, 50)
    space = Space.learnt((block.vectors for block in store.blocks()), [])
    new = Store(tmp_path, 1)
    new.create(DIM)
    new.fill(store, space)
    assert new.frame_count == 200 and new.videos == store.videos
    vectors = np.concatenate([block.vectors for block in new.blocks()])
    assert np.abs(vectors.mean(axis=0)).max() < 0.05
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    space.save(tmp_path / "space.npz")
    probe = np.ones((2, DIM), np.float32) * [[1], [0]]
    again = Space.load(tmp_path / "space.npz").frames(probe)
    assert np.array_equal(again, space.frames(probe)) and not again[1].any()
