"""What people do to a picture, as batched tensor operations: the views of ``kind = "edits"``.

Every frame of a clip is treated alike, and each clip by its own seed, so that a view depends
neither on the device nor on the clips beside it (but for the other video of a picture in picture,
which is the next clip of the batch). Geometry is one homography per clip, sampled once; each other
edit is a function of the clips it applies to. Clips are (b, T, 3, S, S) float32 in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccl_hub.config import Preprocessing

from ..recipes.edits import Edits
from .augment import LUMA, blur_weights, colour_matrices

REFERENCE_PX = 112  # blur_px is stated for a picture of this side
JPEG_BLOCK_PX = 8


class Draws:
    """Random numbers of clips, each from its own seed, in the order in which they are asked for.

    Args:
        seeds: One seed >= 0 per clip.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        keys = [np.random.SeedSequence(int(seed)) for seed in seeds]
        self._generators = [np.random.Generator(np.random.Philox(key)) for key in keys]

    def __len__(self) -> int:
        return len(self._generators)

    def of(self, clips: np.ndarray) -> Draws:
        """Return those of some clips, which go on where they are."""
        some = Draws(())
        some._generators = [self._generators[clip] for clip in clips]
        return some

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Return one number per clip, (b,) float64."""
        return low + (high - low) * np.array([draw.random() for draw in self._generators])

    def log_uniform(self, low: float, high: float) -> np.ndarray:
        """Return one number per clip whose logarithm is uniform, (b,) float64."""
        return np.exp(self.uniform(math.log(low), math.log(high)))

    def one_in(self, probability: float) -> np.ndarray:
        """Return whether something happens to each clip, (b,) bool."""
        return self.uniform() < probability

    def normal(self, shape: Sequence[int]) -> np.ndarray:
        """Return standard normal numbers, (b, *shape) float32."""
        draws = [draw.standard_normal(shape, np.float32) for draw in self._generators]
        return np.stack(draws)


Edit = Callable[[Tensor, Draws, Tensor], Tensor]
"""Takes clips (b,T,3,S,S), their draws and as many other clips; returns the edited ones."""


def edited_views(
    frames: Tensor, config: Edits, seeds: Sequence[int], preprocessing: Preprocessing, side_px: int
) -> Tensor:
    """Edit clips and normalise them.

    Args:
        frames: (B, T, h, w, 3) uint8 RGB, whole frames of any size.
        config: How often and how strongly.
        seeds: One seed >= 0 per clip.
        preprocessing: Gives mean and standard deviation.
        side_px: Side S of the result, a multiple of 16.

    Returns:
        (B, 3, T, S, S) float32 on the device of ``frames``, normalised.

    Example:
        >>> clips = torch.zeros(2, 8, 96, 128, 3, dtype=torch.uint8)
        >>> edited_views(clips, Edits(), [1, 2], Preprocessing(), 64).shape
        torch.Size([2, 3, 8, 64, 64])
    """
    with torch.no_grad(), torch.autocast(frames.device.type, enabled=False):
        clips = edited(frames, config, seeds, side_px)
        mean = torch.tensor(preprocessing.mean, device=clips.device).view(3, 1, 1)
        std = torch.tensor(preprocessing.std, device=clips.device).view(3, 1, 1)
        return clips.sub_(mean).div_(std).transpose(1, 2)


def edited(frames: Tensor, config: Edits, seeds: Sequence[int], side_px: int) -> Tensor:
    """Edit clips: (B, T, h, w, 3) uint8 -> (B, T, 3, S, S) float32 in [0, 1]."""
    draws = Draws(seeds)
    clips = warped(frames, homographies(config, draws), side_px)
    steps: tuple[tuple[float, Edit], ...] = (
        (config.colour, lambda x, d, _: recoloured(x, d, config.colour_share)),
        (config.grey, greyed),
        (config.banner, bannered),
        (config.picture_in_picture, lambda x, d, y: inlaid(x, d, y, config.picture_share)),
        (config.half_size, halved),
        (config.blur, lambda x, d, _: blurred(x, d, config.blur_px * side_px / REFERENCE_PX)),
        (config.jpeg, lambda x, d, _: compressed(x, d, config.jpeg_quality)),
        (config.noise, lambda x, d, _: noisy(x, d, config.noise_share)),
    )
    for probability, edit in steps:
        chosen = np.flatnonzero(draws.one_in(probability))
        if len(chosen):
            others = clips[(chosen + 1) % len(clips)]
            clips[chosen] = edit(clips[chosen], draws.of(chosen), others)
    return clips


# Geometry ----------------------------------------------------------------------------------------


def homographies(config: Edits, draws: Draws) -> np.ndarray:
    """Return what takes the result's square to the frame's, (b, 3, 3) float64.

    Both squares are [-1, 1] x [-1, 1]. The identity squashes the whole frame.
    """
    chain = (
        bars(config, draws),
        perspective(config, draws),
        rotation(config, draws),
        crop(config, draws),
        mirror(config, draws),
    )
    total = np.tile(np.eye(3), (len(draws), 1, 1))
    for step in chain:  # the result's square goes through the last edit first
        total = step @ total
    return total


def crop(config: Edits, draws: Draws) -> np.ndarray:
    """Keep a rectangle of the frame, anywhere or at a corner; also a change of aspect."""
    side = np.sqrt(draws.uniform(config.crop_area, 1.0))
    stretch = np.sqrt(draws.log_uniform(1 / 1.4, 1.4))
    stretch = np.where(draws.one_in(config.aspect), stretch, 1.0)
    side = np.where(draws.one_in(config.crop), side, 1.0)
    width, height = np.minimum(side * stretch, 1), np.minimum(side / stretch, 1)
    x, y = draws.uniform(-1, 1), draws.uniform(-1, 1)
    corner = draws.one_in(0.5)
    x, y = np.where(corner, np.sign(x), x), np.where(corner, np.sign(y), y)
    return _affine(width, height, x * (1 - width), y * (1 - height))


def mirror(config: Edits, draws: Draws) -> np.ndarray:
    """Swap left and right."""
    sign = np.where(draws.one_in(config.mirror), -1.0, 1.0)
    return _affine(sign, np.ones_like(sign))


def rotation(config: Edits, draws: Draws) -> np.ndarray:
    """Turn the picture; corners stay black, or are cut off by enlarging it."""
    angle = np.deg2rad(draws.uniform(-1, 1) * config.rotation_degrees)
    angle = np.where(draws.one_in(config.rotation), angle, 0.0)
    aspect = draws.uniform(0.75, 1.8)  # width / height before the frame was squashed
    cut = draws.one_in(0.5)
    ratio = np.maximum(aspect, 1 / aspect)
    fits = 1 / (np.cos(angle) + ratio * np.abs(np.sin(angle)))
    scale = np.where(cut, fits, 1.0)
    matrix = np.tile(np.eye(3), (len(angle), 1, 1))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle) * scale
    matrix[:, 0, 1] = -np.sin(angle) * scale / aspect
    matrix[:, 1, 0] = np.sin(angle) * scale * aspect
    return matrix


def perspective(config: Edits, draws: Draws) -> np.ndarray:
    """Move each corner by itself, as of a screen that is filmed from the side."""
    shares = np.stack([draws.uniform(-1, 1) for _ in range(8)], 1).reshape(-1, 4, 2)
    shares *= 2 * config.perspective_share * draws.one_in(config.perspective)[:, None, None]
    corners = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    targets = corners + shares  # (b,4,2)
    rows = []
    for (x, y), u, v in zip(corners, targets[..., 0].T, targets[..., 1].T, strict=True):
        zero, one = np.zeros_like(u), np.ones_like(u)
        rows.append(np.stack([x * one, y * one, one, zero, zero, zero, -u * x, -u * y], -1))
        rows.append(np.stack([zero, zero, zero, x * one, y * one, one, -v * x, -v * y], -1))
    equations = np.stack(rows, 1)  # (b,8,8)
    values = np.linalg.solve(equations, targets.reshape(-1, 8, 1))[..., 0]
    return np.concatenate([values, np.ones((len(values), 1))], 1).reshape(-1, 3, 3)


def bars(config: Edits, draws: Draws) -> np.ndarray:
    """Leave black above and below the picture, or at both sides."""
    stretch = np.where(draws.one_in(config.bars), draws.uniform(1.1, 1.8), 1.0)
    upright = draws.one_in(0.5)
    one = np.ones_like(stretch)
    return _affine(np.where(upright, stretch, one), np.where(upright, one, stretch))


def _affine(
    width: np.ndarray,
    height: np.ndarray,
    x: np.ndarray | float = 0.0,
    y: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return scales about the middle and shifts as (b, 3, 3)."""
    matrix = np.tile(np.eye(3), (len(width), 1, 1))
    matrix[:, 0, 0], matrix[:, 1, 1] = width, height
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def warped(frames: Tensor, matrices: np.ndarray, side_px: int) -> Tensor:
    """Sample (b, T, h, w, 3) uint8 by (b, 3, 3): (b, T, 3, S, S) in [0, 1], black outside."""
    b, length = frames.shape[:2]
    line = (torch.arange(side_px, device=frames.device) + 0.5) * (2 / side_px) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)  # (S*S,3)
    maps = torch.from_numpy(matrices).to(points)  # (b,3,3)
    moved = points @ maps.mT  # (b,S*S,3)
    grid = (moved[..., :2] / moved[..., 2:].clamp(min=1e-3)).view(b, side_px, side_px, 2)
    images = frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float().div_(255)  # (b,T*3,h,w)
    sampled = F.grid_sample(images, grid, align_corners=False)
    return sampled.unflatten(1, (length, 3))


