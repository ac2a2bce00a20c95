"""The report as a program: which files it writes, what they say, what it refuses."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from report_data import (
    HOSTILE,
    SMALL,
    everything,
    features_by,
    rendered_set,
    result,
    write_all,
)

from ccl_hub import CCLConfig, CCLModel
from ccl_hub.config import Architecture, Preprocessing
from ccl_hub.errors import ConfigError
from training import report
from training.evaluation.results import DataRecord
from training.frames.rendered import RenderedVideos
from training.recipes.edits import Edits
from training.reporting.edits import edit_sheet
from training.reporting.gallery import galleries
from training.reporting.page import markdown, page_of, render

TINY = CCLConfig(Architecture(stage_channels=(4, 4, 8, 8)), SMALL)


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.images, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.links += [values[name] for name in ("src", "href", "action") if name in values]
        self.links += [v for n, v in attributes if n == "xlink:href"]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            self.images.append(values)


@pytest.fixture(scope="module")
def page():
    source = rendered_set()
    drawn = galleries(source, features_by(lambda v, c: one_hot(v), source), HOSTILE, queries=2)
    return page_of(everything(), galleries=drawn, hub_files=("one/model_index.yml",))


def one_hot(video):
    import torch

    return torch.eye(24)[video]


def test_edits_are_shown_one_by_one():
    sheet = edit_sheet(RenderedVideos(4, Preprocessing()), 3, Edits())
    assert len({row.name for row in sheet.rows}) == len(sheet.rows) == 1 + 14 + 3
    images = [[view.image for view in row.views] for row in sheet.rows]
    assert {len(row) for row in images} == {3}
    assert all(
        one != first for row in images[1:] for one, first in zip(row, images[0], strict=True)
    )
    html = render(page_of([result()], edits=sheet))
    seen = Page(html)
    assert len(seen.images) == 3 * len(sheet.rows) and "edits" in seen.ids
    assert all(image["alt"] for image in seen.images)
    with pytest.raises(ConfigError, match=r"--edit-videos is 5; allowed: 1 to 4"):
        edit_sheet(RenderedVideos(4, Preprocessing()), 5, Edits())


def test_the_page_stands_alone(page):
    seen = Page(render(page))
    assert not {"script", "iframe", "object", "embed", "form", "i"} & set(seen.tags)
    assert seen.links and all(link.startswith(("#", "data:")) for link in seen.links)
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.ids)
    assert len(set(seen.ids)) == len(seen.ids)
    assert len(seen.images) == 2 * 3 * 6
    assert all(image["alt"] and image["width"] and image["height"] for image in seen.images)
    assert seen.tags.count("table") == seen.tags.count("caption")


def test_labels_are_text_and_never_markup(page):
    text = render(page)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "<b>jump" not in text and "&lt;b&gt;jump" in text


def test_what_was_not_measured_is_said_in_both_files(page):
    for text in (render(page), markdown(page)):
        assert "Not measured here, as no results on them were given: UCF101, HMDB51, " in text
        assert "not yet measured" in text and "not published" in text
        assert "published (UCF101)" in text and "split by actor" in text
    html = render(page_of([result(data=DataRecord(name)) for name in NAMES]))
    assert "All data sets of the paper were measured." in html


NAMES = ("UCF101 split 1", "HMDB51 split 2", "Kinetics-400", "MMAct cross-session")


def test_markdown_has_every_table_and_whole_rows(page):
    text = markdown(page)
    assert [int(n) for n in re.findall(r"^## Table (\d)", text, re.MULTILINE)] == [
        2,
        3,
        4,
        5,
        6,
        7,
    ]
    widths = []
    for block in re.split(r"\n\n+", text):
        rows = [line for line in block.split("\n") if line.startswith("|")]
        cells = [len(re.split(r"(?<!\\)\|", row)) for row in rows]
        assert len(set(cells)) <= 1, block
        widths += cells[:1]
    assert len(widths) > 20
    assert "<script" not in text and r"\|\*x\*" in text
    for group in (one for table in page.tables for one in table.groups):
        for row in group.rows:
            for cell in row.cells:
                assert cell.text in text


def test_bold_is_bold_in_both_files():
    results = [result("a", 0.5 + s / 1000, s) for s in (0, 1, 2)]
    results += [result("b", 0.1 + s / 1000, s) for s in (0, 1, 2)]
    made = page_of(results)
    assert "<strong>50.2 ± 0.1</strong>" in render(made)
    assert "**50.2 ± 0.1**" in markdown(made) and "**10.2" not in markdown(made)


def test_the_program_writes_everything_and_the_same_again(tmp_path):
    folder = write_all(everything(), tmp_path / "results")
    CCLModel(TINY).save_pretrained(tmp_path / "tiny")
    arguments = [str(folder), "--out", str(tmp_path / "out"), "--gallery-model"]
    arguments += [f"mine={tmp_path / 'tiny'}", "--data", "rendered:24", "--clips", "2"]
    arguments += ["--hub-data", "weizmann=org/weizmann", "--queries", "1", "--device", "cpu"]
    assert report.main(arguments) == 0
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert {"report.html", "report.md", "hub/one/model_index.yml"} <= written
    assert any(name.startswith("hub/one/.eval_results/weizmann_") for name in written)
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Frame finds its video (F ⇒ V): mine on rendered" in text
    assert str(tmp_path) not in text, "no path of this machine"
    first = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert report.main(arguments) == 0
    assert first == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--runs", "nowhere"], "no training step"),
        (["--gallery-model", "ccl_r18_mini"], "give both"),
        (["--data", "rendered:24"], "give both"),
        (["--gallery-model", "no-such", "--data", "rendered:24"], "no-such"),
        (["--hub-data", "tennis=org/tennis"], "no result is of that data set; allowed: weizmann"),
        (["--hub-data", "weizmann"], "allowed: NAME=ORG/DATASET"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(tmp_path, capsys, extra, words):
    folder = write_all([result()], tmp_path / "results")
    assert report.main([str(folder), "--out", str(tmp_path / "out"), *extra]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_2_and_a_place_that_cannot_be_written_is_1(tmp_path, capsys):
    assert report.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    folder = write_all([result()], tmp_path / "results")
    (tmp_path / "file").write_text("")
    assert report.main([str(folder), "--out", str(tmp_path / "file")]) == 1
    assert "error: " in capsys.readouterr().err
