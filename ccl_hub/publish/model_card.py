"""The model card of a checkpoint: its template, and what makes one complete.

A card is the ``README.md`` of a model folder. Its head is metadata that the Hub reads (licence,
library, tags, measured figures as ``model-index``); its body has the sections of the template,
``model_card.md`` beside this module. What only the author can know is a placeholder until it is
filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from ..config import FRAME_CHOICES, CCLConfig

CARD_NAME = "README.md"
# Stands for the folder in the code to run; publishing replaces it by the repository.
FOLDER_PLACEHOLDER = "path/to/this/folder"
NOT_MEASURED = "Not yet measured."
TEMPLATE = Path(__file__).with_suffix(".md")
PLACEHOLDERS = re.compile(
    # BibTeX has {{Title}} and Spanish has "todo": templates have {{ name }}, notes capitals.
    r"\[fill in[^\]]*\]|\[more information needed\]|(?-i:\b(?:TODO|FIXME|TBD)\b)|\{\{ .*? \}\}"
    rf"|{re.escape(FOLDER_PLACEHOLDER)}",
    re.IGNORECASE,
)
NETWORKS = {
    "resnet18": 'The paper\'s "R18+1" network',
    "efficientnet_lite0": "EfficientNet-Lite0 on frames and one convolution across time",
}
INTENDED_USE = (
    "Search, deduplication, clustering and classification of videos by cosine similarity or a "
    "linear layer on the vectors, and fine-tuning. Not for decisions about people, and not for "
    "recognising them."
)
LIMITS = (
    "The network reflects its training data: what is rare or "
    "missing there (places, people, cameras, activities) is told apart less well, and nothing was "
    "done to balance it. It sees a clip of {seconds:g} s at {side} px: long actions and fine "
    "detail are outside it. Figures on other data than yours may not hold for yours; measure on "
    "your own."
)


@dataclass(frozen=True)
class Figure:
    """One measured figure, as the Hub's ``model-index`` has it.

    Args:
        data: Name of the labelled set.
        name: What was measured, in words.
        value: In per cent.
    """

    data: str
    name: str
    value: float


@dataclass(frozen=True)
class Card:
    """What the author says about a checkpoint; Markdown, empty where it is not known.

    Args:
        licence: Identifier of the weights' licence, such as ``apache-2.0``.
        training: How it was trained.
        data: What it was trained on, beyond the one line in the configuration.
        measured: Tables of figures.
        figures: The same for machines.
        intended_use: Instead of the general text.
        limits: Instead of the general text.
    """

    licence: str = ""
    training: str = ""
    data: str = ""
    measured: str = ""
    figures: tuple[Figure, ...] = ()
    intended_use: str = ""
    limits: str = ""


def render(config: CCLConfig, card: Card | None = None) -> str:
    """Return the text of a card.

    Args:
        config: Configuration of the checkpoint.
        card: What else is known.

    Returns:
        Markdown with a YAML head; placeholders where the author must fill in.

    Example:
        >>> "## Citation" in render(CCLConfig())
        True
    """
    card = card or Card()
    pre, source = config.preprocessing, config.provenance
    data = card.data
    if source.trained_on:
        data = f"{source.trained_on.removesuffix('.')}. {data}"
    size = f"{pre.resize_height_px}x{pre.resize_width_px} px"
    if pre.resize == "short_side":
        size = f"a short side of {pre.resize_height_px} px"
    limits = LIMITS.format(seconds=pre.clip_seconds, side=pre.crop_px)
    licence = f"Weights: `{card.licence}`." if card.licence else ""
    name = source.name or _fill_in("name")
    values = {
        "metadata": _metadata(name, card),
        "name": name,
        "dim": config.architecture.feature_dim,
        "network": NETWORKS[config.architecture.trunk],
        "clip_frames": pre.clip_frames,
        "interval": f"{pre.frame_interval_seconds:g}",
        "frame_choice": FRAME_CHOICES[pre.frame_choice],
        "size": size,
        "side": pre.crop_px,
        "folder": FOLDER_PLACEHOLDER,
        "training": card.training.strip() or _fill_in("steps, schedule, settings"),
        "data": data.strip() or _fill_in("what it was trained on, and its licence"),
        "measured": card.measured.strip() or NOT_MEASURED,
        "intended_use": card.intended_use.strip() or INTENDED_USE,
        "limits": card.limits.strip() or limits,
        "licence": licence or _fill_in("the licence of the weights"),
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values)


def _fill_in(what: str) -> str:
    return f"[fill in: {what}]"


def _metadata(name: str, card: Card) -> str:
    """Return the head of the card, in YAML as the Hub's specification has it."""
    import huggingface_hub

    values: dict[str, Any] = {
        "license": card.licence or _fill_in("licence"),
        "library_name": "ccl-hub",
        "pipeline_tag": "feature-extraction",
        "tags": ["video", "embeddings", "self-supervised", "contrastive-learning"],
    }
    sets: dict[str, list[dict[str, Any]]] = {}
    for figure in card.figures:
        metric = {"type": "accuracy", "value": round(figure.value, 2), "name": figure.name}
        sets.setdefault(figure.data, []).append(metric)
    results = [
        {
            "task": {"type": "feature-extraction", "name": "Video retrieval"},
            "dataset": {"type": data, "name": data},
            "metrics": metrics,
        }
        for data, metrics in sets.items()
    ]
    if results:
        values["model-index"] = [{"name": name, "results": results}]
    return huggingface_hub.CardData(**values).to_yaml()


def problems(text: str, metadata: Mapping[str, Any]) -> list[str]:
    """Return what a card lacks, one line each; none if it is complete.

    Args:
        text: The whole card.
        metadata: What its head says, as read.
    """
    lacking = []
    for key in ("license", "library_name", "tags"):
        if not metadata.get(key):
            lacking.append(f"its head has no {key}")
    sections = section_bodies(text)
    for title in section_bodies(TEMPLATE.read_text(encoding="utf-8")):
        if title not in sections:
            lacking.append(f"no section '## {title}'")
        elif not sections[title].strip():
            lacking.append(f"section '## {title}' is empty")
    if "from_pretrained(" not in sections.get("Use", "from_pretrained("):
        lacking.append("section '## Use' shows no from_pretrained() to run")
    if "@inproceedings" not in sections.get("Citation", "@inproceedings"):
        lacking.append("section '## Citation' has no BibTeX entry")
    for placeholder in sorted({match[0] for match in PLACEHOLDERS.finditer(text)}):
        lacking.append(f"the placeholder {placeholder} is not filled in")
    return lacking


def section_bodies(text: str) -> dict[str, str]:
    """Return the body of each section of the second level, code blocks left alone."""
    bodies: dict[str, list[str]] = {}
    title, code = "", False
    for line in text.splitlines():
        code ^= line.startswith("```")
        if line.startswith("## ") and not code:
            title = line[3:].strip()
            bodies[title] = []
        elif title:
            bodies[title].append(line)
    return {title: "\n".join(lines) for title, lines in bodies.items()}
