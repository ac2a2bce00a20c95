"""``[augment]``: how training clips are cropped, mirrored and coloured.

``paper``: one random 112 x 112 crop of the 128 x 171 frames of a clip (paper, Section 4.1).
``strong``: random resized crop, flip, colour jitter, grey and blur, as contrastive learning
usually has them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ccl_hub._util.checks import require
from ccl_hub.errors import ConfigError

STRONG_FLIP = 0.5
KINDS = ("paper", "strong", "edits")
PAPER_KEYS = ("kind", "crop_px", "flip")


@dataclass(frozen=True)
class Augment:
    """What is done to a training clip; a section of a recipe.

    Args:
        kind: ``"paper"``, which reads ``crop_px`` and ``flip`` alone; ``"strong"``; or
            ``"edits"``, which reads ``crop_px`` and the recipe's ``[edits]``.
        crop_px: Side of the result; below the preprocessing's ``crop_px`` the same crop is shrunk,
            with antialiasing.
        flip: Probability of a horizontal flip; None: 0 for ``paper``, 0.5 for ``strong``.
        area: Smallest and largest share of the frame's area that a crop covers.
        ratio: Smallest and largest width / height of a crop, in frame pixels.
        jitter: Probability of colour jitter.
        brightness: Factor within 1 +- this.
        contrast: Factor within 1 +- this.
        saturation: Factor within 1 +- this.
        hue: Shift within +- this share of a full turn, at most 0.5.
        grey: Probability of a grey clip.
        blur: Probability of a Gaussian blur.
        blur_sigma: Smallest and largest standard deviation in pixels of a 112 x 112 crop; scaled
            with ``crop_px``.

    Raises:
        ConfigError: A value is out of range, or one that ``paper`` leaves unread is changed.
    """

    kind: str = "paper"
    crop_px: int = 112
    flip: float | None = None
    area: tuple[float, ...] = (0.2, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, ...] = (0.1, 2.0)

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "kind", self.kind, " or ".join(map(repr, KINDS)))
        require(16 <= self.crop_px <= 1024, "crop_px", self.crop_px, "16 to 1024")
        require(self.flip is None or 0 <= self.flip <= 1, "flip", self.flip, "0 to 1")
        for name in ("jitter", "grey", "blur", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "0 to 1")
        require(0 <= self.hue <= 0.5, "hue", self.hue, "0 to 0.5")
        for name, top in (("area", 1.0), ("ratio", 100.0), ("blur_sigma", 100.0)):
            pair = getattr(self, name)
            good = len(pair) == 2 and 0 < pair[0] <= pair[1] <= top
            require(good, name, pair, f"two rising numbers above 0, at most {top:g}")
        if self.kind != "strong":
            for field in fields(self):
                if field.name not in PAPER_KEYS and getattr(self, field.name) != field.default:
                    raise ConfigError(
                        f"{field.name} has no effect with kind {self.kind!r}; use 'strong'."
                    )

    @property
    def flip_probability(self) -> float:
        """Probability of a flip, with the default of ``kind`` filled in."""
        if self.flip is not None:
            return self.flip
        return STRONG_FLIP if self.kind == "strong" else 0.0