# Colours -----------------------------------------------------------------------------------------


def recoloured(clips: Tensor, draws: Draws, share: float) -> Tensor:
    """Change brightness, contrast, saturation and hue of (b,T,3,S,S)."""
    factors = [draws.uniform(1 - share, 1 + share) for _ in range(3)]
    brightness, contrast, saturation = factors
    grey = np.zeros(len(draws))
    turns = draws.uniform(-share / 10, share / 10)
    matrices = colour_matrices(brightness, contrast, saturation, turns, grey)
    offsets = torch.from_numpy((1 - contrast) * brightness).to(clips)  # (b,)
    mean = _luma(clips).mean((1, 2, 3))  # (b,)
    mapped = torch.einsum("bij,btjhw->btihw", torch.from_numpy(matrices).to(clips), clips)
    return (mapped + (offsets * mean).view(-1, 1, 1, 1, 1)).clamp_(0, 1)


def greyed(clips: Tensor, *_: object) -> Tensor:
    """Take the colours away."""
    return _luma(clips)[:, :, None].expand_as(clips)


def _luma(clips: Tensor) -> Tensor:
    """(b,T,3,S,S) -> (b,T,S,S)."""
    return torch.einsum("j,btjhw->bthw", clips.new_tensor(LUMA), clips)


# Things laid over the picture --------------------------------------------------------------------


