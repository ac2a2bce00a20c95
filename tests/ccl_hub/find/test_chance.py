"""E-values: the law is recovered, copies in the library spoil nothing, and the promise is kept."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ccl_hub.find.matching.chance import LENGTHS, Chance, Chanced, Tail, calibrated
from ccl_hub.find.matching.evidence import Background, novelty
from ccl_hub.find.matching.match import Matcher, Query, calibrate
from ccl_hub.find.store import Store, Video, key_of, with_vectors

DIM, STEP = 48, 0.5


def exponential(decay: float, mean_hits: float, copies: int = 0):
    """Ask an imagined library whose hits are exponential, and of which some videos are copies."""

    def ask(length: int):
        generator = np.random.default_rng(length)
        for number in range(300):
            scores = generator.exponential(1 / decay, generator.poisson(mean_hits))
            hits = [Chanced(number, 1000 + i, 2 + float(score)) for i, score in enumerate(scores)]
            if number < copies:
                hits.append(Chanced(number, 5000 + number, 400.0))
            yield length, hits

    return ask


@pytest.mark.parametrize("copies", [0, 60, 200, 280])
def test_the_law_is_recovered(copies: int) -> None:
    chance = calibrated(exponential(0.7, 4.0, copies), rows=10_000)
    for length in LENGTHS:
        for score in (8.0, 12.0):
            truth = 4.0 * math.exp(-0.7 * (score - 2))
            assert chance.e_value(score, length, 10_000) == pytest.approx(truth, rel=0.6)


def test_e_grows_with_library_and_query_and_falls_with_score() -> None:
    chance = Chance(1000, (Tail(1.0, 5.0, 1.0), Tail(8.0, 7.0, 0.8), Tail(32.0, 9.0, 0.7)))
    assert chance.e_value(10, 8, 2000) == pytest.approx(2 * chance.e_value(10, 8, 1000))
    assert chance.e_value(10, 64, 1000) == pytest.approx(2 * chance.e_value(10, 32, 1000))
    assert chance.e_value(10, 8, 1000, ways=2) == pytest.approx(2 * chance.e_value(10, 8, 1000))
    assert chance.e_value(12, 8, 1000) < chance.e_value(10, 8, 1000)
    for e_value in (1.0, 0.01):
        score = chance.score(e_value, 8, 1000)
        assert chance.e_value(score, 8, 1000) == pytest.approx(e_value, rel=0.05)
    assert Chance.from_json(chance.to_json(), "here") == chance


def walks(videos: int, frames: int, seed: int) -> np.ndarray:
    """(videos, frames, DIM) unit vectors: shots of 6 frames in few directions, some far alike."""
    generator = np.random.default_rng(seed)
    scale = np.arange(1, DIM + 1) ** -0.7
    shots = generator.standard_normal((videos, frames // 6 + 1, DIM)).repeat(6, axis=1)
    steps = np.cumsum(generator.standard_normal((videos, frames, DIM)) * 0.15, axis=1)
    vectors = (shots[:, :frames] + steps) * scale
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def stored(folder: Path, vectors: np.ndarray) -> Store:
    """A database of such videos."""
    store = Store(folder)
    store.create(vectors.shape[2])
    count, frames, _ = vectors.shape
    keys = [key_of(f"v{number}") for number in range(count)]
    seconds = np.tile(np.arange(frames) * STEP, count)
    columns = {
        "key": pa.array(np.repeat(keys, frames)),
        "seconds": pa.array(seconds, pa.float32()),
    }
    rows = with_vectors(columns, vectors.reshape(count * frames, -1))
    duration = frames * STEP
    videos = [
        Video(key, f"v{number}", f"/v{number}", duration, "complete", "", "{}")
        for number, key in enumerate(keys)
    ]
    store.put(rows, None, videos)
    return store


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory):
    store = stored(tmp_path_factory.mktemp("db"), walks(120, 48, seed=1))
    matcher = Matcher(store, Background.of(store), STEP)
    return store, matcher, calibrate(matcher, store)


@pytest.mark.parametrize("frames", [1, 6])
def test_queries_that_are_not_in_the_library_give_the_stated_number_of_hits(
    frames: int, calibration
) -> None:
    """The promise of E: of 250 queries from elsewhere, E hits each, with three deviations."""
    store, matcher, chance = calibration
    strangers = walks(250, frames, seed=2)
    counts = dict.fromkeys((0.2, 0.05, 0.01), 0)
    for vectors in strangers:
        seconds = np.arange(frames) * STEP
        query = Query(seconds, vectors, frames * STEP if frames > 1 else 0.0)
        for match in matcher.matches(query):
            e_value = chance.e_value(match.score, frames, store.frame_count)
            for limit in counts:
                counts[limit] += e_value <= limit
    for limit, count in counts.items():
        expected = limit * len(strangers)
        assert count <= expected + 3 * math.sqrt(expected) + 1, (limit, count, expected)
    assert counts[0.2] > 0  # it is a number of hits, not a wall


@pytest.mark.parametrize(("frames", "noise", "least"), [(1, 0.2, 80), (6, 0.4, 90)])
def test_copies_are_found_all_the_same(frames: int, noise: float, least: int, calibration) -> None:
    store, matcher, chance = calibration
    generator, library, found = np.random.default_rng(3), walks(120, 48, seed=1), 0
    for number in range(100):
        begin = int(generator.integers(0, 48 - frames))
        clean = library[number, begin : begin + frames]
        noisy = clean + noise * clean.std() * generator.standard_normal(clean.shape)
        vectors = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
        query = Query(np.arange(frames) * STEP, vectors, frames * STEP if frames > 1 else 0.0)
        for match in matcher.matches(query)[:1]:
            right = store.videos[match.key].id == f"v{number}"
            place = (
                abs(match.start - begin * STEP) <= 1 or match.start <= begin * STEP <= match.end
            )
            sure = chance.e_value(match.score, frames, store.frame_count) <= 0.01
            found += right and place and sure
    assert found >= least


# One place, seen by many videos, and copies at other speeds --------------------------------------

PLACES, TAKES = 12, 16


def takes(count: int, frames: int, seed: int) -> np.ndarray:
    """(count, frames, DIM) unit vectors of videos at places: two of one have a cosine of 0.7."""
    places = np.random.default_rng(0).standard_normal((PLACES, 1, DIM))
    places /= np.linalg.norm(places, axis=-1, keepdims=True)
    vectors = 1.5 * places[np.arange(count) % PLACES] + walks(count, frames, seed)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory):
    """192 videos of 12 places, and a copy of each at 1.25 of its speed, 12 frames of another."""
    videos = takes(PLACES * TAKES, 48, seed=4)
    faster = videos[:, np.minimum(np.round(np.arange(36) * 1.25).astype(int), 47)]
    copies = np.concatenate([faster, np.roll(faster, 1, axis=0)[:, :12]], axis=1)
    store = stored(tmp_path_factory.mktemp("db"), np.concatenate([videos, copies]))
    matcher = Matcher(store, Background.of(store), STEP)
    return videos, store, matcher, calibrate(matcher, store)


def sure(crowded, vectors: np.ndarray) -> list:
    _, store, matcher, chance = crowded
    frames = len(vectors)
    query = Query(np.arange(frames) * STEP, vectors, frames * STEP if frames > 1 else 0.0)
    found = matcher.matches(query)
    return [m for m in found if chance.e_value(m.score, frames, store.frame_count) <= 0.01]


@pytest.mark.parametrize("frames", [1, 6])
def test_another_take_at_one_place_is_no_hit(frames: int, crowded) -> None:
    hits = [sure(crowded, vectors) for vectors in takes(240, frames, seed=5)]
    assert sum(map(len, hits)) <= 2.4 + 3 * math.sqrt(2.4)


@pytest.mark.parametrize(("frames", "least"), [(1, 60), (6, 95)])
def test_a_video_is_found_beside_its_copies_and_its_place(
    frames: int, least: int, crowded
) -> None:
    generator, found = np.random.default_rng(6), 0
    for number in range(100):
        begin = int(generator.integers(0, 42 - frames))
        vectors = crowded[0][number, begin : begin + frames]
        noisy = vectors + 0.02 * generator.standard_normal(vectors.shape).astype(np.float32)
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        keys = {match.key for match in sure(crowded, noisy)}
        found += keys != set() and keys <= {
            key_of(f"v{n}") for n in (number, number + 192, number + 193)
        }
    assert found >= least


def test_a_still_scene_is_not_many_witnesses() -> None:
    still = np.tile(np.eye(4, dtype=np.float32)[:1], (10, 1))
    moving = np.eye(10, dtype=np.float32)
    seconds = np.arange(10) * STEP
    assert novelty(still, seconds, STEP, 0.9).sum() == pytest.approx(1.9)
    assert novelty(moving, seconds, STEP, 0.9).sum() == pytest.approx(10)
    assert novelty(moving, seconds / 2, STEP, 0.9).sum() == pytest.approx(5.5, abs=0.6)
