"""Curves and confusion matrices: what is drawn is what was logged, and labels stay text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from report_data import CLASSES, HOSTILE, classified

from ccl_hub.errors import TrainingError
from training.evaluation.results import Confusion
from training.reporting.figures import _lines_of, line_chart, matrices, result_charts, run_charts


class Elements(HTMLParser):
    """Tags, ids and text of markup."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_a_drawing_takes_the_pages_colours_and_says_what_it_is():
    chart = line_chart({"a": [(0, 1), (1, 0.5)]}, title="loss & more", x_label="x", y_label="y")
    seen = Elements(chart.svg)
    assert seen.tags[:3] == ["svg", "title", "desc"]
    assert "loss & more" in seen.texts and "At the end: a 0.5." in seen.texts
    assert "currentColor" in chart.svg and "var(--line-0)" in chart.svg
    assert "#0102" not in chart.svg and "<metadata" not in chart.svg and "<?xml" not in chart.svg
    assert not re.search(r"https?://(?!www\.w3\.org)", chart.svg)


def test_labels_of_any_kind_are_text():
    names = (HOSTILE, "_hidden", "$x^", "日本", "a" * 300)
    chart = line_chart(
        {name: [(0, 1), (1, 2)] for name in names}, title=HOSTILE, x_label="$", y_label="<"
    )
    seen = Elements(chart.svg)
    assert "script" not in seen.tags and "i" not in seen.tags
    drawn = {text.strip("\N{HAIR SPACE}") for text in seen.texts}
    assert {"_hidden", "$x^", "日本", f"{HOSTILE[:39]}…", f"{'a' * 39}…"} <= drawn
    assert HOSTILE in drawn, "the title is whole"


def test_drawings_on_one_page_share_no_id():
    charts = [
        line_chart({"a": [(0, 1), (1, n)]}, title=str(n), x_label="x", y_label="y") for n in (2, 3)
    ]
    first, second = (set(Elements(chart.svg).ids) for chart in charts)
    assert first and not first & second


def test_long_lines_are_thinned_and_say_so():
    chart = line_chart(
        {"a": [(x, x % 2) for x in range(10_000)]}, title="t", x_label="x", y_label="y"
    )
    assert "means of blocks" in chart.caption and "a 1." in chart.caption
    assert len(chart.svg) < 60_000


def log_lines():
    for step in range(1, 6):
        yield {
            "kind": "train",
            "step": step,
            "total": 3.0 / step,
            "penalty": 0.5,
            "cycle_rate": step / 10,
            "lr": 0.1,
            "seconds": 1.0,
            "grad_norm": float("nan") if step == 2 else 1.0,
        }
        top = {"1": step / 100, "5": 0.5}
        spaces = {"features": {"video_to_video": top, "frame_to_video_clip": top}}
        yield {"kind": "validation", "step": step, "retrieval": {"weizmann": spaces}}


def test_a_run_is_drawn_from_its_log(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in log_lines())
    (folder / "log.jsonl").write_text(text)
    charts = {chart.title: chart.caption for chart in run_charts(folder)}
    assert charts == {
        "my run: loss terms": "At the end: total 0.6, penalty 0.5.",
        "my run: cycle rate": "At the end: cycle rate 0.5.",
        "my run: learning rate": "At the end: learning rate 0.1.",
        "my run: retrieval on weizmann, top-1, 512-d": "At the end: V=>V, class 5, "
        "F=>V, exact clip 5.",
    }


def test_a_fine_tuning_is_drawn_with_its_tests(tmp_path):
    # Once, accuracy was drawn among the loss terms, and tests nowhere.
    lines = [
        {"kind": "train", "step": 1, "epoch": 0, "loss": 2.0, "accuracy": 0.25, "lr": 0.1},
        {"kind": "validation", "step": 1, "test": {"top-1": 0.5}},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    charts = [(chart.title.partition(": ")[2], chart.caption) for chart in run_charts(tmp_path)]
    assert charts == [
        ("loss terms", "At the end: loss 2."),
        ("accuracy", "At the end: training batch 0.25."),
        ("learning rate", "At the end: learning rate 0.1."),
        ("test", "At the end: top-1 0.5."),
    ]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no training step"):
        run_charts(tmp_path)


def test_curves_of_results_are_means_over_seeds_beside_each_other():
    results = [
        classified("a", seed=0, curves={"loss": [1.0, 0.5], "note": "text"}),
        classified("a", seed=1, curves={"loss": [2.0, 1.5]}),
        classified("b", seed=0, curves={"loss": [4.0, 3.0]}),
    ]
    (chart,) = result_charts(results)
    assert chart.title == "linear-probe · weizmann: loss"
    assert chart.caption == "At the end: a 1, b 3."


def test_confusion_is_summed_over_seeds():
    counts = ((8, 2, 0), (1, 9, 0), (3, 3, 4))
    results = [classified(seed=s, confusion=Confusion(CLASSES, counts)) for s in (0, 1)]
    (matrix,) = matrices(results)
    assert matrix.rows[0] == ((16, 0.8), (4, 0.2), (0, 0.0))
    assert matrix.worst[0] == ("walk", "bend", 6, 20)
    assert len(matrix.worst) == 4
    assert "60 predictions" in matrix.caption and "42 of them right" in matrix.caption
    assert "2 seeds" in matrix.caption


def test_many_classes_are_listed_not_drawn():
    size = 30
    counts = tuple(tuple(5 if i == j else int(j == 0) for j in range(size)) for i in range(size))
    names = tuple(f"class {i}" for i in range(size))
    (matrix,) = matrices([classified(confusion=Confusion(names, counts))])
    assert matrix.rows == () and len(matrix.worst) == 15


def test_a_matrix_of_another_shape_is_refused():
    wrong = Confusion(("a", "b"), ((1, 2),))
    with pytest.raises(TrainingError, match="not 2 x 2"):
        matrices([classified(confusion=wrong)])


def test_runs_of_different_lengths_are_not_cut_to_the_shortest():
    """Once the mean line ended, without a word, where the shortest run did."""
    short, long = [(1, 2.0), (2, 4.0)], [(1, 4.0), (2, 6.0), (3, 8.0)]
    assert _lines_of("a", [short, short]) == [("a", short)]
    assert _lines_of("a", [short, [(1, 4.0), (2, 6.0)]]) == [("a", [(1, 3.0), (2, 5.0)])]
    assert _lines_of("a", [short, long]) == [
        ("a, run 1", short),
        ("a, run 2", long),
    ]
