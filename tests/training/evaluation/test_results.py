"""Results files: what is written is what is read, and seeds are put together."""

from __future__ import annotations

import json
import math

import pytest

from ccl_hub.errors import TrainingError
from training.evaluation.results import (
    Confusion,
    DataRecord,
    Measurement,
    ModelRecord,
    Results,
    read_results,
    summarise,
    write_results,
)


def made(seed: int | None = 0, value: float = 0.5, **changes: object) -> Results:
    values = {
        "kind": "retrieval",
        "model": ModelRecord("random-init", seed=seed, reference=True),
        "data": DataRecord("weizmann", "abc", 60, 30, 10),
        "measurements": (Measurement("V=>V", "top-1", value, "512", "clip", "class"),),
        "settings": {"clips": 10},
    }
    return Results(**(values | changes))


def test_what_is_written_is_read_again(tmp_path):
    confusion = Confusion(("a", "b"), ((1, 0), (2, 3)))
    first = made(confusion=confusion, curves={"loss": [2.0, 1.5]}, group="table 7")
    path = write_results(first, tmp_path / "new")
    write_results(made(seed=1), tmp_path / "new")
    assert path.name == "retrieval--table-7--random-init--seed0--weizmann.json"
    assert read_results([path]) == [first]
    assert len(read_results([tmp_path])) == 2


def test_labels_that_make_one_file_name_do_not_replace_each_other(tmp_path, caplog):
    # Once, the later one silently took the place of the earlier.
    rows = [made(model=ModelRecord(label, seed=0), group="") for label in ("lr 0.1", "lr/0.1")]
    for _ in range(2):
        paths = [write_results(row, tmp_path) for row in rows]
    assert len(set(paths)) == 2 and paths[0].name == rows[1].file_name
    assert sorted(r.model.label for r in read_results([tmp_path])) == ["lr 0.1", "lr/0.1"]
    paths[0].write_text("{")
    assert write_results(rows[0], tmp_path) == paths[0] and read_results([paths[0]]) == rows[:1]
    assert "It is replaced" in caplog.text


def test_seeds_give_mean_and_sample_deviation():
    (cell,) = summarise([made(0, 0.2), made(1, 0.4), made(2, 0.6)])
    assert (cell.mean, cell.std, cell.seeds) == (pytest.approx(0.4), pytest.approx(0.2), 3)
    assert cell.text() == "40.0 ± 20.0"
    (alone,) = summarise([made(None, 0.344)])
    assert alone.text() == "34.4" and alone.std is None and alone.reference


def test_rows_groups_sets_and_columns_are_kept_apart():
    other = Measurement("V=>V", "top-1", 0.1, "128", "clip", "class")
    results = [
        made(),
        made(group="table 7"),
        made(data=DataRecord("tennis")),
        made(model=ModelRecord("MSE", seed=0)),
        made(seed=1, measurements=(other,)),
    ]
    assert len(summarise(results)) == 5


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([made(), made()], "there twice for seed 0"),
        ([made(), made(1, data=DataRecord("weizmann", "xyz"))], "two different data sets"),
    ],
)
def test_results_that_do_not_fit_together_are_refused(results, words):
    with pytest.raises(TrainingError, match=words):
        summarise(results)


@pytest.mark.parametrize("value", [-0.1, 1.01, math.nan, math.inf])
def test_a_figure_is_a_share(value):
    with pytest.raises(TrainingError, match="shares from 0 to 1"):
        Measurement("V=>V", "top-1", value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a results file"),
        ("[]", "version None"),
        ('{"schema": 99}', "version 99"),
        ('{"schema": 1, "kind": "retrieval", "colour": 1}', "colour"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text, words):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(Exception, match=words) as caught:
        read_results([path])
    assert "x.json" in str(caught.value)


def test_missing_paths_and_unknown_kinds_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="no such results"):
        read_results([tmp_path / "none"])
    with pytest.raises(TrainingError, match="holds no results"):
        read_results([tmp_path])
    with pytest.raises(TrainingError, match="kind is 'poetry'"):
        made(kind="poetry")
    with pytest.raises(TrainingError, match="nothing was measured"):
        made(measurements=())


def test_files_are_plain_json_without_nan(tmp_path):
    path = write_results(made(), tmp_path)
    values = json.loads(path.read_text())
    assert values["schema"] == 1 and values["software"]["versions"]["torch"]
