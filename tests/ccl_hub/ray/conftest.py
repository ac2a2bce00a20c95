"""Videos, a tiny model and what embed_video gives for them; decoders that fail by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from media import Recipe, cut, write_video
from tiny_models import tiny_model

from ccl_hub.embed import Embeddings, embed_video
from ccl_hub.model import CCLModel

CLIPS = 3
FAULTS = """
import os, sys, time

if any("ccl_hub.decoding.worker" in word for word in sys.orig_argv):
    from ccl_hub.video import reader as video

    class VideoReader(video.VideoReader):
        def __init__(self, path, **kwargs):
            name = getattr(path, "path", path).stem  # of a MediaFile
            if name.endswith("crash"):
                os.kill(os.getpid(), 9)
            if name.endswith("hang"):
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
def same_rows(expected: dict[str, Embeddings]) -> Callable[[list[dict], str], None]:
    """Return what compares rows with those that a video must have, by the video's name."""
    from ccl_hub.ray.rows import FACTS

    def compare(rows: list[dict], name: str) -> None:
        wanted = expected[name]
        assert [row["clip_index"] for row in rows] == list(range(len(wanted.clips)))
        vectors = np.array([row["embedding"] for row in rows], np.float32)
        np.testing.assert_allclose(vectors, wanted.clips, rtol=1e-5, atol=1e-6)
        spans = [(row["start_seconds"], row["end_seconds"]) for row in rows]
        np.testing.assert_array_equal(spans, wanted.clip_seconds)
        facts = wanted.provenance
        for fact in (*FACTS, "completeness"):
            assert {row[fact] for row in rows} == {getattr(facts, fact)}, fact

    return compare


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put temporary files into a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path
