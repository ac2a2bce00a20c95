"""Retrieval tables: which items are compared, what counts as found, and the command itself."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from ccl_hub.errors import InputError
from training import retrieval
from training.evaluation import evaluate as evaluation
from training.evaluation.features import SetFeatures, features_of
from training.evaluation.labelled_sets import EvaluationSet, open_evaluation_set
from training.evaluation.results import Measurement, read_results, summarise
from training.retrieval import Retrieval, markdown_tables, shared_frames, video_means
from training.tasks.validation import retrieval_table

SMALL = Preprocessing(clip_frames=4, resize_height_px=40, resize_width_px=48, crop_px=32)
CLIPS = 2
CPU = torch.device("cpu")


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
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in Retrieval(**options).measure(features, labelled).measurements:
        if (one.space, one.centred) == (space, False):
            found.setdefault((one.task, one.level, one.match), {})[one.metric] = one.value
    return found


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
    found = figures(made(perfect), labelled, ks=(1, 5, 10))
    assert list(found) == ALL
    for question in ALL:
        assert found[question] == {"top-1": 1.0, "top-5": 1.0, "top-10": 1.0}, question


def test_an_adversarial_embedding_finds_nothing(labelled):
    # Training items of a class look like test items of the next class, so that every answer is
    # wrong; inside the test split frames look like clips of another video.
    classes = classes_of_clips(labelled)
    test = torch.arange(48) >= 32
    turned = torch.where(test, classes, (classes + 1) % 8)
    video = torch.eye(8)[turned]
    frames = torch.eye(8)[torch.where(test, (classes + 3) % 8, turned)][:, None].repeat(1, 4, 1)
    found = figures(made(video, frames), labelled, ks=(1, 2))
    for question in ALL:
        if question[0] == "F=>F":  # its frames agree with the training frames of class + 2
            continue
        assert found[question] == {"top-1": 0.0, "top-2": 0.0}, question
    frames = torch.eye(8)[turned][:, None].repeat(1, 4, 1)
    found = figures(made(video, frames), labelled, ks=(1, 2))
    for level in ("clip", "video"):
        assert found["F=>F", level, "class"] == {"top-1": 0.0, "top-2": 0.0}


def test_a_collapsed_embedding_gets_no_credit_beyond_the_first_item(labelled):
    for value in (0.0, 1.0):
        found = figures(made(torch.full((48, 5), value)), labelled, ks=(1, 4, 16))
        # All equal: the lowest index wins, and that is right for the first clip or video alone.
        assert found["F=>V", "clip", "exact clip"]["top-1"] == 1 / 16
        assert found["F=>V", "clip", "same video"]["top-1"] == 1 / 8
        assert found["V=>F", "clip", "exact clip"] == {
            "top-1": 1 / 16,
            "top-4": 1 / 16,
            "top-16": 4 / 16,
        }
        assert found["V=>V", "clip", "class"]["top-1"] == 1 / 8
        assert found["V=>V", "video", "class"] == {"top-1": 1 / 8, "top-4": 4 / 8, "top-16": 1.0}


def test_equal_clips_of_a_video_count_for_the_video_alone(labelled):
    by_video = torch.eye(24).repeat_interleave(CLIPS, 0)
    found = figures(made(by_video), labelled, ks=(1, 2))
    assert found["F=>V", "clip", "exact clip"] == {"top-1": 0.5, "top-2": 1.0}
    assert found["F=>V", "clip", "same video"] == {"top-1": 1.0, "top-2": 1.0}
    assert found["V=>F", "clip", "exact clip"] == {"top-1": 0.5, "top-2": 0.5}


def test_frames_of_class_retrieval_are_the_middle_ones(labelled):
    classes = classes_of_clips(labelled)
    frames = torch.zeros(48, 4, 8)
    frames[:, 2] = torch.eye(8)[classes]
    for other in (0, 1, 3):
        frames[:, other] = torch.eye(8)[(classes + other + (torch.arange(48) >= 32)) % 8]
    found = figures(made(torch.ones(48, 8), frames), labelled, ks=(1,))
    assert found["F=>F", "clip", "class"] == {"top-1": 1.0}
    assert found["F=>F", "video", "class"] == {"top-1": 1.0}


def test_videos_are_the_means_of_their_clips(labelled):
    # The long clip of each video says the class, the short one is like no other split's: the mean
    # of the vectors as they are follows the long one.
    classes = classes_of_clips(labelled)
    long, test = torch.arange(48) % 2 == 1, torch.arange(48) >= 32
    places = torch.where(long, classes, torch.where(test, 8, 16) + classes)
    video = torch.eye(24)[places] * torch.where(long, 5.0, 1.0)[:, None]
    found = figures(made(video), labelled, ks=(1,))
    # A short clip is equally far from everything, so it gets the class of the first item.
    assert found["V=>V", "clip", "class"]["top-1"] == 1 / 2 + 1 / 16
    assert found["V=>V", "video", "class"]["top-1"] == 1.0
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
    features = features_of(tiny_model(), labelled, clips=CLIPS, device=CPU)
    table = retrieval_table(features, labelled)
    names = {
        ("V=>V", "clip", "class"): "video_to_video",
        ("F=>V", "clip", "exact clip"): "frame_to_video_clip",
        ("F=>V", "clip", "same video"): "frame_to_video_same_video",
        ("V=>F", "clip", "exact clip"): "video_to_frame_clip",
        ("V=>F", "clip", "same video"): "video_to_frame_same_video",
    }
    for space, name in (("512", "features"), ("128", "projections")):
        found = figures(features, labelled, space, ks=(1, 5, 10))
        for question, key in names.items():
            values = {f"top-{k}": value for k, value in table[name][key].items()}
            assert found[question] == pytest.approx(values, abs=1e-6)


def test_a_k_beyond_the_gallery_is_left_out_and_said(labelled):
    measured = Retrieval(ks=(1, 16, 20, 50)).measure(made(torch.eye(48)), labelled)
    metrics: dict[str, set[str]] = {}
    for one in measured.measurements:
        metrics.setdefault(f"{one.task} by {one.level}", set()).add(one.metric)
    assert metrics["F=>V by clip"] == {"top-1", "top-16"}
    assert metrics["V=>F by clip"] == {"top-1", "top-16", "top-20", "top-50"}
    assert metrics["V=>V by video"] == {"top-1", "top-16"}
    assert metrics["F=>F by clip"] == {"top-1", "top-16", "top-20"}
    assert measured.left_out["F=>V by clip"] == {"gallery": 16, "ks": [20, 50]}
    assert measured.left_out["V=>V by clip"] == {"gallery": 32, "ks": [50]}
    assert "V=>F by clip" not in measured.left_out
    none = Retrieval(ks=(1000,)).measure(made(torch.eye(48)), labelled)
    assert none.measurements == () and len(none.left_out) == 6


def test_levels_and_queries(labelled):
    by_video = Retrieval(levels=("video",)).measure(made(torch.eye(48)), labelled).measurements
    assert {(one.task, one.level) for one in by_video} == {("F=>F", "video"), ("V=>V", "video")}
    assert {one.queries for one in by_video} == {8}
    by_clip = Retrieval(levels=("clip",)).measure(made(torch.eye(48)), labelled).measurements
    queries = {one.task: one.queries for one in by_clip}
    assert queries == {"F=>V": 64, "V=>F": 16, "F=>F": 16, "V=>V": 16}


def test_without_float64_on_the_device_the_cpu_searches(labelled):
    """The means of videos are float64, which MPS refuses with a traceback."""
    features = made(torch.randn(48, 6, generator=torch.Generator().manual_seed(0)))
    on_mps = Retrieval(ks=(1,), device=torch.device("mps")).measure(features, labelled)
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
    test = features_of(tiny_model(), labelled, clips=10, device=CPU).of_split(labelled, "test")
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


# The command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    CCLModel(CCLConfig(Architecture(stage_channels=(4, 4, 8, 8)), SMALL)).save_pretrained(folder)
    return folder


def command(model_folder, out, *extra: str) -> list[str]:
    models = ["--model", str(model_folder), "--model", "random-init", "--seeds", "0,1"]
    data = ["--data", "rendered:24", "--clips", "2", "--device", "cpu"]
    return [*models, *data, "--out", str(out), *extra]


def test_the_command_writes_results_and_prints_a_table(model_folder, tmp_path, capsys):
    out, cache = tmp_path / "results", tmp_path / "cache"
    extra = ("--cache", str(cache), "--centre", "--ks", "10,1,50", "--group", "trial")
    assert retrieval.main(command(model_folder, out, *extra)) == 0
    results = read_results([out])
    assert [(one.model.label, one.model.seed) for one in results] == [
        ("random-init", 0),
        ("random-init", 1),
        ("tiny", None),
    ]
    assert {one.group for one in results} == {"trial"} and len(list(cache.iterdir())) == 3
    first = results[0]
    assert (first.kind, first.data.test_videos, first.data.train_videos) == ("retrieval", 8, 16)
    settings = {"clips": 2, "precision": "fp32", "device": "cpu", "frame_of_clip": "2 of 0..3"}
    settings["shared_frames"] = 0.0  # clips of 0.64 s at either end of 2.4 s
    assert first.settings.items() >= settings.items()
    assert first.settings["left_out"]["F=>V by clip"] == {"gallery": 16, "ks": [50]}
    table = capsys.readouterr().out
    assert table == markdown_tables(sorted(results, key=lambda one: one.model.label != "tiny"))
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[0] == "| task | by | found | space | model | top-1 | top-10 | top-50 |"
    assert len(lines) == 2 + 8 * 2 * 2 * 2  # questions, spaces, centred or not, models
    assert {line.count("|") for line in lines} == {9}
    (cell,) = [
        one
        for one in summarise(results)
        if one.label == "random-init"
        and one.column == ("V=>F", "512", "clip", "same video", "top-10", True)
    ]
    assert cell.seeds == 2
    row = next(
        line
        for line in lines
        if line.startswith("| V=>F | clip | same video | 512-d, centred | random-init |")
    )
    assert row.split(" | ")[6] == cell.text()


def test_the_cache_changes_nothing(model_folder, tmp_path):
    cache = ("--cache", str(tmp_path / "cache"))
    for name in ("first", "second"):
        assert retrieval.main(command(model_folder, tmp_path / name, *cache)) == 0
    assert retrieval.main(command(model_folder, tmp_path / "third")) == 0
    first, second, third = (read_results([tmp_path / n]) for n in ("first", "second", "third"))
    assert first == second == third


def test_models_that_see_other_frames_are_rows_of_one_table(model_folder, tmp_path, capsys):
    """The table was refused, as if there were two data sets of one name."""
    torch.manual_seed(4)
    larger = dataclasses.replace(SMALL, resize_height_px=48, resize_width_px=64, mean=(0.5,) * 3)
    config = CCLConfig(Architecture(stage_channels=(4, 4, 8, 8)), larger)
    CCLModel(config).save_pretrained(tmp_path / "larger")
    more = ("--model", str(tmp_path / "larger"), "--ks", "1", "--level", "video")
    assert retrieval.main(command(model_folder, tmp_path / "out", *more)) == 0
    table = capsys.readouterr().out
    assert "| V=>V | video | class | 512-d | larger |" in table
    assert "| V=>V | video | class | 512-d | tiny |" in table
    assert len(read_results([tmp_path / "out"])) == 4


def test_data_that_change_meanwhile_are_an_error_in_one_line(
    model_folder, tmp_path, capsys, monkeypatch
):
    records = evaluation.data_record
    prints = iter("abc")

    def changing(labelled):
        return dataclasses.replace(records(labelled), fingerprint=next(prints))

    monkeypatch.setattr(evaluation, "data_record", changing)
    assert retrieval.main(command(model_folder, tmp_path / "out")) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: rendered: results come from two")
    assert captured.out == ""


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("--data", "nowhere"), 2, "nowhere: no such data"),
        (("--data", "rendered:48"), 2, "data sets are named rendered, rendered"),
        (("--model", "ccl_r18_nano"), 2, "ccl_r18_nano"),
        (("--device", "teapot"), 2, "teapot"),
        (("--ks", "5000"), 2, "nothing was measured"),
    ],
)
def test_errors_are_one_line_and_a_code(model_folder, tmp_path, capsys, change, code, words):
    assert retrieval.main(command(model_folder, tmp_path / "out", *change)) == code
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("error: ") and words in line and captured.out == ""


def test_a_place_that_cannot_be_written_is_code_1(model_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert retrieval.main(command(model_folder, tmp_path / "file")) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [("--ks", "0"), ("--ks", "1,x"), ("--level", "frame"), ("--seeds", "1,1")]
)
def test_arguments_out_of_range_are_refused(model_folder, tmp_path, wrong):
    with pytest.raises(SystemExit):
        retrieval.main(command(model_folder, tmp_path, *wrong))


@pytest.mark.shared
def test_real_videos_with_official_groups(shared_data, model_folder, tmp_path):
    """Weizmann, unpacked: actors are either for training or for testing."""
    pytest.importorskip("av")
    data = ["--data", str(shared_data / "eval/weizmann.csv"), "--clips", "1", "--device", "cpu"]
    out = tmp_path / "out"
    assert retrieval.main(["--model", str(model_folder), *data, "--out", str(out)]) == 0
    (result,) = read_results([out])
    data_record = result.data
    assert (data_record.name, data_record.classes, data_record.note) == ("weizmann", 10, "")
    assert (data_record.train_videos, data_record.test_videos) == (60, 30)
    values = {one.column: one.value for one in result.measurements}
    # One clip a video: the clip and its video are the same thing.
    for task in ("F=>V", "V=>F"):
        for k in (1, 5, 10, 20):
            exact = values[(task, "512", "clip", "exact clip", f"top-{k}", False)]
            assert exact == values[(task, "512", "clip", "same video", f"top-{k}", False)]
    assert values["V=>V", "512", "clip", "class", "top-50", False] > 0.9


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds(labelled):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = torch.Generator().manual_seed(2)
    features = made(torch.randn(48, 32, generator=rng), torch.randn(48, 4, 32, generator=rng))
    here, there = (
        Retrieval(ks=(1, 5), centre=True, device=torch.device(name)).measure(features, labelled)
        for name in ("cpu", "cuda")
    )
    assert here == there


def test_a_measurement_says_how_many_queries_it_counts(labelled):
    measured = Retrieval(ks=(1,), levels=("clip",)).measure(made(torch.eye(48)), labelled)
    for one in measured.measurements:
        assert isinstance(one, Measurement) and (one.value * one.queries) % 1 == 0
        assert json.dumps(dataclasses.asdict(one), allow_nan=False)
