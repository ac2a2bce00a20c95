"""The command ``python -m training.retrieval``: results, table, errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ccl_hub import CCLModel
from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from training import retrieval
from training.evaluation import evaluate as evaluation
from training.evaluation.results import read_results, summarise
from training.evaluation.tables import retrieval_tables

SMALL = Preprocessing(clip_frames=4, resize_height_px=40, resize_width_px=48, crop_px=32)


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
    assert table == retrieval_tables(sorted(results, key=lambda one: one.model.label != "tiny"))
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
