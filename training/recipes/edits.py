"""``[edits]``: what people do to a picture, and how often a training clip meets each of it.

A video and its frames are one, whatever was done to the picture: ``[augment] kind = "edits"``
teaches that by two views of each clip that were edited in different ways.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ccl_hub._util.checks import require


@dataclass(frozen=True)
class Edits:
    """How often each edit is made, and how strong it may be; a section of a recipe.

    Args:
        crop: Probability of a crop; half of them keep a corner of the picture.
        crop_area: Smallest share of the picture's area that a crop leaves.
        mirror: Probability of a mirrored picture.
        aspect: Probability of a stretched picture, by up to 1.4.
        rotation: Probability of a rotation.
        rotation_degrees: Largest rotation either way.
        perspective: Probability of a picture seen at an angle, as when filmed off a screen.
        perspective_share: How far each corner moves at most, as a share of the side.
        bars: Probability of black bars above and below, or at both sides.
        picture_in_picture: Probability of the picture lying over another video's.
        picture_share: Smallest side of the inner picture, as a share of the outer.
        banner: Probability of a caption, logo or banner.
        grey: Probability of a grey picture.
        colour: Probability of changed brightness, contrast, saturation and hue.
        colour_share: Factors lie within 1 +- this; hue turns by a tenth of it.
        blur: Probability of a Gaussian blur.
        blur_px: Largest standard deviation, in pixels of a side of 112.
        half_size: Probability of a picture halved and enlarged again.
        jpeg: Probability of JPEG's losses.
        jpeg_quality: Lowest quality, 1 to 100 as libjpeg counts.
        noise: Probability of noise.
        noise_share: Largest standard deviation, of pixels in [0, 1].

    Raises:
        ConfigError: A value is out of range.
    """

    crop: float = 0.6
    crop_area: float = 0.16
    mirror: float = 0.5
    aspect: float = 0.3
    rotation: float = 0.25
    rotation_degrees: float = 20.0
    perspective: float = 0.2
    perspective_share: float = 0.2
    bars: float = 0.15
    picture_in_picture: float = 0.15
    picture_share: float = 0.4
    banner: float = 0.25
    grey: float = 0.15
    colour: float = 0.5
    colour_share: float = 0.5
    blur: float = 0.2
    blur_px: float = 2.5
    half_size: float = 0.15
    jpeg: float = 0.3
    jpeg_quality: int = 8
    noise: float = 0.15
    noise_share: float = 0.1

    def __post_init__(self) -> None:
        amounts = {
            "crop_area": (0.05, 1),
            "rotation_degrees": (0, 180),
            "perspective_share": (0, 0.45),
            "picture_share": (0.2, 1),
            "colour_share": (0, 0.9),
            "blur_px": (0, 20),
            "jpeg_quality": (1, 100),
            "noise_share": (0, 1),
        }
        for field in fields(self):
            low, high = amounts.get(field.name, (0, 1))
            value = getattr(self, field.name)
            require(low <= value <= high, field.name, value, f"{low:g} to {high:g}")
