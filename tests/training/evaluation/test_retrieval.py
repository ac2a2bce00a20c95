"""Retrieval: which items are compared, and what counts as found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from ccl_hub.errors import InputError
from training.evaluation.features import SetFeatures, features_of
from training.evaluation.labelled_sets import EvaluationSet, open_evaluation_set
from training.evaluation.retrieval import (
    Items,
    Question,
    Retrieval,
    shared_frames,
    top_k_accuracy,
    video_means,
)
from training.tasks.validation import retrieval_table

SMALL = Preprocessing(clip_frames=4, resize_height_px=40, resize_width_px=48, crop_px=32)
CLIPS = 2


@pytest.fixture(scope="module")
def labelled() -> EvaluationSet:
    """24 videos of 8 classes: one test video a class and two training videos."""
    return open_evaluation_set("rendered:24", SMALL)


def tiny_model() -> CCLModel:
    torch.manual_seed(0)
    return CCLModel(CCLConfig(Architecture(stage_channels=(4, 4, 8, 8)), SMALL)).eval()


def made(video: torch.Tensor, frames: torch.Tensor | None = None) -> SetFeatures:
    """Features from one vector per clip; frames equal their clip unless given."""
    if frames is None:
        frames = video[:, None].repeat(1, 4, 1)  # (M,T,D)
    noise = torch.Generator().manual_seed(0)
    # The projections are noise, so that a mix-up of the two spaces would show.
    lost = [torch.randn((*x.shape[:-1], 6), generator=noise) for x in (frames, video)]
    ids = np.repeat(np.arange(24), CLIPS)
    return SetFeatures(frames, video, *lost, ids, np.zeros((48, 2)), np.zeros((48, 4)))


def figures(
    features: SetFeatures, labelled: EvaluationSet, space: str = "512", **options
) -> dict[tuple[str, str, str], dict[str, float]]:
    """Measured as ``(task, level, match) -> metric -> value``, of one space, not centred."""
    shares: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in Retrieval(**options).measure(features, labelled).measurements:
        if (one.space, one.centred) == (space, False):
            shares.setdefault((one.task, one.level, one.match), {})[one.metric] = one.value
    return shares


ALL = [
    ("F=>V", "clip", "exact clip"),
    ("F=>V", "clip", "same video"),
    ("V=>F", "clip", "exact clip"),
    ("V=>F", "clip", "same video"),
    ("F=>F", "clip", "class"),
    ("V=>V", "clip", "class"),
    ("F=>F", "video", "class"),
    ("V=>V", "video", "class"),
]


def classes_of_clips(labelled: EvaluationSet) -> torch.Tensor:
    return torch.from_numpy(labelled.videos.targets()).repeat_interleave(CLIPS)


def test_a_perfect_embedding_finds_everything_first(labelled):
    # A class, a little of the video, and less of the clip.
    classes, clips = classes_of_clips(labelled), torch.arange(48)
    perfect = torch.cat(
        [torch.eye(8)[classes], 0.3 * torch.eye(24)[clips // CLIPS], 0.1 * torch.eye(48)], dim=1
    )
    shares = figures(made(perfect), labelled, ks=(1, 5, 10))
    assert list(shares) == ALL
    for question in ALL:
        assert shares[question] == {"top-1": 1.0, "top-5": 1.0, "top-10": 1.0}, question


def test_an_adversarial_embedding_finds_nothing(labelled):
    # Training items of a class look like test items of the next class, so that every answer is
    # wrong; inside the test split frames look like clips of another video.
    classes = classes_of_clips(labelled)
    test = torch.arange(48) >= 32
    turned = torch.where(test, classes, (classes + 1) % 8)
    video = torch.eye(8)[turned]
    frames = torch.eye(8)[torch.where(test, (classes + 3) % 8, turned)][:, None].repeat(1, 4, 1)
    shares = figures(made(video, frames), labelled, ks=(1, 2))
    for question in ALL:
        if question[0] == "F=>F":  # its frames agree with the training frames of class + 2
            continue
        assert shares[question] == {"top-1": 0.0, "top-2": 0.0}, question
    frames = torch.eye(8)[turned][:, None].repeat(1, 4, 1)
    shares = figures(made(video, frames), labelled, ks=(1, 2))
    for level in ("clip", "video"):
        assert shares["F=>F", level, "class"] == {"top-1": 0.0, "top-2": 0.0}


def test_a_collapsed_embedding_gets_no_credit_beyond_the_first_item(labelled):
    for value in (0.0, 1.0):
        shares = figures(made(torch.full((48, 5), value)), labelled, ks=(1, 4, 16))
        # All equal: the lowest index wins, and that is right for the first clip or video alone.
        assert shares["F=>V", "clip", "exact clip"]["top-1"] == 1 / 16
        assert shares["F=>V", "clip", "same video"]["top-1"] == 1 / 8
        assert shares["V=>F", "clip", "exact clip"] == {
            "top-1": 1 / 16,
            "top-4": 1 / 16,
            "top-16": 4 / 16,
        }
        assert shares["V=>V", "clip", "class"]["top-1"] == 1 / 8
        assert shares["V=>V", "video", "class"] == {"top-1": 1 / 8, "top-4": 4 / 8, "top-16": 1.0}


def test_equal_clips_of_a_video_count_for_the_video_alone(labelled):
    by_video = torch.eye(24).repeat_interleave(CLIPS, 0)
    shares = figures(made(by_video), labelled, ks=(1, 2))
    assert shares["F=>V", "clip", "exact clip"] == {"top-1": 0.5, "top-2": 1.0}
    assert shares["F=>V", "clip", "same video"] == {"top-1": 1.0, "top-2": 1.0}
    assert shares["V=>F", "clip", "exact clip"] == {"top-1": 0.5, "top-2": 0.5}


def test_frames_of_class_retrieval_are_the_middle_ones(labelled):
    classes = classes_of_clips(labelled)
    frames = torch.zeros(48, 4, 8)
    frames[:, 2] = torch.eye(8)[classes]
    for other in (0, 1, 3):
        frames[:, other] = torch.eye(8)[(classes + other + (torch.arange(48) >= 32)) % 8]
    shares = figures(made(torch.ones(48, 8), frames), labelled, ks=(1,))
    assert shares["F=>F", "clip", "class"] == {"top-1": 1.0}
    assert shares["F=>F", "video", "class"] == {"top-1": 1.0}


def test_videos_are_the_means_of_their_clips(labelled):
    # The long clip of each video says the class, the short one is like no other split's: the mean
    # of the vectors as they are follows the long one.
    classes = classes_of_clips(labelled)
    long, test = torch.arange(48) % 2 == 1, torch.arange(48) >= 32
    axes = torch.where(long, classes, torch.where(test, 8, 16) + classes)
    video = torch.eye(24)[axes] * torch.where(long, 5.0, 1.0)[:, None]
    shares = figures(made(video), labelled, ks=(1,))
    # A short clip is equally far from everything, so it gets the class of the first item.
    assert shares["V=>V", "clip", "class"]["top-1"] == 1 / 2 + 1 / 16
    assert shares["V=>V", "video", "class"]["top-1"] == 1.0
    means, ids = video_means(torch.tensor([[1.0], [3.0], [5.0]]), np.array([4, 4, 7]))
    assert means.tolist() == [[2.0], [5.0]] and ids.tolist() == [4, 7]


def test_centring_removes_a_shift_between_frames_and_clips_and_between_splits(labelled):
    rng = torch.Generator().manual_seed(1)
    clips = torch.randn(48, 16, generator=rng)
    clips[classes_of_clips(labelled).argsort()] = torch.eye(16)[:8].repeat_interleave(6, 0) * 4 + (
        torch.randn(48, 16, generator=rng) * 0.5
    )
    frames = clips[:, None] + 0.1 * torch.randn(48, 4, 16, generator=rng)
    test = torch.arange(48)[:, None] >= 32
    shift = 100 * torch.randn(3, 16, generator=rng)
    moved = made(
        torch.where(test, clips + shift[0], clips - shift[1]),
        torch.where(test[:, :, None], frames + shift[2], frames),
    )
    values = {
        (one.task, one.level, one.match, one.centred): one.value
        for one in Retrieval(ks=(1,), centre=True).measure(moved, labelled).measurements
        if one.space == "512"
    }
    for question in ALL:
        assert values[*question, True] >= 0.9, question
        assert values[*question, False] <= 0.5, question


def test_the_figures_are_those_of_validation(labelled):
    features = features_of(tiny_model(), labelled, clips=CLIPS)
    table = retrieval_table(features, labelled)
    names = {
        ("V=>V", "clip", "class"): "video_to_video",
        ("F=>V", "clip", "exact clip"): "frame_to_video_clip",
        ("F=>V", "clip", "same video"): "frame_to_video_same_video",
        ("V=>F", "clip", "exact clip"): "video_to_frame_clip",
        ("V=>F", "clip", "same video"): "video_to_frame_same_video",
    }
    for space, name in (("512", "features"), ("128", "projections")):
        shares = figures(features, labelled, space, ks=(1, 5, 10))
        for question, key in names.items():
            values = {f"top-{k}": value for k, value in table[name][key].items()}
            assert shares[question] == pytest.approx(values, abs=1e-6)


def test_a_k_beyond_the_gallery_is_left_out_and_said(labelled):
    measured = Retrieval(ks=(1, 16, 20, 50)).measure(made(torch.eye(48)), labelled)
    metrics: dict[str, set[str]] = {}
    for one in measured.measurements:
        metrics.setdefault(f"{one.task} by {one.level}", set()).add(one.metric)
    assert metrics["F=>V by clip"] == {"top-1", "top-16"}
    assert metrics["V=>F by clip"] == {"top-1", "top-16", "top-20", "top-50"}
    assert metrics["V=>V by video"] == {"top-1", "top-16"}
    assert metrics["F=>F by clip"] == {"top-1", "top-16", "top-20"}
    left_out = measured.settings["left_out"]
    assert left_out["F=>V by clip"] == {"gallery": 16, "ks": [20, 50]}
    assert left_out["V=>V by clip"] == {"gallery": 32, "ks": [50]}
    assert "V=>F by clip" not in left_out
    none = Retrieval(ks=(1000,)).measure(made(torch.eye(48)), labelled)
    assert none.measurements == () and len(none.settings["left_out"]) == 6


def test_levels_and_queries(labelled):
    by_video = Retrieval(levels=("video",)).measure(made(torch.eye(48)), labelled).measurements
    assert {(one.task, one.level) for one in by_video} == {("F=>F", "video"), ("V=>V", "video")}
    assert {one.queries for one in by_video} == {8}
    by_clip = Retrieval(levels=("clip",)).measure(made(torch.eye(48)), labelled).measurements
    queries = {one.task: one.queries for one in by_clip}
    assert queries == {"F=>V": 64, "V=>F": 16, "F=>F": 16, "V=>V": 16}
    assert all((one.value * one.queries) % 1 == 0 for one in (*by_video, *by_clip))


def test_without_float64_on_the_device_the_cpu_searches(labelled):
    """The means of videos are float64, which MPS refuses with a traceback."""
    features = made(torch.randn(48, 6, generator=torch.Generator().manual_seed(0)))
    on_mps = Retrieval(ks=(1,)).measure(features, labelled, torch.device("mps"))
    assert on_mps == Retrieval(ks=(1,)).measure(features, labelled)


def test_frames_that_several_clips_hold_are_counted(labelled):
    features = made(torch.eye(48))
    seconds = np.arange(48 * 4).reshape(48, 4) / 10
    apart = dataclasses.replace(features, frame_seconds=seconds)
    assert shared_frames(apart) == 0.0
    seconds[:2] = [[0, 1, 2, 3], [2, 3, 4, 5]]  # video 0: half of its frames are in both clips
    seconds[2:4] = [[0, 0, 0, 0], [6, 7, 6, 7]]  # video 1: often in one clip, which is looped
    assert shared_frames(dataclasses.replace(features, frame_seconds=seconds)) == 4 / 192
    assert shared_frames(features) == 1.0  # all at second 0
    test = features_of(tiny_model(), labelled, clips=10).of_split(labelled, "test")
    assert 0 < shared_frames(test) < 1  # 10 clips of 0.64 s in 2.4 s


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ks": ()}, "ks are"),
        ({"ks": (5, 1)}, "ascending"),
        ({"ks": (0, 1)}, "from 1"),
        ({"levels": ()}, "levels are"),
        ({"levels": ("frame",)}, "allowed: clip, video"),
    ],
)
def test_options_that_are_not_allowed_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Retrieval(**options)


def test_top_k_accuracy_by_hand():
    hits = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=bool)
    assert top_k_accuracy(hits, (1, 2, 3, 10)) == {1: 0.25, 2: 0.5, 3: 0.75, 10: 0.75}


def test_hits_are_neighbours_with_the_label_of_the_query():
    queries = Items(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), {"class": np.array([7, 8])})
    gallery = Items(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), {"class": np.array([7, 9])})
    hits = Question("V=>V", "clip", queries, gallery).hits(2)["class"]
    np.testing.assert_array_equal(hits, [[True, False], [False, False]])


def accuracies(queries, gallery, truth, labels, ks):
    items = Items(queries, {"class": truth}), Items(gallery, {"class": labels})
    return top_k_accuracy(Question("V=>V", "clip", *items).hits(max(ks))["class"], ks)


def test_random_embeddings_are_at_chance():
    rng = np.random.default_rng(0)
    queries, gallery = (torch.from_numpy(rng.normal(size=(800, 16))) for _ in range(2))
    shares = accuracies(queries, gallery, np.arange(800), np.arange(800), ks=(1, 40))
    assert shares[1] <= 0.01  # 1 of 800
    assert shares[40] == pytest.approx(0.05, abs=0.025)  # 40 of 800
    classes = rng.integers(0, 4, 800)
    shares = accuracies(queries, gallery, classes, rng.permutation(classes), ks=(1, 3))
    assert shares[1] == pytest.approx(1 / 4, abs=0.05)
    assert shares[3] == pytest.approx(1 - (3 / 4) ** 3, abs=0.05)


def test_top_k_accuracy_equals_scikit_learn_where_each_class_has_one_item():
    rng = np.random.default_rng(3)
    queries, gallery = rng.normal(size=(200, 8)), rng.normal(size=(12, 8))
    truth = rng.integers(0, 12, 200)
    scores = queries @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T
    vectors = torch.from_numpy(queries), torch.from_numpy(gallery)
    for k, value in accuracies(*vectors, truth, np.arange(12), ks=(1, 2, 5)).items():
        theirs = top_k_accuracy_score(truth, scores, k=k, labels=np.arange(12))
        assert value == pytest.approx(theirs, abs=1e-12)


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds(labelled):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = torch.Generator().manual_seed(2)
    features = made(torch.randn(48, 32, generator=rng), torch.randn(48, 4, 32, generator=rng))
    here, there = (
        Retrieval(ks=(1, 5), centre=True).measure(features, labelled, torch.device(name))
        for name in ("cpu", "cuda")
    )
    assert here == there
