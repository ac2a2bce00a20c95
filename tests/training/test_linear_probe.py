"""The linear probe: known answers, no look at the test split, and the command itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from ccl_hub.errors import ConfigError
from training.data.datasets import VideoList
from training.evaluation.evaluate import Measured
from training.evaluation.features import SetFeatures
from training.evaluation.labelled_sets import EvaluationSet
from training.evaluation.probe import Probe, probe
from training.evaluation.results import DataRecord, Measurement, ModelRecord, Results, read_results
from training.evaluation.tables import classifier_table, fold_means
from training.frames.rendered import RenderedVideos
from training.linear_probe import main

SMALL = Preprocessing(clip_frames=3, resize_height_px=40, resize_width_px=48, crop_px=32)
CLIPS = 3
QUICK = Probe(l2=0.01)


def rendered(count: int = 96) -> EvaluationSet:
    """8 classes; every third of each class is a test video."""
    source = RenderedVideos(count, SMALL)
    return EvaluationSet(source, source.videos)


def features_from(labelled: EvaluationSet, video: np.ndarray, frames: np.ndarray | None = None):
    """Embeddings (M, D) of every clip, with noise as frames unless they are given."""
    rng = np.random.default_rng(1)
    m, d = video.shape
    frames = rng.normal(size=(m, 2, d)) if frames is None else frames
    return SetFeatures(
        frames=torch.tensor(frames, dtype=torch.float32),
        video=torch.tensor(video, dtype=torch.float32),
        frame_projections=torch.zeros(m, 2, 4),
        video_projections=torch.zeros(m, 4),
        video_ids=np.repeat(np.arange(len(labelled)), CLIPS),
        clip_seconds=np.zeros((m, 2)),
        frame_seconds=np.zeros((m, 2)),
    )


def telling(labelled: EvaluationSet, noise: float = 0.3) -> np.ndarray:
    """Clip vectors (M, 12) that tell the class."""
    rng = np.random.default_rng(0)
    target = np.repeat(labelled.videos.targets(), CLIPS)
    return np.eye(12)[target] + noise * rng.normal(size=(len(target), 12))


def relabelled(labelled: EvaluationSet, split: str) -> EvaluationSet:
    """The same with the classes of one split turned by one."""
    names = labelled.videos.classes
    turned = dict(zip(names, (*names[1:], names[0]), strict=True))
    items = tuple(
        dataclasses.replace(item, label=turned[item.label]) if item.split == split else item
        for item in labelled.videos
    )
    return EvaluationSet(labelled.source, VideoList("turned", items, names))


def measured(features: SetFeatures, labelled: EvaluationSet, how: Probe) -> Measured:
    return probe(features, labelled, how)[1]


def figures(measured: Measured) -> dict[str, float]:
    return {one.metric: one.value for one in measured.measurements}


def test_features_that_tell_the_class_give_all_of_it():
    labelled = rendered()
    told = measured(features_from(labelled, telling(labelled, noise=0.1)), labelled, Probe())
    assert figures(told) == {"top-1": 1.0, "top-5": 1.0}
    assert np.array_equal(np.array(told.confusion.counts), 4 * np.eye(8))
    choice = told.settings["cross_validation"]
    assert choice["held_out"] == "videos"
    assert told.settings["l2"] in (float(l2) for l2 in choice["log_loss"])


def test_features_that_tell_nothing_give_a_guess():
    labelled = rendered(480)  # 160 test videos of 8 classes
    noise = np.random.default_rng(3).normal(size=(480 * CLIPS, 12))
    shares = figures(measured(features_from(labelled, noise), labelled, QUICK))
    assert shares["top-1"] < 0.125 + 4 * np.sqrt(0.125 * 0.875 / 160)
    assert 0.45 < shares["top-5"] < 0.8  # 5 of 8


def test_features_that_mislead_give_nothing():
    labelled = rendered()
    features = features_from(labelled, telling(labelled, noise=0.05))
    misled = measured(features, relabelled(labelled, "test"), QUICK)
    assert figures(misled)["top-1"] == 0.0


def test_clips_of_a_test_video_are_averaged():
    labelled = rendered()
    video = telling(labelled, noise=0.05)
    video[::CLIPS] = 0  # the first clip of every video says nothing
    averaged = measured(features_from(labelled, video), labelled, QUICK)
    assert figures(averaged)["top-1"] == 1.0
    assert averaged.measurements[0].queries == 32 and averaged.measurements[0].level == "video"


@pytest.mark.parametrize(
    "how", [QUICK, Probe(optimiser="sgd"), Probe(optimiser="sgd", norm=True), Probe()]
)
def test_the_test_split_changes_no_weight(how):
    labelled = rendered(48)
    video = telling(labelled, noise=1.0)
    before, figures_before = probe(features_from(labelled, video), labelled, how)
    other = video.copy()
    splits = np.repeat([item.split for item in labelled.videos], CLIPS)
    other[splits == "test"] = np.random.default_rng(5).normal(size=(48, 12)) * 100
    after, figures_after = probe(features_from(labelled, other), relabelled(labelled, "test"), how)
    assert torch.equal(before.weight, after.weight) and torch.equal(before.bias, after.bias)
    assert figures_before.settings == figures_after.settings
    assert figures_before.measurements != figures_after.measurements
    # While other training classes do.
    turned, _ = probe(features_from(labelled, video), relabelled(labelled, "train"), how)
    assert not torch.equal(before.weight, turned.weight)


def test_a_probe_repeats_itself_whatever_the_random_state():
    labelled = rendered(48)
    features = features_from(labelled, telling(labelled))
    for how in (QUICK, Probe(optimiser="sgd")):
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        first, first_figures = probe(features, labelled, how)
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(2)
        again, same_figures = probe(features, labelled, how)
        assert torch.equal(first.weight, again.weight)
        assert first_figures == same_figures


def test_frame_features_are_the_mean_of_a_clips_frames():
    labelled = rendered()
    video = telling(labelled)
    frames = np.stack([video + 5, video - 5], 1)  # each alone is off, their mean is not
    noise = np.random.default_rng(2).normal(size=video.shape)
    features = features_from(labelled, noise, frames)
    as_frames = dataclasses.replace(QUICK, feature="frames")
    of_frames, figures_of_frames = probe(features, labelled, as_frames)
    assert figures(figures_of_frames)["top-1"] == 1.0
    assert figures(measured(features, labelled, QUICK))["top-1"] < 0.5
    of_video, _ = probe(features_from(labelled, video), labelled, QUICK)
    torch.testing.assert_close(of_frames.weight, of_video.weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"norm": True}, "norm goes with optimiser sgd"),
        ({"l2": 0.1, "optimiser": "sgd"}, "weight decay of its own"),
        ({"l2": float("nan")}, "l2 is nan; allowed: above 0"),
        ({"feature": "both"}, "allowed: video, frames"),
        ({"optimiser": "adam"}, "allowed: logistic, sgd"),
    ],
)
def test_probes_that_make_no_sense_are_refused(values, text):
    with pytest.raises(ConfigError, match=text):
        Probe(**values)


# The command -----------------------------------------------------------------------------------


@pytest.fixture
def model_folder(tmp_path):
    torch.manual_seed(7)
    config = CCLConfig(Architecture(stage_channels=(4, 4, 8, 8)), SMALL)
    return CCLModel(config).save_pretrained(tmp_path / "tiny")


def arguments(model_folder, tmp_path, *extra: str) -> list[str]:
    return [
        *("--model", str(model_folder), "--model", "random-init", "--data", "rendered:48"),
        *("--clips", "2", "--device", "cpu", "--l2", "0.1", "--threads", "1"),
        *("--out", str(tmp_path / "results"), "--cache", str(tmp_path / "cache"), *extra),
    ]


def test_the_command_writes_a_file_per_row_seed_and_set_and_a_table(
    model_folder, tmp_path, capsys
):
    call = arguments(model_folder, tmp_path, "--seeds", "0,1", "--metric", "f-measure")
    assert main(call) == 0
    table = capsys.readouterr().out
    results = read_results([tmp_path / "results"])
    rows = {(r.model.label, r.model.seed): r for r in results}
    assert set(rows) == {("tiny", None), ("random-init", 0), ("random-init", 1)}
    one = rows["random-init", 1]
    assert one.kind == "linear-probe" and one.model.reference and one.group == ""
    assert (one.data.train_videos, one.data.test_videos, one.data.classes) == (32, 16, 8)
    assert [m.metric for m in one.measurements] == ["top-1", "top-5", "macro-F1"]
    assert all(m.task == "linear" and m.queries == 16 for m in one.measurements)
    assert one.settings["clips"] == 2 and one.settings["l2"] == 0.1
    assert one.settings["optimiser"] == "logistic"
    counts = np.array(one.confusion.counts)
    assert counts.sum() == 16 and np.trace(counts) / 16 == one.measurements[0].value
    assert (
        table.splitlines()[0]
        == "| data (test videos) | model | seeds | top-1 | top-5 | macro-F1 |"
    )
    assert [line.split(" | ")[1:3] for line in table.splitlines()[2:]] == [
        ["tiny", "1"],
        ["random-init", "2"],
    ]
    # Again, from the cache: the same figures to the last bit, in the same files.
    texts = {p.name: p.read_text() for p in (tmp_path / "results").iterdir()}
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert main(call) == 0
    assert {p.name: p.read_text() for p in (tmp_path / "results").iterdir()} == texts


def test_other_probes_stand_in_rows_of_their_own(model_folder, tmp_path, capsys):
    call = arguments(model_folder, tmp_path)
    assert main(call) == 0
    assert main([*call, "--feature", "frames"]) == 0
    assert "(linear probe, frame features)" in capsys.readouterr().out
    without_l2 = [a for a in call if a not in ("--l2", "0.1")]
    assert main([*without_l2, "--optimiser", "sgd", "--norm"]) == 0
    assert main([*without_l2, "--optimiser", "sgd", "--group", "ablation"]) == 0
    results = read_results([tmp_path / "results"])
    assert sorted({one.group for one in results}) == [
        "",
        "ablation, linear probe, SGD",
        "linear probe, SGD with BatchNorm",
        "linear probe, frame features",
    ]
    assert len(results) == 8
    assert classifier_table(results).count("| random-init") == 4


def test_a_probe_that_makes_no_sense_is_one_line_and_code_2(model_folder, tmp_path, capsys):
    assert main(arguments(model_folder, tmp_path, "--norm")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: norm goes with optimiser sgd")


def result(data: str, value: float, seed: int = 0, queries: int = 10) -> Results:
    return Results(
        "linear-probe",
        ModelRecord("ours", seed=seed),
        DataRecord(data, fingerprint=data, test_videos=queries),
        (Measurement("linear", "top-1", value, level="video", queries=queries),),
    )


def test_folds_are_averaged_seed_by_seed_and_named():
    results = [
        result("UCF101 split 1", 0.5),
        result("UCF101 split 3", 0.1),
        result("UCF101 split 2", 0.3),
        result("UCF101 split 1", 0.6, seed=1),
        result("UCF101 split 2", 0.8, seed=1),
        result("HMDB51 split 1", 0.9),
        result("weizmann", 0.9),
    ]
    means = fold_means(results)
    assert [(m.data.name, m.model.seed, m.measurements[0].value) for m in means] == [
        ("UCF101 (mean of splits 1, 2, 3)", 0, pytest.approx(0.3)),
        ("UCF101 (mean of splits 1, 2)", 1, pytest.approx(0.7)),
    ]
    assert means[0].measurements[0].queries == 30
    table = classifier_table(results)
    assert "| UCF101 (mean of splits 1, 2, 3) (30) | ours | 1 | 30.0 |" in table
    assert "| UCF101 split 1 (10) | ours | 2 | 55.0 ± 7.1 |" in table
