"""The model card of a checkpoint: its template, and what makes one complete.

A card is the ``README.md`` of a model folder. Its head is metadata that the Hub reads (licence,
library, tags, measured figures as ``model-index``); its body has the sections in :data:`SECTIONS`.
What only the author can know is a placeholder until it is filled in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import FRAME_CHOICES, CCLConfig

__all__ = ["CARD_NAME", "FOLDER_PLACE", "Card", "Figure", "problems", "render"]

CARD_NAME = "README.md"
# Stands for the folder or repository in the code to run; publishing puts the repository there.
FOLDER_PLACE = "path/to/this/folder"
NOT_MEASURED = "Not yet measured."
SECTIONS = (
    "What it is",
    "Use",
    "How it was trained",
    "Training data",
    "Measured",
    "Intended use",
    "Bias and limits",
    "Licence",
    "Citation",
)
PLACEHOLDERS = re.compile(
    # BibTeX has {{Title}} and Spanish has "todo": templates have {{ name }}, notes capitals.
    r"\[fill in[^\]]*\]|\[more information needed\]|(?-i:\b(?:TODO|FIXME|TBD)\b)|\{\{ .*? \}\}"
    rf"|{re.escape(FOLDER_PLACE)}",
    re.IGNORECASE,
)
INTENDED_USE = (
    "Search, deduplication, clustering and classification of videos by cosine similarity or a "
    "linear layer on the vectors, and fine-tuning. Not for decisions about people, and not for "
    "recognising them."
)
LIMITS = (
    "The network was trained without labels and reflects its training data: what is rare or "
    "missing there (places, people, cameras, activities) is told apart less well, and nothing was "
    "done to balance it. It sees a clip of {seconds:g} s at {side} px: long actions and fine "
    "detail are outside it. Figures on other data than yours may not hold for yours; measure on "
    "your own."
)
CITATION = """```bibtex
@inproceedings{kong2020cycle,
  title     = {Cycle-Contrast for Self-Supervised Video Representation Learning},
  author    = {Kong, Quan and Wei, Wenpeng and Deng, Ziwei and Yoshinaga, Tomoaki and \
Murakami, Tomokazu},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}
```"""


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
        config: Of the checkpoint.
        card: What else is known.

    Returns:
        Markdown with a YAML head; placeholders where the author must fill in.

    Example:
        >>> "## Citation" in render(CCLConfig())
        True
    """
    card = card or Card()
    trained_on = config.provenance.trained_on
    data = f"{_sentence(trained_on)} {card.data}".strip() if trained_on else card.data
    preprocessing = config.preprocessing
    limits = LIMITS.format(seconds=preprocessing.clip_seconds, side=preprocessing.crop_px)
    licence = f"Weights: `{card.licence}`." if card.licence else ""
    bodies = {
        "What it is": _what_it_is(config),
        "Use": _use(),
        "How it was trained": card.training or _fill_in("steps, schedule, settings"),
        "Training data": data or _fill_in("what it was trained on, and its licence"),
        "Measured": card.measured or NOT_MEASURED,
        "Intended use": card.intended_use or INTENDED_USE,
        "Bias and limits": card.limits or limits,
        "Licence": licence or _fill_in("the licence of the weights"),
        "Citation": CITATION,
    }
    name = config.provenance.name or _fill_in("name")
    lines = ["---", *_yaml(_metadata(name, card)), "---", f"# {name}", ""]
    for title in SECTIONS:
        lines += [f"## {title}", "", bodies[title].strip(), ""]
    return "\n".join(lines).rstrip() + "\n"


def _fill_in(what: str) -> str:
    return f"[fill in: {what}]"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _what_it_is(config: CCLConfig) -> str:
    preprocessing = config.preprocessing
    size = f"{preprocessing.resize_height_px}x{preprocessing.resize_width_px} px"
    if preprocessing.resize == "short_side":
        size = f"a short side of {preprocessing.resize_height_px} px"
    return (
        f"Turns frames and clips of video into {config.architecture.feature_dim}-d vectors. An "
        '"R18+1" network trained without labels by Cycle-Contrastive Learning (NeurIPS 2020, '
        "https://arxiv.org/abs/2010.14810): a video must find its own frames, and a frame its own "
        f"video. A clip is {preprocessing.clip_frames} frames "
        f"{preprocessing.frame_interval_seconds:g} s apart, each "
        f"{FRAME_CHOICES[preprocessing.frame_choice]}, resized to {size}, of which the central "
        f"{preprocessing.crop_px} px are seen."
    )


def _use() -> str:
    lines = (
        "```python",
        "from ccl_hub import CCLModel  # pip install ccl-hub",
        "",
        f'model = CCLModel.from_pretrained("{FOLDER_PLACE}")',
        'result = model.embed("video.mp4")',
        "print(result.video.shape, result.clips.shape, result.frames.shape)",
        "```",
    )
    return "\n".join(lines)


def _metadata(name: str, card: Card) -> dict[str, Any]:
    """Return what the head of the card says, as the Hub's specification has it."""
    values: dict[str, Any] = {
        "license": card.licence or _fill_in("licence"),
        "library_name": "ccl-hub",
        "pipeline_tag": "feature-extraction",
        "tags": ["video", "embeddings", "self-supervised", "contrastive-learning"],
    }
    if not card.figures:
        return values
    sets: dict[str, list[dict[str, Any]]] = {}
    for figure in card.figures:
        metric = {"type": "accuracy", "value": round(figure.value, 2), "name": figure.name}
        sets.setdefault(figure.data, []).append(metric)
    task = {"type": "feature-extraction", "name": "Video retrieval"}
    results = [
        {"task": task, "dataset": {"type": data, "name": data}, "metrics": metrics}
        for data, metrics in sets.items()
    ]
    return {**values, "model-index": [{"name": name, "results": results}]}


def _yaml(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return lines of block YAML; text is quoted as in JSON, which YAML reads alike."""
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_yaml(value, f"{indent}  ")]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            lines.append(f"{indent}{key}:")
            for item in value:
                inner = _yaml(item, f"{indent}  ") if isinstance(item, Mapping) else None
                if inner is None:
                    lines.append(f"{indent}- {json.dumps(item)}")
                else:
                    lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines


def problems(text: str, metadata: Mapping[str, Any]) -> list[str]:
    """Return what a card lacks, one line each; none if it is complete.

    Args:
        text: The whole card.
        metadata: What its head says, as read.
    """
    found = []
    for key in ("license", "library_name", "tags"):
        if not metadata.get(key):
            found.append(f"its head has no {key}")
    sections = _sections(text)
    for title in SECTIONS:
        if title not in sections:
            found.append(f"no section '## {title}'")
        elif not sections[title].strip():
            found.append(f"section '## {title}' is empty")
    if "from_pretrained(" not in sections.get("Use", "from_pretrained("):
        found.append("section '## Use' shows no from_pretrained() to run")
    if "@inproceedings" not in sections.get("Citation", "@inproceedings"):
        found.append("section '## Citation' has no BibTeX entry")
    for left in sorted({match[0] for match in PLACEHOLDERS.finditer(text)}):
        found.append(f"the placeholder {left} is not filled in")
    return found


def _sections(text: str) -> dict[str, str]:
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