def bannered(clips: Tensor, draws: Draws, *_: object) -> Tensor:
    """Lay a caption, logo or banner over up to a fifth of each picture."""
    side = clips.shape[-1]
    clips = clips.clone()
    for clip in range(len(clips)):
        own = draws.of(np.array([clip]))
        width, height = own.uniform(0.15, 1.0)[0], own.uniform(0.06, 0.25)[0]
        w, h = max(4, round(width * side)), max(4, round(height * side))
        left = round(own.uniform()[0] * (side - w))
        top = round(own.uniform()[0] * (side - h))
        ground, ink = own.normal((3,))[0], own.normal((3,))[0]
        letters = own.normal((max(2, h // 4), max(2, w // 4)))  # (1,rows,columns)
        pattern = torch.from_numpy((letters > 0.2).astype(np.float32))[None]
        pattern = F.interpolate(pattern, (h, w)).to(clips)[0]  # (1,h,w)
        colours = torch.from_numpy(np.stack([ground, ink])).to(clips).mul(0.5).add(0.5).clamp(0, 1)
        box = colours[0].view(3, 1, 1) * (1 - pattern) + colours[1].view(3, 1, 1) * pattern
        opaque = own.uniform(0.6, 1.3)[0] > 0.75  # else letters alone
        area = clips[clip, :, :, top : top + h, left : left + w]
        area.copy_(box.expand_as(area) if opaque else area * (1 - pattern) + box * pattern)
    return clips


def inlaid(clips: Tensor, draws: Draws, outer: Tensor, smallest_share: float) -> Tensor:
    """Shrink each picture and lay it over another's."""
    side = clips.shape[-1]
    result = outer.clone()
    for clip, share in enumerate(draws.uniform(smallest_share, 0.9)):
        own = draws.of(np.array([clip]))
        size = max(16, round(share * side))
        left = round(own.uniform()[0] * (side - size))
        top = round(own.uniform()[0] * (side - size))
        small = F.interpolate(clips[clip], (size, size), mode="bilinear", antialias=True)
        result[clip, :, :, top : top + size, left : left + size] = small
    return result


# Losses ------------------------------------------------------------------------------------------


def halved(clips: Tensor, *_: object) -> Tensor:
    """Shrink to half the size and enlarge again."""
    flat = clips.flatten(0, 1)
    small = F.avg_pool2d(flat, 2)
    return F.interpolate(small, flat.shape[-2:], mode="bilinear").view_as(clips)


def blurred(clips: Tensor, draws: Draws, largest_px: float) -> Tensor:
    """Blur by a Gaussian."""
    sigma = torch.from_numpy(draws.uniform(0.3, max(0.3, largest_px)))
    weights = blur_weights(sigma, clips.shape[-1]).to(clips)[:, None, None]  # (b,1,1,S,S)
    return weights @ clips @ weights.mT


LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
"""Steps of brightness and colours at quality 50 (ITU-T T.81, Annex K); 99 outside the corner."""


def compressed(clips: Tensor, draws: Draws, lowest_quality: float) -> Tensor:
    """Lose what JPEG loses: colours of half the size, and the rounding of each 8 x 8 block."""
    quality = draws.uniform(lowest_quality, 90)
    scale = np.where(quality < 50, 50 / quality, 2 - quality / 50)  # as libjpeg scales its tables
    steps = torch.from_numpy(scale).to(clips).view(-1, 1, 1) / 255  # (b,1,1)
    to_ycc = clips.new_tensor(
        [LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)]
    )  # (3,3)
    ycc = torch.einsum("ij,btjhw->btihw", to_ycc, clips)
    luma = clips.new_tensor(LUMA_TABLE)
    chroma = torch.full_like(luma, 99.0)
    chroma[:4, :4] = clips.new_tensor(CHROMA_CORNER)
    y = _rounded_blocks(ycc[:, :, :1] - 0.5, luma, steps) + 0.5
    small = F.avg_pool2d(ycc[:, :, 1:].flatten(0, 1), 2).unflatten(0, clips.shape[:2])
    small = _rounded_blocks(small, chroma, steps).flatten(0, 1)
    c = F.interpolate(small, scale_factor=2.0, mode="bilinear").unflatten(0, clips.shape[:2])
    ycc = torch.cat([y, c], 2)
    return torch.einsum("ij,btjhw->btihw", torch.linalg.inv(to_ycc), ycc).clamp_(0, 1)


def _rounded_blocks(planes: Tensor, table: Tensor, steps: Tensor) -> Tensor:
    """Round the DCT of each block of (b,T,C,h,w), whose sides 8 divides, to steps of a table."""
    n = JPEG_BLOCK_PX
    k = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * (k + 0.5) * k[:, None]) * math.sqrt(2 / n)  # (n,n)
    basis[0] /= math.sqrt(2)
    basis = basis.to(planes)
    b, t, c, h, w = planes.shape
    blocks = planes.reshape(b, t * c, h // n, n, w // n, n).permute(0, 1, 2, 4, 3, 5)
    step = (table * steps)[:, None, None, None].clamp(min=1 / 255)  # (b,1,1,1,8,8)
    values = ((basis @ blocks @ basis.T) / step).round() * step
    blocks = basis.T @ values @ basis
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(planes.shape)


def noisy(clips: Tensor, draws: Draws, largest_share: float) -> Tensor:
    """Add normal noise, another for each frame."""
    sigma = torch.from_numpy(draws.uniform(0, largest_share)).to(clips).view(-1, 1, 1, 1, 1)
    noise = torch.from_numpy(draws.normal(clips.shape[1:])).to(clips)
    return (clips + sigma * noise).clamp_(0, 1)
