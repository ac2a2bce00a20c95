"""Published figures that our rows are printed beside: Tables 2 to 7 of the paper, and later ones.

All in per cent as printed by their authors, none computed here. Source of the tables:
"Cycle-Contrast for Self-Supervised Video Representation Learning", NeurIPS 2020.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "DATA_SETS",
    "F_MEASURE",
    "PAPER",
    "PUBLISHED",
    "PublishedFigure",
    "PublishedRow",
    "published_data",
    "published_rows",
]

PAPER = "CCL paper, NeurIPS 2020"
F_MEASURE = "F-measure"
# Of which published figures exist, and how a report names them.
DATA_SETS = {
    "ucf101": "UCF101 split 1",
    "hmdb51": "HMDB51 split 1",
    "mmact cross-session": "MMAct cross-session",
    "mmact cross-subject": "MMAct cross-subject",
}
TOP_3 = ("top-1", "top-5", "top-10")
TOP_5 = (*TOP_3, "top-20", "top-50")


@dataclass(frozen=True)
class PublishedFigure:
    """One printed figure.

    Args:
        data: A key of :data:`DATA_SETS`.
        task: As in :class:`training.evaluation.results.Measurement`; ``finetune`` for
        ``CCL(E2E)``. metric: ``top-1`` ... ``top-50``, or ``F-measure`` (macro or micro is not
        stated). per_cent: As printed.
    """

    data: str
    task: str
    metric: str
    per_cent: float


@dataclass(frozen=True)
class PublishedRow:
    """One printed row.

    Args:
        table: Number in the paper; later work stands in the table whose layout it fits.
        method: Name in that table.
        figures: Its figures.
        source: Where it was printed.
        note: What makes it differ from the other rows, such as labels or another modality.
        reference: There to compare with: random, supervised or multi-modal rows.
    """

    table: int
    method: str
    figures: tuple[PublishedFigure, ...]
    source: str = PAPER
    note: str = ""
    reference: bool = False

    def per_cent(self, data: str, task: str, metric: str) -> float | None:
        """Return the figure of a column, or None where none was printed."""
        for figure in self.figures:
            if (figure.data, figure.task, figure.metric) == (data, task, metric):
                return figure.per_cent
        return None


def _retrieval(
    table: int, metrics: Sequence[str], rows: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[PublishedRow]:
    """Rows ``method -> task -> one value per metric`` on UCF101 test split 1."""
    return [
        PublishedRow(
            table,
            method,
            tuple(
                PublishedFigure("ucf101", task, metric, value)
                for task, values in tasks.items()
                for metric, value in zip(metrics, values, strict=True)
            ),
        )
        for method, tasks in rows.items()
    ]


def _two_sets(
    table: int,
    task: str,
    rows: Mapping[str, tuple[float | None, float | None]],
    *,
    data: tuple[str, str] = ("ucf101", "hmdb51"),
    metric: str = "top-1",
    source: str = PAPER,
    note: str = "",
    reference: bool = False,
) -> list[PublishedRow]:
    """Rows ``method -> (value on the first data set, on the second)``."""
    made = []
    for method, values in rows.items():
        figures = tuple(
            PublishedFigure(name, task, metric, value)
            for name, value in zip(data, values, strict=True)
            if value is not None
        )
        made.append(PublishedRow(table, method, figures, source, note, reference))
    return made


MMACT = ("mmact cross-session", "mmact cross-subject")
TCLR = "TCLR, R3D-18, 16 frames of 112 px, pretrained on UCF101"
RSPNET = "RSPNet, R(2+1)D, pretrained on Kinetics-400"
RSPNET_RETRIEVAL = "RSPNet, R18, pretrained on Kinetics-400"
VIDEOMOCO = "VideoMoCo, R(2+1)D, pretrained on Kinetics-400"
LATER = "later work, RGB only"

PUBLISHED: tuple[PublishedRow, ...] = (
    *_retrieval(
        2,
        TOP_3,
        {
            "MSE": {"F=>V": (15.3, 24.2, 33.1), "V=>F": (22.2, 32.1, 38.4)},
            "CCL": {"F=>V": (26.1, 39.0, 48.4), "V=>F": (34.4, 46.6, 56.9)},
        },
    ),
    *_retrieval(
        3,
        TOP_5,
        {
            "MSE": {
                "F=>F": (13.1, 20.2, 23.4, 28.6, 36.2),
                "V=>V": (10.0, 19.4, 26.8, 33.1, 40.1),
            },
            "Jigsaw": {"F=>F": (19.7, 28.5, 33.5, 40.0, 49.4)},
            "OPN": {"F=>F": (19.9, 28.7, 34.0, 40.6, 51.6)},
            "Buchler et al.": {"F=>F": (25.7, 36.2, 42.2, 49.2, 59.5)},
            "COP": {"V=>V": (14.1, 30.3, 40.0, 51.1, 66.5)},
            "SpeedNet": {"V=>V": (13.0, 28.1, 37.5, 49.5, 65.0)},
            "CCL": {
                "F=>F": (32.7, 42.5, 50.8, 61.2, 68.9),
                "V=>V": (22.0, 39.1, 44.6, 56.3, 70.8),
            },
        },
    ),
    PublishedRow(3, TCLR, (PublishedFigure("ucf101", "V=>V", "top-1", 56.2),), LATER),
    PublishedRow(3, RSPNET_RETRIEVAL, (PublishedFigure("ucf101", "V=>V", "top-1", 41.1),), LATER),
    *_two_sets(
        4,
        "finetune",
        {
            "Shuffle&Learn": (50.2, 18.1),
            "VGAN": (52.1, None),
            "Luo et al.": (53.0, None),
            "OPN": (56.3, 22.1),
            "Buchler et al.": (58.6, 25.0),
            "MAS": (61.2, 33.4),
            "COP": (64.9, 29.5),
            "ST-puzzle": (65.8, 33.7),
            "DPC": (68.2, 34.5),
            "SpeedNet": (66.7, 43.7),
            "CCL": (69.4, 37.8),
        },
    ),
    *_two_sets(4, "finetune", {"random init": (44.7, 19.4)}, reference=True),
    *_two_sets(
        4, "finetune", {"ImageNet pretrained": (60.3, 30.7)}, note="supervised", reference=True
    ),
    *_two_sets(
        4, "finetune", {"Kinetics pretrained": (85.2, 57.2)}, note="supervised", reference=True
    ),
    *_two_sets(4, "finetune", {"CBT": (79.5, 44.6)}, note="multi-modal", reference=True),
    *_two_sets(4, "finetune", {"AVSlowFast": (87.0, 54.6)}, note="with audio", reference=True),
    *_two_sets(
        4,
        "finetune",
        {TCLR: (82.4, 52.9), RSPNET: (81.1, 44.6), VIDEOMOCO: (78.7, 49.2)},
        source=LATER,
    ),
    *_two_sets(
        5,
        "linear",
        {"Shuffle&Learn": (26.5, 12.6), "3D-RotNet": (47.7, 24.8), "CCL": (52.1, 27.8)},
    ),
    *_two_sets(5, "linear", {"CBT": (54.0, 29.5)}, note="multi-modal", reference=True),
    *_two_sets(5, "linear", {"AVSlowFast": (77.0, 40.2)}, note="with audio", reference=True),
    *_two_sets(5, "linear", {TCLR: (69.9, None)}, source=LATER),
    *_two_sets(
        6,
        "finetune",
        {"random init": (62.2, 58.1)},
        data=MMACT,
        metric=F_MEASURE,
        reference=True,
    ),
    *_two_sets(
        6,
        "finetune",
        {"TSN": (69.2, 64.4)},
        data=MMACT,
        metric=F_MEASURE,
        note="supervised, ImageNet",
        reference=True,
    ),
    *_two_sets(6, "linear", {"CCL (FC)": (59.1, 54.5)}, data=MMACT, metric=F_MEASURE),
    *_two_sets(6, "finetune", {"CCL (E2E)": (65.1, 62.8)}, data=MMACT, metric=F_MEASURE),
    *_two_sets(
        7,
        "finetune",
        {
            "MSE": (52.8, 22.9),
            "Lv": (63.3, 31.1),
            "Lv + Lf": (67.6, 35.2),
            "Lv + Lf + P": (69.4, 37.8),
        },
    ),
)


def published_rows(table: int) -> list[PublishedRow]:
    """Return the rows of one table, in the order they are printed here."""
    return [row for row in PUBLISHED if row.table == table]


def published_data(name: str) -> str | None:
    """Return the key of :data:`DATA_SETS` that a measured set is, or None.

    Published figures are of test split 1, so ``ucf101 split 2`` is none of them.

    Args:
        name: Of a :class:`training.evaluation.results.DataRecord`.

    Example:
        >>> published_data("UCF-101 split 1"), published_data("ucf101 split 2")
        ('ucf101', None)
    """
    words = re.sub(r"[^a-z0-9]", "", name.lower())
    for key in DATA_SETS:
        plain = re.sub(r"[^a-z0-9]", "", key)
        if words in {plain, f"{plain}1", f"{plain}split1", f"{plain}fold1", f"{plain}split01"}:
            return key
    return None
