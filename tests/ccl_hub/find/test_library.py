"""A library from its first video on: what is found, what is done again, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scenes import SHOT_SECONDS, darker, footage, letterboxed, mirrored, scene
from tiny_models import tiny_model

from ccl_hub.batch import BatchOptions, engines_for
from ccl_hub.embed import embed_video
from ccl_hub.errors import InputError, MediaError, OutputError
from ccl_hub.find import Hit, Library
from ccl_hub.find.engine import LibraryEngine
from ccl_hub.find.files import LibraryFiles

ONE = BatchOptions(workers=1, threads=1)


UNSURE = 10.0
"""An E-value for a library of 12 videos and a small model, whose evidence cannot be strong."""


def best(library: Library, path: Path, max_e: float = UNSURE) -> Hit:
    found = library.where(path, max_e=max_e)
    assert len(found), f"{path.name} is not found"
    return found[0]


def test_what_cannot_be_read_is_told_as_ccl_embed_tells_it(library, videos) -> None:
    assert set(library.videos) == {
        *(f"{'ab'[n % 2]}/v{n:02}.mp4" for n in range(12)),
        "a/black.mp4",
    }
    text = (library.folder / "failures.csv").read_text()
    assert "b/broken.mp4" in text and "failed" in text
    assert 12 * 17 <= library.frame_count <= 12 * 20  # nothing of the black one


def test_a_cut_is_found_with_its_place_to_half_a_second(library, tmp_path) -> None:
    path = footage(tmp_path / "cut.mp4", 3, begin=3.0, seconds=4.0, quality=30)
    hit = best(library, path, max_e=0.01)
    assert hit.video == "b/v03.mp4" and not hit.mirrored and hit.cycle
    assert abs(hit.start - 3.0) <= 0.75 and abs(hit.end - 7.0) <= 0.75
    assert hit.query_start <= 0.5 and hit.query_end >= 3.5


@pytest.mark.parametrize("edit", [mirrored, letterboxed, darker])
def test_an_edited_cut_is_found(edit, library, tmp_path) -> None:
    hit = best(library, footage(tmp_path / "cut.mp4", 6, begin=2.0, seconds=5.0, edit=edit))
    assert hit.video == "a/v06.mp4" and hit.mirrored == (edit is mirrored)
    assert abs(hit.start - 2.0) <= 1 and abs(hit.end - 7.0) <= 1


@pytest.mark.parametrize("speed", [0.6, 1.7])
def test_a_cut_at_another_speed_is_found_with_its_speed(speed, library, tmp_path) -> None:
    path = footage(tmp_path / "cut.mp4", 5, begin=0.5, seconds=7.5 / speed, speed=speed)
    hit = best(library, path)
    assert hit.video == "b/v05.mp4"
    assert hit.speed == pytest.approx(speed, rel=0.15)


def test_a_compilation_gives_a_segment_of_each_of_its_parts(library, tmp_path) -> None:
    from scenes import RATE, written

    def frames():
        for number, begin in ((1, 3.0), (8, 0.0), (1, 6.0)):
            for n in range(int(SHOT_SECONDS * RATE)):
                yield scene(number, begin + n / RATE)

    found = library.where(written(tmp_path / "mix.mp4", frames()), max_e=UNSURE)
    for video, asked, shown in (("b/v01", 1.5, 4.5), ("a/v08", 4.5, 1.5), ("b/v01", 7.5, 7.5)):
        assert any(
            hit.video == f"{video}.mp4"
            and hit.query_start <= asked <= hit.query_end
            and abs(hit.start + hit.speed * (asked - hit.query_start) - shown) <= 1
            for hit in found
        ), f"second {asked} of the mix, which is second {shown} of {video}, is not found"


def test_pictures_are_found_whatever_they_come_as(library, tmp_path) -> None:
    from PIL import Image

    picture = scene(9, 4.6)
    path = tmp_path / "shot.png"
    Image.fromarray(picture).save(path)
    with Image.open(path) as opened:
        for asked in (path, picture, opened):
            hit = library.where(asked, max_e=UNSURE)[0]
            assert hit.video == "b/v09.mp4" and hit.query_end == 0
            assert hit.start - 0.75 <= 4.6 <= hit.end + 0.75


def test_embeddings_and_arrays_of_frames_are_taken(library, engines, videos) -> None:
    frames = np.stack([scene(2, 3.0 + n / 4) for n in range(16)])
    hit = library.where(frames, seconds=np.arange(16) / 4, max_e=UNSURE)[0]
    assert hit.video == "a/v02.mp4" and abs(hit.start - 3.0) <= 0.75
    engine = LibraryEngine(engines[0])
    embeddings = embed_video(engine, videos / "a" / "v04.mp4", every_seconds=4.0)
    assert library.where(embeddings, max_e=UNSURE)[0].video == "a/v04.mp4"


def test_what_is_not_there_and_what_is_flat_is_not_found(library, videos, tmp_path) -> None:
    strangers = [footage(tmp_path / f"x{n}.mp4", 100 + n, seconds=4.0) for n in range(6)]
    hits = [hit for path in strangers for hit in library.where(path)]
    assert len(hits) <= 1  # 0.06 are expected
    assert len(library.where(videos / "a" / "black.mp4")) == 0
    assert len(library.where(np.full((90, 160, 3), 255, np.uint8))) == 0


def test_similar_leaves_the_same_footage_out(library, videos) -> None:
    found = library.similar(videos / "b" / "v07.mp4", most=5)
    assert len(found) == 5 and "b/v07.mp4" not in {row.video for row in found}
    similarities = [row.similarity for row in found]
    assert similarities == sorted(similarities, reverse=True)


def test_results_are_tables(library, videos) -> None:
    found = library.where(videos / "a" / "v00.mp4")
    table = found.to_pandas()
    assert list(table.columns) == found.columns and len(table) == len(found)
    assert found.to_csv().splitlines()[0].startswith("video,path,query_start")
    empty = library.where(np.zeros((90, 160, 3), np.uint8))
    assert list(empty.to_pandas().columns) == found.columns


def test_files_that_cannot_be_asked_for_say_why(library, videos) -> None:
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        library.where(videos / "b" / "broken.mp4")
    with pytest.raises(InputError, match="max_e is 0"):
        library.where(videos / "a" / "v00.mp4", max_e=0)


# Coming and going --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return engines_for(tiny_model(), None, "cpu", None, "torch", ONE)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(4):
        footage(folder / f"{number}.mp4", number, seconds=2.0)
    return folder


def test_again_only_what_is_new_changed_or_gone_is_done(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    assert library.add([few], batch=ONE).kept == 0
    frames = library.frame_count
    assert library.add([few], batch=ONE).kept == 4 and library.frame_count == frames
    footage(few / "new.mp4", 9, seconds=2.0)
    footage(few / "1.mp4", 8, seconds=6.0)
    (few / "2.mp4").unlink()
    summary = library.add([few], batch=ONE)
    assert (summary.kept, summary.counts["done"]) == (2, 4)
    assert set(library.videos) == {"0.mp4", "1.mp4", "3.mp4", "new.mp4"}
    durations = {video.id: video.duration_seconds for video in library._store.videos.values()}
    assert durations["1.mp4"] == pytest.approx(6.0, abs=0.2)
    # A video that can no longer be read is no longer found.
    (few / "3.mp4").write_bytes(b"nothing" * 1000)
    library.add([few], batch=ONE)
    assert "3.mp4" not in library.videos
    assert library.remove(["0.mp4", str(few / "1.mp4")]) == 2
    assert set(library.videos) == {"new.mp4"} and (few / "0.mp4").exists()
    with pytest.raises(InputError, match=r"nobody\.mp4"):
        library.remove(["nobody.mp4"])


def test_a_folder_that_is_away_takes_nothing_with_it(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    other = tmp_path / "other"
    shutil.copytree(few, other)
    library.add([few, other], batch=ONE)
    count = len(library)
    shutil.move(few, tmp_path / "away")
    library.add([other], batch=ONE)
    assert len(library) == count == 8


def test_one_model_for_a_library(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    other = engines_for(tiny_model(stage_channels=(8, 8, 16, 32)), None, "cpu", None, "torch", ONE)
    with pytest.raises(InputError, match="vectors of two kinds cannot be compared"):
        Library.create(tmp_path / "library", other)
    with pytest.raises(InputError, match="vectors of two kinds cannot be compared"):
        Library.open(library.folder, other)
    with pytest.raises(InputError, match=r"frame_seconds is 0\.5 there, 1\.0 now"):
        Library.create(tmp_path / "library", tiny, frame_seconds=1.0)
    with pytest.raises(InputError, match="no library in this folder"):
        Library.open(tmp_path)


def test_what_torch_began_a_runtime_goes_on_with(few, tmp_path) -> None:
    model = tiny_model()
    torch_, onnx = (
        engines_for(model, None, "cpu", None, backend, ONE) for backend in ("torch", "onnx")
    )
    library = Library.create(tmp_path / "library", torch_)
    library.add([few], batch=ONE)
    shutil.copy(few / "1.mp4", few / "copy.mp4")
    again = Library.open(library.folder, onnx)
    assert again.add([few], batch=ONE).kept == 4
    keys = {video.id: video.key for video in again._store.videos.values()}
    one, other = (again._store.of(keys[name]).vectors for name in ("1.mp4", "copy.mp4"))
    assert np.abs(one - other).max() < 2e-3, "float16 of numbers that agree to 1e-4"
    assert again.where(few / "1.mp4", max_e=1e9)[0].video in ("1.mp4", "copy.mp4")


def test_one_writer_at_a_time(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    with library._only_writer(), pytest.raises(OutputError, match="another process is writing"):
        Library.open(library.folder, tiny).add([few], batch=ONE)


def test_readers_follow_a_writer_even_through_whitening(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    reader = Library.open(library.folder, tiny)
    assert len(reader) == 0
    library.add([few], batch=ONE)
    assert len(reader) == 4 and not reader.is_whitened
    library.add([few], batch=ONE, whiten=True)
    assert len(reader) == 4 and reader.is_whitened
    assert reader.where(few / "2.mp4", max_e=1e9)[0].video == "2.mp4"
    footage(few / "new.mp4", 9, seconds=2.0)
    library.add([few], batch=ONE)
    assert len(reader) == 5


def test_a_still_scene_is_one_hit(engines, tmp_path) -> None:
    from scenes import RATE, written

    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(8):
        footage(folder / f"v{number}.mp4", number)
    still = [scene(20, 1.0)] * (10 * RATE)
    moving = [scene(20, 3.0 + n / RATE) for n in range(3 * RATE)]
    written(folder / "still.mp4", [*still, *moving])
    library = Library.create(tmp_path / "library", engines)
    library.add([folder], batch=ONE)
    query = written(tmp_path / "cut.mp4", still[: 3 * RATE])
    found = [hit for hit in library.where(query, max_e=UNSURE) if hit.video == "still.mp4"]
    assert len(found) == 1 and (found[0].query_start, round(found[0].query_end)) == (0, 3)
    assert found[0].start <= 0.5 and abs(found[0].end - 9.5) <= 0.5, "as long as it is shown"


def test_a_short_query_is_computed_once(library, engines, tmp_path, monkeypatch) -> None:
    computed = []
    inner = LibraryEngine.__call__
    monkeypatch.setattr(
        LibraryEngine, "__call__", lambda self, x: computed.append(len(x)) or inner(self, x)
    )
    library.where(footage(tmp_path / "cut.mp4", 3, begin=3.0, seconds=4.0))
    assert sum(computed) == 16, "4 s, a frame every 0.25 s"


def test_what_is_asked_while_it_answers_sees_the_same(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    library.add([few], batch=ONE)
    other = Library.open(library.folder, tiny)
    seen = []

    def told(done: int, total: int) -> None:
        if done == 1:
            other.remove(["3.mp4"])
        seen.append((len(library), library.frame_count, total))

    library.overlaps(progress=told)
    assert seen == [(4, 16, 4)] * 4 and len(library) == 3


def test_other_videos_are_another_library_to_its_e_values(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    library.add([few], batch=ONE)
    before = library._files.calibrated_on()
    assert len(before) == 4
    library.add([few], batch=ONE)
    assert np.array_equal(library._files.calibrated_on(), before)
    for number in range(4):
        (few / f"{number}.mp4").unlink()
        footage(few / f"new{number}.mp4", 10 + number, seconds=2.0)
    frames = library.frame_count
    library.add([few], batch=ONE)
    assert library.frame_count == frames, "as many frames, of other videos"
    now = library._files.calibrated_on()
    assert len(np.intersect1d(now, before)) == 0
    footage(few / "new1.mp4", 30, seconds=2.0)  # another film of the same name and length
    library.add([few], batch=ONE)
    assert len(np.intersect1d(library._files.calibrated_on(), now)) == 3


def test_what_a_reader_looks_at_stays_until_it_is_done(few, tiny, tmp_path) -> None:
    library = Library.create(tmp_path / "library", tiny)
    library.add([few], batch=ONE)
    reader = Library.open(library.folder, tiny)
    with reader._reading():
        assert reader._store.frame_count == library.frame_count
        (few / "1.mp4").unlink()
        library.add([few], batch=ONE, whiten=True)
        footage(few / "new.mp4", 9, seconds=2.0)
        library.add([few], batch=ONE)
        (key,) = (v.key for v in reader._store.videos.values() if v.id == "1.mp4")
        assert len(reader._store.of(key).keys) == 4, "the generation and version it began with"
    assert set(reader.videos) == {"0.mp4", "2.mp4", "3.mp4", "new.mp4"}
    assert (library.folder / "lance" / "frames.lance").exists()
    library.add([few], batch=ONE)
    assert not (library.folder / "lance" / "frames.lance").exists(), "no one looks at it now"


def test_two_that_make_a_library_at_once_make_one(few, tiny, tmp_path, monkeypatch) -> None:
    inner = LibraryFiles.are_at
    answers = iter([False, True])  # the other process is done between the two looks
    first = Library.create(tmp_path / "library", tiny)
    first.add([few], batch=ONE)
    monkeypatch.setattr(
        LibraryFiles, "are_at", staticmethod(lambda folder: next(answers, inner(folder)))
    )
    second = Library.create(tmp_path / "library", tiny)
    assert len(second) == 4
    answers = iter([False, True])
    with pytest.raises(InputError, match=r"frame_seconds is 0\.5 there, 1\.0 now"):
        Library.create(tmp_path / "library", tiny, frame_seconds=1.0)


def test_copies_and_parts_overlap_in_groups(engines, tmp_path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(8):
        footage(folder / f"v{number}.mp4", number)
    footage(folder / "copy.mp4", 2, quality=32)
    footage(folder / "part.mp4", 4, begin=3.0, seconds=4.0)
    library = Library.create(tmp_path / "library", engines)
    library.add([folder], batch=ONE)
    found = {tuple(sorted((row.video, row.other))): row for row in library.overlaps()}
    assert set(found) == {("copy.mp4", "v2.mp4"), ("part.mp4", "v4.mp4")}
    assert found["copy.mp4", "v2.mp4"].kind == "copy"
    assert found["part.mp4", "v4.mp4"].kind == "part"
    assert len({row.group for row in found.values()}) == 2
