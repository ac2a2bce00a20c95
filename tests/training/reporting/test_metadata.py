"""Metadata for the Hub: its own library reads what is written."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries
from report_data import classified, everything, result

from ccl_hub.errors import ConfigError
from training.reporting.metadata import (
    HubData,
    hub_data,
    metadata_files,
    write_metadata,
)

INDEX = "ccl/model_index.yml"
HUB = {"weizmann": HubData("org/weizmann", "top")}


def rows():
    return [
        *(result("ccl", 0.5 + seed / 100, seed) for seed in (0, 1, 2)),
        *(classified("ccl", 0.4 + seed / 100, seed) for seed in (0, 1, 2)),
        result("random-init", 0.1, reference=True),
        result("MSE", 0.1, group="table 7"),
    ]


def written(results, data, folder):
    files = metadata_files(results, data)
    write_metadata(files, folder)
    assert all((folder / name).is_file() for name in files)
    return list(files)


def test_the_hub_library_reads_the_model_index():
    index = metadata_files(rows(), {})[INDEX]
    data = ModelCardData(**index, ignore_metadata_errors=False)
    assert data.model_name == "ccl"
    by_name = {one.metric_name: one for one in data.eval_results}
    assert len(by_name) == len(data.eval_results) == 62
    top = by_name[
        "F=>V top-1, per cent, 512-d, by clip, exact clip, mean of 3 seeds, "
        "standard deviation 1.00"
    ]
    assert (top.metric_type, top.metric_value) == ("recall_at_1", 51.1)
    assert (top.task_type, top.dataset_type, top.dataset_name, top.dataset_split) == (
        "feature-extraction",
        "weizmann",
        "weizmann",
        "test",
    )
    probe = [one for one in data.eval_results if one.task_type == "video-classification"]
    assert {one.metric_type: one.metric_value for one in probe} == {"accuracy": 41.0, "f1": 20.5}


def test_front_matter_of_a_card_holds_it(tmp_path):
    names = written(rows(), {}, tmp_path)
    assert names == [INDEX], "no reference row, no experiment, no Hub data set"
    text = (tmp_path / names[0]).read_text("utf-8")
    card = ModelCard(f"---\nlicense: apache-2.0\n{text}---\n# ccl\n", ignore_metadata_errors=False)
    assert len(card.data.eval_results) == 62


def test_data_sets_on_the_hub_get_eval_results(tmp_path):
    names = written(rows(), HUB, tmp_path)
    files = [name for name in names if "/.eval_results/" in name]
    assert "ccl/.eval_results/weizmann_linear_top-1_video.yaml" in files
    values = {}
    for name in files:
        (entry,) = parse_eval_result_entries(yaml.safe_load((tmp_path / name).read_text("utf-8")))
        assert (entry.dataset_id, entry.task_id) == ("org/weizmann", "top")
        assert "3 seeds" in entry.notes and "128" not in entry.notes
        values[name.rpartition("/")[2]] = entry.value
    assert values["weizmann_linear_top-1_video.yaml"] == 41.0
    assert len(values) == 8
    index = metadata_files(rows(), HUB)[INDEX]["model-index"][0]["results"]
    assert {one["dataset"]["type"] for one in index} == {"org/weizmann"}


def test_files_of_an_earlier_report_are_named(tmp_path, caplog):
    written(rows(), HUB, tmp_path)
    assert caplog.messages == []
    written(rows(), {}, tmp_path)
    assert len(caplog.messages) == 8
    assert all(".eval_results" in text and "earlier report" in text for text in caplog.messages)


def test_data_sets_that_are_not_on_the_hub_are_left_out():
    assert list(metadata_files(rows(), {"tennis": HubData("org/tennis")})) == [INDEX]


def test_odd_labels_stay_inside_the_folder(tmp_path):
    names = written([result("../../up"), *everything()], {}, tmp_path / "hub")
    assert all(".." not in name for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]
    with pytest.raises(ConfigError, match="share a folder"):
        metadata_files([result("a b"), result("a|b")], {})


def test_hub_data_is_read_or_refused():
    sets = hub_data(["weizmann=org/set", "my set=a.b/c_d#top%1"])
    assert sets == {"weizmann": HubData("org/set"), "my set": HubData("a.b/c_d", "top%1")}
    for text in ("weizmann", "=org/set", "weizmann=set", "weizmann=org/set#", "w=../x/y"):
        with pytest.raises(ConfigError, match="--hub-data"):
            hub_data([text])
    with pytest.raises(ConfigError, match="twice"):
        hub_data(["a=o/s", "a=o/t"])
