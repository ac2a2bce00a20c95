"""What EfficientNet-Lite0 is made of besides widths and depths; numbers alone, for any library."""

from __future__ import annotations

from typing import NamedTuple

BATCHNORM_EPSILON = 1e-3


class StageShape(NamedTuple):
    """What makes one of the seven stages differ from the others besides width and depth."""

    expansion: int
    kernel_px: int
    stride: int


STAGES = (
    StageShape(1, 3, 1),
    StageShape(6, 3, 2),
    StageShape(6, 5, 2),
    StageShape(6, 3, 2),
    StageShape(6, 5, 1),
    StageShape(6, 5, 2),
    StageShape(6, 3, 1),
)
