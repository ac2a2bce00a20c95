"""The 13 edits by which recall is measured: of a fixed strength, made by Pillow.

They share no code with the edits that training makes (:mod:`training.clips.edits`), so that a
mistake in those cannot help itself to a good figure.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Picture = Image.Image
Edit = Callable[[Picture, Picture, np.random.Generator], Picture]
"""Takes a picture, one of another video, and random numbers."""


def unedited(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """The frame as it is."""
    return picture


def jpeg(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """Half the size, stored as JPEG of quality 10."""
    width, height = picture.size
    buffer = io.BytesIO()
    picture.resize((width // 2, height // 2), Image.Resampling.BILINEAR).save(
        buffer, "JPEG", quality=10
    )
    return Image.open(buffer).convert("RGB")


def center_crop(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """The middle 60 % of each side."""
    width, height = picture.size
    return picture.crop((width // 5, height // 5, width - width // 5, height - height // 5))


def corner_crop(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """60 % of each side, at one of the four corners."""
    width, height = picture.size
    w, h = round(0.6 * width), round(0.6 * height)
    left, top = draw.choice([0, width - w]), draw.choice([0, height - h])
    return picture.crop((int(left), int(top), int(left) + w, int(top) + h))


def mirrored(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """Left and right swapped."""
    return ImageOps.mirror(picture)


def letterbox(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """Black bars above and below, each a sixth of the height of the result."""
    return ImageOps.expand(picture, (0, picture.height // 4), fill=0)


def banner(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """A caption in a bar over the lowest fifth, and a logo at the top."""
    edited, (width, height) = picture.copy(), picture.size
    pen = ImageDraw.Draw(edited)
    pen.rectangle((0, height - height // 5, width, height), fill=(20, 30, 120))
    pen.text((width // 20, height - height // 6), "BREAKING: watch this now", fill=(255, 255, 0))
    pen.ellipse((width - height // 5, 4, width - 4, height // 5), fill=(230, 30, 30))
    return edited


def grey(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """No colours."""
    return ImageOps.grayscale(picture).convert("RGB")


def bright(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """Brightness 1.4, contrast 1.4."""
    return ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(1.4)).enhance(1.4)


def blurred(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """A Gaussian blur of 2 pixels for a short side of 128."""
    return picture.filter(ImageFilter.GaussianBlur(2 * min(picture.size) / 128))


def rotated(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """Turned by 10 degrees either way, black at the corners."""
    return picture.rotate(float(draw.choice([-10, 10])), Image.Resampling.BILINEAR)


def picture_in_picture(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """At half size somewhere over a frame of another video."""
    width, height = picture.size
    edited = other.resize((width, height), Image.Resampling.BILINEAR)
    small = picture.resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    left, top = draw.integers(0, width - small.width), draw.integers(0, height - small.height)
    edited.paste(small, (int(left), int(top)))
    return edited


def filmed(picture: Picture, other: Picture, draw: np.random.Generator) -> Picture:
    """Off a screen: seen at an angle, with stripes, noise and a cast of colour."""
    width, height = picture.size
    x, y = 0.08 * width, 0.08 * height
    corners = draw.uniform(-1, 1, 8)
    # Where the corners of the result lie in the picture: upper left, lower left, and on.
    quad = [-x, -y, -x, height + y, width + x, height + y, width + x, -y]
    quad = [at + 0.6 * (x, y)[i % 2] * corners[i] for i, at in enumerate(quad)]
    seen = picture.transform(
        (width, height), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR
    )
    pixels = np.asarray(seen, np.float64)
    rows, columns = np.mgrid[:height, :width]
    stripes = 12 * np.sin(2 * np.pi * (columns / 3.7 + rows / 5.3))[..., None]
    noise = draw.normal(0, 8, pixels.shape)
    cast = np.array([0.95, 1.0, 1.08])
    return Image.fromarray(np.clip(pixels * cast + stripes + noise, 0, 255).astype(np.uint8))


EDITS: dict[str, Edit] = {
    "none": unedited,
    "JPEG 10 at half size": jpeg,
    "center crop": center_crop,
    "corner crop": corner_crop,
    "mirror": mirrored,
    "letterbox": letterbox,
    "banner": banner,
    "grey": grey,
    "bright": bright,
    "blur": blurred,
    "rotated": rotated,
    "picture in picture": picture_in_picture,
    "filmed": filmed,
}
"""By the name that tables show."""
