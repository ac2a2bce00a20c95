"""One video, decoded in a confined process: the same as here, and it may crash without harm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_parts import (
    FakeEngine,
    children,
    copies,
    leaves_nothing,
    make_video,
    spread_faults,
    wait_until,
    with_damaged_frames,
)
from both_ways import same_both_ways
from media import cut
from tiny_models import tiny_model
from typer.testing import CliRunner

from ccl_hub.cli.embed_command import embed_app
from ccl_hub.decoding import one_video, sandbox
from ccl_hub.decoding.confinement import Walls, available
from ccl_hub.decoding.one_video import close_idle
from ccl_hub.decoding.sandbox import level_of
from ccl_hub.embed import ClipStream, Embeddings, embed_image, embed_video
from ccl_hub.errors import (
    DecoderCrashError,
    DecoderFaultError,
    InputError,
    MediaNotFoundError,
    UnsupportedMediaError,
)
from ccl_hub.sampling import Sampling
from ccl_hub.video import MediaLimits

needs_full = pytest.mark.skipif(
    level_of(available()) != "full", reason="this system cannot confine decoding fully"
)


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(tiny_model())


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("confined"), "good.mp4")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield from leaves_nothing()


def assert_equal(one: Embeddings, other: Embeddings) -> None:
    for name in ("clips", "clip_seconds", "frames", "frame_seconds", "video"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert replace(one.provenance, sandbox="") == replace(other.provenance, sandbox="")


@needs_full
def test_vectors_are_the_same_and_say_how_they_were_decoded(
    engine: FakeEngine, video: Path
) -> None:
    default = embed_video(engine, video)
    confined = embed_video(engine, video, decode="confined")
    here = embed_video(engine, video, decode="in-process")
    assert_equal(default, here)
    assert_equal(confined, here)
    levels = [result.provenance.sandbox for result in (default, confined, here)]
    assert levels == ["full", "full", "none"]
    assert_equal(embed_image(engine, video), embed_image(engine, video, decode="in-process"))


@needs_full
def test_files_that_are_not_whole_are_the_same(tmp_path: Path, video: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    cut(video, tmp_path / "cut.mp4", 0.9)
    with_damaged_frames(tmp_path, "damaged.mkv", [7, 30])
    for path in (*sorted(tmp_path.glob("*.m*")), tmp_path / "missing.mp4", tmp_path):
        same_both_ways(path)


@needs_full
def test_damaged_frames_are_left_out(tmp_path: Path, engine: FakeEngine) -> None:
    path = with_damaged_frames(tmp_path, "damaged.mkv", [7, 30])
    found = embed_video(engine, path, every_seconds=0.1)
    assert found.incomplete
    assert_equal(found, embed_video(engine, path, every_seconds=0.1, decode="in-process"))


def test_errors_name_the_file_as_it_was_given(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedMediaError, match=r"^text\.mp4: not a supported"):
        embed_video(engine, "text.mp4")
    with pytest.raises(MediaNotFoundError, match=r"^gone\.mp4: no such local file"):
        embed_video(engine, "gone.mp4")


@needs_full
def test_a_crash_is_an_error_and_the_next_video_is_embedded(
    tmp_path: Path, engine: FakeEngine, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread_faults(tmp_path, monkeypatch)
    crash, odd = copies(video, ["abort-20-x.mp4", "runtime-20-x.mp4"])
    with pytest.raises(DecoderCrashError, match=r"abort-20-x\.mp4: .*SIGABRT") as caught:
        embed_video(engine, crash)
    assert caught.value.code == "crashed"
    with pytest.raises(DecoderFaultError, match=r"runtime-20-x\.mp4: unexpected RuntimeError"):
        embed_video(engine, odd)
    assert len(embed_video(engine, video).clips) == 10


@needs_full
def test_the_process_is_kept_for_the_next_video(engine: FakeEngine, video: Path) -> None:
    before = children()
    embed_video(engine, video)
    (kept,) = (child for child in children() if child not in before)
    thread = threading.Thread(target=embed_video, args=(engine, video))
    thread.start()
    thread.join()
    embed_video(engine, video)
    assert kept in children()
    embed_video(engine, video, clips=3)  # other clips
    assert kept in children()
    embed_video(engine, video, limits=MediaLimits(max_pixels=10**6))  # another process
    assert wait_until(lambda: kept not in children())
    close_idle()
    assert wait_until(lambda: [c for c in children() if c not in before] == [])


@needs_full
def test_a_stream_that_is_left_early_ends_its_process(engine: FakeEngine, video: Path) -> None:
    before = children()
    with ClipStream(engine, video, Sampling(every_seconds=0.1)) as stream:
        next(iter(stream))
    assert wait_until(lambda: [c for c in children() if c not in before] == [])


def test_where_nothing_can_be_confined_it_is_decoded_here(
    engine: FakeEngine,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(one_video, "available", Walls)
    monkeypatch.setattr(sandbox, "_told", False)
    before = children()
    for _ in range(2):
        assert embed_video(engine, video).provenance.sandbox == "none"
    assert children() == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(InputError, match="at the level 'none', not 'full'"):
        embed_video(engine, video, decode="confined")
    with pytest.raises(InputError, match="decode is 'maybe'; allowed: auto, confined, in-process"):
        embed_video(engine, video, decode="maybe")  # type: ignore[arg-type]


@needs_full
@pytest.mark.parametrize(("option", "level"), [((), "full"), (("--sandbox", "off"), "none")])
def test_the_command_says_the_level(
    tmp_path: Path, video: Path, option: tuple[str, ...], level: str
) -> None:
    out = tmp_path / "out.npz"
    arguments = [str(video), "--out", str(out), "--clips", "1", "--json", "--quiet", *option]
    done = CliRunner().invoke(embed_app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["provenance"]["sandbox"] == level
    assert Embeddings.load(out).provenance.sandbox == level
