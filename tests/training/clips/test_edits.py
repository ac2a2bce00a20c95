"""Edits of training clips: each does what it says, by its own seed, and to every frame alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ccl_hub.config import Preprocessing
from training.clips import edits
from training.clips.edits import Draws, edited, edited_views, homographies, warped
from training.recipes.edits import Edits

NONE = Edits(
    **{
        name: 0.0
        for name in (
            "crop mirror aspect rotation perspective bars picture_in_picture banner grey "
            "colour blur half_size jpeg noise"
        ).split()
    }
)


def only(**values: float) -> Edits:
    from dataclasses import replace

    return replace(NONE, **values)


def clips(count: int = 6, frames: int = 2, height: int = 96, width: int = 128) -> torch.Tensor:
    """Smooth pictures of many colours, (b, T, h, w, 3) uint8."""
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(count * frames, 3, 6, 8, generator=draw)
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    pixels = (large.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).unflatten(0, (count, frames))


def test_no_edit_squashes_the_whole_frame() -> None:
    result = edited(clips(), NONE, range(6), 64)
    plain = clips().flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    expected = torch.nn.functional.interpolate(plain, (64, 64), mode="bilinear")
    assert result.shape == (6, 2, 3, 64, 64)
    torch.testing.assert_close(result.flatten(0, 1), expected, atol=1e-4, rtol=0)


def test_a_clip_depends_on_its_own_seed_alone() -> None:
    """But for the other video of a picture in picture."""
    config = only(
        **{name: 0.5 for name in "crop mirror rotation colour banner jpeg noise".split()}
    )
    whole = edited(clips(), config, range(6), 64)
    assert torch.equal(whole, edited(clips(), config, range(6), 64))
    for clip in range(6):
        alone = edited(clips()[clip : clip + 1], config, [clip], 64)
        torch.testing.assert_close(alone[0], whole[clip], atol=1e-5, rtol=0)
    other = edited(clips(), config, range(6, 12), 64)
    assert all(not torch.equal(one, two) for one, two in zip(whole, other, strict=True))


def test_every_frame_of_a_clip_is_treated_alike() -> None:
    still = clips()[:, :1].expand(-1, 3, -1, -1, -1)
    config = only(
        **{name: 0.7 for name in "crop rotation perspective colour banner blur jpeg".split()}
    )
    result = edited(still, config, range(6), 64)
    torch.testing.assert_close(result, result[:, :1].expand_as(result), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [name for name in vars(NONE) if getattr(NONE, name) == 0.0])
def test_each_edit_changes_the_picture_and_keeps_its_range(name: str) -> None:
    plain = edited(clips(), NONE, range(6), 64)
    more = {"crop": 1.0} if name == "aspect" else {}
    result = edited(clips(), only(**{name: 1.0}, **more), range(6), 64)
    assert result.shape == plain.shape
    assert float(result.min()) >= 0 and float(result.max()) <= 1 + 1e-5
    assert all(
        float((one - two).abs().mean()) > 1e-4 for one, two in zip(plain, result, strict=True)
    )


def test_mirror_is_a_mirror() -> None:
    plain = edited(clips(), NONE, range(6), 64)
    torch.testing.assert_close(
        edited(clips(), only(mirror=1.0), range(6), 64), plain.flip(-1), atol=1e-5, rtol=0
    )


def test_a_crop_keeps_a_part_and_half_of_them_a_corner() -> None:
    seeds = range(400)
    matrices = homographies(only(crop=1.0, crop_area=0.25), Draws(seeds))
    width, height = matrices[:, 0, 0], matrices[:, 1, 1]
    np.testing.assert_allclose(width, height)
    assert 0.5 <= width.min() < 0.52 and 0.98 < width.max() <= 1
    at_corner = np.isclose(np.abs(matrices[:, 0, 2]), 1 - width)
    assert 0.4 < at_corner.mean() < 0.6
    assert (np.abs(matrices[:, :2, 2]) <= 1 - width[:, None] + 1e-9).all(), "within the frame"


def test_a_rotation_turns_by_its_angle_in_the_unsquashed_picture() -> None:
    config = only(rotation=1.0, rotation_degrees=30.0)
    matrices = homographies(config, Draws(range(200)))
    determinants = np.linalg.det(matrices)
    assert (determinants <= 1 + 1e-9).all() and np.isclose(determinants, 1).mean() > 0.3
    angles = np.rad2deg(np.arccos(np.clip(matrices[:, 0, 0] / np.sqrt(determinants), -1, 1)))
    assert angles.max() <= 30.001 and angles.max() > 25


def test_perspective_moves_corners_to_where_it_says() -> None:
    matrices = homographies(only(perspective=1.0, perspective_share=0.3), Draws(range(50)))
    corners = np.array([(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)], float)
    moved = corners @ matrices.transpose(0, 2, 1)
    moved = moved[..., :2] / moved[..., 2:]
    distance = np.abs(moved - corners[:, :2])
    assert distance.max() <= 0.6 + 1e-9 and distance.max() > 0.5


def test_what_lies_outside_the_frame_is_black() -> None:
    white = torch.full((40, 1, 32, 32, 3), 255, dtype=torch.uint8)
    result = edited(white, only(bars=1.0), range(40), 64)[:, 0, 0]
    black_rows, black_columns = (result.amax(axis) < 0.01 for axis in (2, 1))
    assert (black_rows.any(1) != black_columns.any(1)).all(), (
        "either above and below, or at the sides"
    )
    share = 1 - result.mean((1, 2))
    assert 0.05 < float(share.min()) and float(share.max()) < 0.5


def test_grey_is_grey_and_colours_are_those_of_the_known_factors() -> None:
    grey = edited(clips(), only(grey=1.0), range(6), 64)
    torch.testing.assert_close(grey[:, :, :1].expand_as(grey), grey)
    plain = edited(clips(), NONE, range(6), 64)
    luma = (plain * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)
    torch.testing.assert_close(grey[:, :, 0], luma, atol=1e-5, rtol=0)
    nothing = edits.recoloured(plain, Draws(range(6)), 0.0)
    torch.testing.assert_close(nothing, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quality", [8, 30, 80])
def test_jpeg_loses_about_what_libjpeg_loses(quality: int) -> None:
    plain = edited(clips(3, 1), NONE, range(3), 96)

    class Fixed(Draws):
        def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
            return np.full(len(self), float(quality))

    ours = edits.compressed(plain, Fixed(range(3)), quality)
    for before, after in zip(plain[:, 0], ours[:, 0], strict=True):
        pixels = (before.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
        theirs = np.asarray(Image.open(buffer), float)
        mine = after.permute(1, 2, 0).numpy() * 255
        loss = np.abs(theirs - pixels).mean()
        assert np.abs(mine - theirs).mean() < 0.5 * loss + 1.0
        assert 0.5 * loss - 0.5 < np.abs(mine - pixels).mean() < 1.5 * loss + 0.5


def test_a_picture_in_picture_lies_over_the_next_video() -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    plain = colours[:, None, None, None].expand(3, 2, 32, 32, 3)
    result = edited(plain, only(picture_in_picture=1.0), range(3), 64)
    for clip in range(3):
        inner, outer = result[clip, 0, clip], result[clip, 0, (clip + 1) % 3]
        share = float((inner > 0.5).float().mean())
        assert 0.1 < share < 0.9 and torch.equal(inner > 0.5, outer < 0.5)


def test_normalised_views_are_those_of_the_network() -> None:
    pre = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    views = edited_views(clips(), only(mirror=1.0), range(6), pre, 64)
    plain = edited(clips(), only(mirror=1.0), range(6), 64)
    expected = (plain - torch.tensor(pre.mean).view(3, 1, 1)) / torch.tensor(pre.std).view(3, 1, 1)
    assert views.shape == (6, 3, 2, 64, 64)
    torch.testing.assert_close(views, expected.transpose(1, 2))


def test_a_warp_by_hand() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 1, 64, 1).expand(1, 1, 64, 64, 3)
    half = np.eye(3)[None].copy()
    half[:, 0, 0], half[:, 0, 2] = 0.5, 0.5  # the right half
    result = warped(ramp, half, 64)[0, 0, 0, 0] * 255
    np.testing.assert_allclose(result.numpy()[:-1], 31.75 + np.arange(64)[:-1] / 2, atol=0.01)
