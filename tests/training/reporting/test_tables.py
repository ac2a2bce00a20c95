"""Tables of the report: the paper's layout, nothing blank, invented or over-claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_data import HOSTILE, classified, everything, result, retrieval

from ccl_hub.errors import TrainingError
from training.data.datasets import VideoItem, VideoList
from training.data.splits import with_splits
from training.evaluation.results import DataRecord, Measurement
from training.reporting.rows import NOT_MEASURED, NOT_PUBLISHED
from training.reporting.tables import missing_data, paper_tables

UCF101 = DataRecord("UCF101 split 1", "u", 9537, 3783, 101)


def table(number, results):
    return next(one for one in paper_tables(results) if one.number == number)


def group(one, words):
    (match,) = [g for g in one.groups if g.title == words] or [
        g for g in one.groups if words in g.title
    ]
    return match


def row(rows, label, published=False):
    (match,) = (r for r in rows if r.label == label and bool(not r.seeds) == published)
    return match


def texts(one):
    return [cell.text for cell in one.cells]


def test_no_cell_is_blank_and_every_row_is_as_wide_as_its_table():
    for results in ([result()], [classified(task="finetune")], everything()):
        for one in paper_tables(results):
            assert one.groups and one.title
            assert not one.heads or sum(width for _, width in one.heads) == len(one.columns)
            for comparable in one.groups:
                for line in comparable.rows:
                    assert len(line.cells) == len(one.columns)
                    assert sum(width for _, width in line.spans) == len(one.columns)
                    for cell in line.cells:
                        missing = cell.text in (NOT_MEASURED, NOT_PUBLISHED)
                        assert missing == (cell.kind == "missing")
                        assert missing or float(cell.text.split(" ± ")[0]) >= 0


def test_table_2_has_both_tasks_side_by_side():
    one = table(2, everything())
    assert one.columns == ("top-1", "top-5", "top-10") * 2
    assert [head for head, _ in one.heads] == ["frame ⇒ video", "video ⇒ frame"]
    assert one.starts == [0, 3]
    rows = group(one, "weizmann · 512-d representation · by clip · exact clip").rows
    assert texts(row(rows, HOSTILE))[:3] == ["61.1 ± 1.0", "61.5 ± 1.0", "62.0 ± 1.0"]
    assert row(rows, HOSTILE).seeds == "3"
    assert row(rows, "random-init").marks == ("reference",)
    assert row(rows, "MSE").note == "table 7"
    titles = [g.title for g in one.groups]
    assert any("128-d space of the loss · by clip · same video" in title for title in titles)


def test_published_rows_stand_with_ucf101_and_say_so():
    first = paper_tables([result()])[0].groups[0]
    rows = first.rows
    assert first.title.startswith("UCF101 split 1 · 512-d representation · by clip · exact clip")
    assert texts(rows[0]) == [NOT_MEASURED] * 6
    printed = row(rows, "CCL", published=True)
    assert texts(printed) == ["26.1", "39.0", "48.4", "34.4", "46.6", "56.9"]
    assert printed.marks == ("published (UCF101)",)


def test_measured_ucf101_takes_the_published_column():
    results = [result(data=UCF101), classified(value=0.521, data=UCF101), result("other")]
    rows = table(2, results).groups[0].rows
    assert texts(row(rows, "ccl"))[0] == "50.1"
    assert texts(row(rows, "other")) == [NOT_MEASURED] * 6
    assert texts(row(rows, "CCL", published=True))[0] == "26.1"
    linear = table(5, results)
    assert [head for head, _ in linear.heads] == ["UCF101 split 1", "HMDB51 split 1"]
    assert texts(row(linear.groups[0].rows, "ccl")) == ["52.1", NOT_MEASURED]
    assert texts(row(linear.groups[0].rows, "CCL", published=True)) == ["52.1", "27.8"]
    assert missing_data(results) == ["HMDB51", "Kinetics-400", "MMAct"]


def test_table_3_has_a_group_for_each_task():
    one = table(3, [result()])
    assert one.columns == ("top-1", "top-5", "top-10", "top-20", "top-50")
    frames = group(one, "frame ⇒ frame · UCF101")
    assert texts(row(frames.rows, "OPN", published=True)) == [
        "19.9",
        "28.7",
        "34.0",
        "40.6",
        "51.6",
    ]
    videos = group(one, "video ⇒ video · UCF101")
    assert "OPN" not in [line.label for line in videos.rows]


def test_centred_figures_are_groups_of_their_own():
    both = [result(measurements=retrieval(0.3, spaces=("512",), centred=(False, True)))]
    titles = {g.title: g.aside for g in table(2, both).groups if "weizmann" in g.title}
    assert sorted(titles.values()) == [False, False, True, True]
    assert all(aside == ("mean subtracted" in title) for title, aside in titles.items())


def test_classifiers_have_a_column_per_data_set_and_table_6_their_f_measure():
    results = [classified(), classified(task="finetune", value=0.8)]
    linear, tuned = table(5, results), table(4, results)
    assert linear.heads == (("UCF101 split 1", 1), ("HMDB51 split 1", 1), ("weizmann", 1))
    assert texts(linear.groups[0].rows[0]) == [NOT_MEASURED, NOT_MEASURED, "50.0"]
    assert texts(tuned.groups[0].rows[0])[2] == "80.0"
    printed = row(tuned.groups[0].rows, "VGAN", published=True)
    assert texts(printed) == ["52.1", NOT_PUBLISHED, NOT_PUBLISHED]
    supervised = row(tuned.groups[0].rows, "Kinetics pretrained", published=True)
    assert supervised.marks == ("published (UCF101, HMDB51)", "reference")
    measure = table(6, results)
    assert measure.columns == ("macro-F1",) * 3
    assert texts(row(measure.groups[0].rows, "ccl (FC)"))[2] == "25.0"
    assert texts(row(measure.groups[0].rows, "ccl (E2E)"))[2] == "40.0"
    printed = row(measure.groups[0].rows, "CCL (E2E)", published=True)
    assert texts(printed) == ["65.1", "62.8", NOT_PUBLISHED]


def test_table_7_has_the_rows_of_an_experiment():
    results = [
        *(result("MSE", 0.2, seed, group="table 7") for seed in (0, 1)),
        *(classified("Lv", 0.4, seed, group="table 7") for seed in (0, 1)),
        result("not of it", 0.9),
    ]
    one = table(7, results)
    rows = group(one, "weizmann · table 7").rows
    assert [line.label for line in rows] == ["MSE", "Lv"]
    assert texts(row(rows, "MSE")) == [NOT_MEASURED] * 2 + ["20.1 ± 0.0"] * 4
    assert texts(row(rows, "Lv"))[1] == "40.0 ± 0.0"
    printed = row(group(one, "UCF101").rows, "Lv + Lf + P", published=True)
    assert texts(printed) == ["69.4"] + [NOT_PUBLISHED] * 5


def test_only_the_official_sets_count_as_measured():
    assert missing_data([result(data=DataRecord("ucf101-small"))])[0] == "UCF101"
    assert "UCF101" not in missing_data([result(data=DataRecord("UCF-101 split 3"))])
    assert "MMAct" not in missing_data([result(data=DataRecord("MMAct cross-subject"))])


def bold(results):
    rows = group(table(2, results), "weizmann · 512-d representation · by clip · exact clip").rows
    return {line.label for line in rows if line.cells[0].best}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # means, spread over three seeds, reference
        ({"a": (0.5, 0.01, False), "b": (0.4, 0.01, False)}, {"a"}),
        ({"a": (0.5, 0.01, False), "b": (0.4, 0.2, False)}, set()),  # within b's spread
        ({"a": (0.5, 0.2, False), "b": (0.4, 0.01, False)}, set()),  # within its own
        ({"a": (0.5, 0.01, False), "b": (0.4, None, False)}, set()),  # b's spread is unknown
        ({"a": (0.5, None, False), "b": (0.4, 0.01, False)}, set()),
        ({"a": (0.5, 0.01, False), "r": (0.7, 0.01, True)}, set()),  # random is better
        ({"a": (0.5, 0.01, False), "r": (0.4, 0.01, True)}, {"a"}),
        ({"a": (0.5, 0.01, False)}, set()),  # nothing to compare with
    ],
)
def test_bold_is_only_what_leads_beyond_the_spread(rows, expected):
    results = []
    for label, (mean, spread, reference) in rows.items():
        shifts = (None,) if spread is None else (-spread, 0.0, spread)
        for seed, shift in enumerate(shifts):
            value, seed = (mean, None) if shift is None else (mean + shift, seed)
            results.append(result(label, value, seed, reference=reference))
    assert bold(results) == expected


def test_figures_beyond_the_layout_are_named():
    assert any("top-20, top-50" in note for note in table(2, [result()]).notes)
    assert any(
        "weizmann" not in note and "ccl" in note
        for note in table(5, [result(), classified("x")]).notes
    )


def test_two_names_of_one_published_set_are_refused():
    results = [classified(data=UCF101), classified(data=DataRecord("ucf101", "u"))]
    with pytest.raises(TrainingError, match="would be one cell"):
        paper_tables(results)


def test_each_experiment_on_ucf101_has_the_published_rows():
    results = [classified(data=UCF101, group=name) for name in ("table 7", "longer")]
    titles = [g.title for g in table(7, results).groups]
    assert titles == ["HMDB51 split 1", "UCF101 split 1 · table 7", "UCF101 split 1 · longer"]
    for experiment in table(7, results).groups[1:]:
        assert texts(row(experiment.rows, "MSE", published=True))[0] == "52.8"
        assert texts(row(experiment.rows, "ccl"))[1] == "50.0"


def test_our_own_split_of_ucf101_is_not_the_published_one():
    # Once, it stood under "UCF101 split 1", beside figures of other videos.
    videos = [VideoItem(str(i), Path(str(i)), "run") for i in range(10)]
    note = with_splits(VideoList("ucf101", tuple(videos), ("run",)))[1]
    data = DataRecord("ucf101", "u", 7, 3, 1, note)
    results = [result(data=data), classified(data=data)]
    one = table(5, results)
    assert [head for head, _ in one.heads][2:] == ["ucf101, own split"]
    assert texts(one.groups[0].rows[0]) == [NOT_MEASURED, NOT_MEASURED, "50.0"]
    assert texts(row(table(2, results).groups[0].rows, "CCL", published=True))[0] == "26.1"
    rows = group(
        table(2, results), "ucf101, own split · 512-d representation · by clip · exact"
    ).rows
    assert [line.label for line in rows] == ["ccl"]
    assert "UCF101" in missing_data(results)


def test_another_split_is_a_column_of_its_own():
    second = DataRecord("UCF101 split 2", "v", 9000, 3000, 101)
    one = table(5, [classified(data=second)])
    assert ("UCF101 split 2", 1) in one.heads
    assert texts(one.groups[0].rows[0])[0] == NOT_MEASURED
    figures = (Measurement("linear", "top-1", 0.25, level="clip"),)
    assert "top-1, by clip" in table(5, [classified(measurements=figures)]).columns
