"""The card's template, and what the check of a card finds."""

from __future__ import annotations

import pytest

from ccl_hub.config import CCLConfig, Preprocessing, Provenance
from ccl_hub.hub import card_metadata
from ccl_hub.publish.model_card import (
    FOLDER_PLACEHOLDER,
    TEMPLATE,
    Card,
    Figure,
    problems,
    render,
    section_bodies,
)

CONFIG = CCLConfig(provenance=Provenance(name="ccl_r18_x", trained_on='5 "clips": of #1'))
FIGURES = (Figure("weizmann", "V=>V, class, top-1", 23.333), Figure("tennis", "F=>V: top-1", 88.6))
CARD = Card(licence="apache-2.0", training="100 steps.", figures=FIGURES)


def complete(card: Card = CARD) -> str:
    return render(CONFIG, card).replace(FOLDER_PLACEHOLDER, "org/ccl_r18_x")


def test_a_filled_in_card_is_complete_and_read_by_the_hub_as_it_was_meant() -> None:
    text = complete()
    metadata = card_metadata(text)
    assert problems(text, metadata) == []
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "ccl-hub")
    (model,) = metadata["model-index"]
    assert model["name"] == "ccl_r18_x"
    found = [
        (result["dataset"]["name"], metric["name"], metric["value"])
        for result in model["results"]
        for metric in result["metrics"]
    ]
    assert sorted(found) == [("tennis", "F=>V: top-1", 88.6), ("weizmann", FIGURES[0].name, 23.33)]
    assert '5 "clips": of #1.' in text


def test_the_template_leaves_to_the_author_what_only_the_author_knows() -> None:
    text = render(CCLConfig()).replace(FOLDER_PLACEHOLDER, "org/x")
    found = problems(text, card_metadata(text))
    assert found and all("placeholder" in problem for problem in found)
    for word in ("licence", "name", "trained on", "steps"):
        assert any(word in problem for problem in found), word
    found = problems(render(CONFIG, CARD), card_metadata(render(CONFIG, CARD)))
    assert found == [f"the placeholder {FOLDER_PLACEHOLDER} is not filled in"]


@pytest.mark.parametrize("title", section_bodies(TEMPLATE.read_text(encoding="utf-8")))
def test_each_section_is_missed(title: str) -> None:
    text = complete()
    assert f"no section '## {title}'" in problems(
        text.replace(f"## {title}\n", ""), {"license": 1}
    )
    body = text.split(f"## {title}\n")[1].split("\n## ")[0]
    assert f"section '## {title}' is empty" in problems(text.replace(body, "\n"), {"license": 1})


@pytest.mark.parametrize("left", ["TODO", "[More Information Needed]", "{{ licence }}", "TBD"])
def test_each_kind_of_placeholder_is_found(left: str) -> None:
    text = complete() + left
    assert problems(text, card_metadata(text)) == [f"the placeholder {left} is not filled in"]


def test_braces_of_bibtex_and_a_spanish_word_are_no_placeholders() -> None:
    text = complete().replace("{Cycle-Contrast", "{{Cycle-Contrast") + "Hay de todo."
    assert "{{Cycle-Contrast" in text
    assert problems(text, card_metadata(text)) == []


def test_a_heading_in_code_is_no_section() -> None:
    text = complete().replace("## Use\n", "## Use\n\n```\n## Measures\n```\n")
    assert problems(text, card_metadata(text)) == []


def test_head_code_and_citation_are_looked_at() -> None:
    text = complete()
    assert "its head has no license" in problems(text, {"library_name": "x", "tags": ["y"]})
    text = text.replace("from_pretrained(", "load(").replace("@inproceedings", "see")
    found = problems(text, card_metadata(text))
    assert [line.split("'")[1] for line in found] == ["## Use", "## Citation"]


def test_a_short_side_is_told() -> None:
    config = CCLConfig(preprocessing=Preprocessing(resize="short_side"))
    assert "resized to a short side of 128 px" in render(config)
