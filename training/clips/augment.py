"""Clip-consistent augmentation, batched on the device that holds the frames.

Crop, resize, flip and blur are linear along each image axis, so they are two small matrices per
clip, and colour jitter is one 3 x 4 affine map per clip; a whole batch is three matrix products.
The parameters of a clip are drawn on the CPU from the clip's own seed, so they depend neither on
the device nor on which clips share its batch.

Colour jitter applies brightness, contrast, saturation and hue in this order, rotates hue
about the grey axis in YIQ, takes contrast about the mean of the whole clip, and clamps once, at
the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccl_hub.config import Preprocessing
from ccl_hub.errors import InputError

from ..recipes.augmentation import Augment

CROP_TRIES = 10
BLUR_REFERENCE_PX = 112  # blur_sigma is stated for a crop of this side
CPU_CHUNK_CLIPS = 2  # clips computed at once on a CPU, so that intermediates stay in its cache
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ClipParameters:
    """The random parameters of B clips, as float64 arrays (B,); boxes are in reference pixels.

    Without a blur ``sigma_px`` is 0; without a change of colour the factors are 1, and
    ``hue_turns`` and ``grey`` are 0.
    """

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    hue_turns: np.ndarray
    grey: np.ndarray
    sigma_px: np.ndarray


def draw_parameters(
    config: Augment,
    seeds: Sequence[int],
    size_px: tuple[float, float],
    box_px: int,
) -> ClipParameters:
    """Draw the parameters of clips, each from the seed of its clip.

    Args:
        config: Says which parameters are drawn, and in which range.
        seeds: One seed >= 0 per clip.
        size_px: Height and width of the frame in reference pixels.
        box_px: Side of the ``paper`` crop in reference pixels.

    Returns:
        One value per clip of each parameter.
    """
    u = np.stack([_uniforms(seed) for seed in seeds])  # (B, 32) in [0, 1)
    if config.kind == "paper":
        height = width = np.full(len(u), float(box_px))
    else:
        height, width = _random_box(config, u[:, :CROP_TRIES], u[:, 10 : 10 + CROP_TRIES], size_px)
    jitter = (u[:, 23] < config.jitter) & (config.kind == "strong")

    def factor(column: int, spread: float) -> np.ndarray:
        return np.where(jitter, 1 + spread * (2 * u[:, column] - 1), 1.0)

    low, high = (sigma * config.crop_px / BLUR_REFERENCE_PX for sigma in config.blur_sigma)
    blurred = (u[:, 29] < config.blur) & (config.kind == "strong")
    return ClipParameters(
        top=np.floor(u[:, 20] * (np.floor(size_px[0]) - height + 1)),
        left=np.floor(u[:, 21] * (np.floor(size_px[1]) - width + 1)),
        height=height,
        width=width,
        flip=(u[:, 22] < config.flip_probability).astype(np.float64),
        brightness=factor(24, config.brightness),
        contrast=factor(25, config.contrast),
        saturation=factor(26, config.saturation),
        hue_turns=np.where(jitter, config.hue * (2 * u[:, 27] - 1), 0.0),
        grey=((u[:, 28] < config.grey) & (config.kind == "strong")).astype(np.float64),
        sigma_px=np.where(blurred, low + (high - low) * u[:, 30], 0.0),
    )


def _uniforms(seed: int) -> np.ndarray:
    """Return 32 uniform numbers that depend on ``seed`` alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(int(seed)))).random(32)


def _random_box(
    config: Augment, u_area: np.ndarray, u_ratio: np.ndarray, size_px: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return heights and widths (B,): the first of ten tries that fits, else the largest box."""
    full_height, full_width = (math.floor(side) for side in size_px)
    area = full_height * full_width * (config.area[0] + np.ptp(config.area) * u_area)
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    ratio = np.exp(low + (high - low) * u_ratio)
    width, height = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))  # (B, tries)
    fits = (width >= 1) & (width <= full_width) & (height >= 1) & (height <= full_height)
    first = np.argmax(fits, axis=1)[:, None]
    aspect = min(max(full_width / full_height, config.ratio[0]), config.ratio[1])
    spare_width = min(full_width, round(full_height * aspect))
    spare_height = min(full_height, round(full_width / aspect))
    some = fits.any(axis=1)
    return (
        np.where(some, np.take_along_axis(height, first, 1)[:, 0], float(spare_height)),
        np.where(some, np.take_along_axis(width, first, 1)[:, 0], float(spare_width)),
    )


def augment(
    frames: Tensor,
    config: Augment,
    seeds: int | Sequence[int] | np.ndarray,
    preprocessing: Preprocessing | None = None,
) -> Tensor:
    """Crop, resize, jitter and normalise clips, every frame of a clip alike.

    Args:
        frames: (B, T, h, w, 3) uint8 RGB: frames resized by ``preprocessing``, or the same frames
            shrunk to save memory, for which boxes are scaled.
        config: Says how.
        seeds: One seed >= 0 per clip, or one number from which the clips' seeds are derived.
        preprocessing: Gives the frame size in which boxes are drawn, the ``paper`` crop's side,
            mean and std; the defaults for None.

    Returns:
        (B, 3, T, crop_px, crop_px) float32 on the device of ``frames``, normalised.

    Raises:
        InputError: Shape or dtype is wrong, there are more or fewer seeds than clips, or a frame
            is smaller than the crop.

    Example:
        >>> clips = torch.zeros(2, 8, 128, 171, 3, dtype=torch.uint8)
        >>> augment(clips, Augment("strong", crop_px=56), seeds=[1, 2]).shape
        torch.Size([2, 3, 8, 56, 56])
    """
    preprocessing = preprocessing or Preprocessing()
    if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise InputError(
            f"frames are {frames.dtype} {tuple(frames.shape)}; give uint8 (B, T, h, w, 3)."
        )
    if isinstance(seeds, (int, np.integer)):
        seeds = np.random.SeedSequence(int(seeds)).generate_state(len(frames), np.uint64)
    if len(seeds) != len(frames):
        raise InputError(f"there are {len(seeds)} seeds for {len(frames)} clips; give one each.")
    reference = _reference_size(frames.shape[2], frames.shape[3], preprocessing)
    if config.kind == "paper" and preprocessing.crop_px > min(reference):
        raise InputError(
            f"a crop of {preprocessing.crop_px} px does not fit into frames of {reference} px; "
            "give a smaller preprocessing.crop_px."
        )
    drawn = draw_parameters(config, [int(s) for s in seeds], reference, preprocessing.crop_px)
    batch, length = frames.shape[:2]
    clips = frames.new_empty((batch, 3, length, config.crop_px, config.crop_px), dtype=torch.float)
    chunk = batch if frames.device.type == "cuda" else CPU_CHUNK_CLIPS
    with torch.autocast(frames.device.type, enabled=False):
        weights = _axes(frames, drawn, reference, config.crop_px)
        colours = _colours(frames, drawn) if config.kind == "strong" else None
        for some in (slice(first, first + chunk) for first in range(0, batch, chunk)):
            _resample(frames[some], *(axis[some] for axis in weights), out=clips[some])
            clips[some].div_(255)
            if colours is not None:
                _apply_colours(clips[some], *(values[some] for values in colours))
            _normalise(clips[some], preprocessing)
    return clips


def _reference_size(
    height_px: int, width_px: int, preprocessing: Preprocessing
) -> tuple[float, float]:
    """Return the size in which boxes are drawn, for frames that may have been shrunk."""
    if preprocessing.resize == "stretch":
        return float(preprocessing.resize_height_px), float(preprocessing.resize_width_px)
    scale = preprocessing.resize_height_px / min(height_px, width_px)
    return height_px * scale, width_px * scale


def _axes(
    frames: Tensor, drawn: ClipParameters, reference: tuple[float, float], crop_px: int
) -> tuple[Tensor, Tensor]:
    """Return crop, resize, flip and blur of clips as matrices (B, crop, h), (B, crop, w)."""
    height, width = frames.shape[2:4]

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(frames.device)

    scale_y, scale_x = height / reference[0], width / reference[1]
    rows = _axis_weights(
        on_device(drawn.top * scale_y), on_device(drawn.height * scale_y), crop_px, height
    )
    columns = _axis_weights(
        on_device(drawn.left * scale_x), on_device(drawn.width * scale_x), crop_px, width
    )
    columns = torch.where(on_device(drawn.flip)[:, None, None] > 0, columns.flip(1), columns)
    if np.any(drawn.sigma_px > 0):
        blur = blur_weights(on_device(drawn.sigma_px), crop_px)
        rows, columns = blur @ rows, blur @ columns
    return rows.float(), columns.float()


def _resample(frames: Tensor, rows: Tensor, columns: Tensor, out: Tensor) -> None:
    """Apply :func:`_axes` to (B, T, h, w, 3) uint8, into ``out`` (B, 3, T, crop, crop)."""
    batch, length, height, width, _ = frames.shape
    crop_px = rows.shape[1]
    pixels = frames.reshape(batch * length, height, width * 3).float()
    rows = rows[:, None].expand(-1, length, -1, -1).reshape(batch * length, crop_px, height)
    shrunk = torch.bmm(rows, pixels)  # (B*T, crop, w*3)
    shrunk = shrunk.view(batch, length, crop_px, width, 3).permute(0, 4, 1, 2, 3)
    shrunk = shrunk.reshape(batch, 3 * length * crop_px, width)
    flat = out.view(batch, 3 * length * crop_px, crop_px)
    torch.bmm(shrunk, columns.transpose(1, 2), out=flat)


def _axis_weights(start: Tensor, length: Tensor, out_px: int, in_px: int) -> Tensor:
    """Return the antialiased linear resize of an interval as matrices.

    A triangle filter widened by the scale when shrinking, cut off at the interval's ends: the same
    as cropping first and resizing with ``antialias=True``.

    Args:
        start: (B,) float64, where the interval begins, in input pixels.
        length: (B,) float64, its length.
        out_px: Number of results.
        in_px: Number of inputs.

    Returns:
        (B, out_px, in_px) float64 whose rows sum to 1.
    """
    scale = (length / out_px)[:, None, None]
    inputs = torch.arange(in_px, dtype=torch.float64, device=start.device) + 0.5
    outputs = torch.arange(out_px, dtype=torch.float64, device=start.device)[:, None] + 0.5
    start, end = start[:, None, None], (start + length)[:, None, None]
    weights = 1 - (inputs - (start + outputs * scale)).abs() / scale.clamp(min=1)
    inside = (inputs > start) & (inputs < end)
    weights = torch.where(inside, weights.clamp(min=0), 0)
    return weights / weights.sum(-1, keepdim=True)


def blur_weights(sigma_px: Tensor, side_px: int) -> Tensor:
    """Return Gaussian blurs (B, side, side) whose rows sum to 1; the identity for sigma 0."""
    pixels = torch.arange(side_px, dtype=torch.float64, device=sigma_px.device)
    squares = (pixels[:, None] - pixels).square()
    sigma = sigma_px.clamp(min=1e-3)[:, None, None]  # 1e-3 px leaves the identity
    exponent = -squares / (2 * sigma.square())
    # Cut off at 5 sigma: the numbers beyond are denormal, which are slow and add nothing.
    weights = torch.where(exponent > -12.5, torch.exp(exponent), 0)
    return weights / weights.sum(-1, keepdim=True)


def _colours(frames: Tensor, drawn: ClipParameters) -> tuple[Tensor, Tensor]:
    """Return the colour map of each clip: matrix (B, 3, 3), and factor (B,) of the mean luma."""
    matrices = torch.from_numpy(
        colour_matrices(
            drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue_turns, drawn.grey
        )
    )
    offsets = torch.from_numpy((1 - drawn.contrast) * drawn.brightness)
    return matrices.float().to(frames.device), offsets.float().to(frames.device)


def _apply_colours(clips: Tensor, matrices: Tensor, offsets: Tensor) -> None:
    """Map the colours of (B, 3, T, h, w) in [0, 1] and clamp them, in place."""
    luma = torch.tensor(LUMA, device=clips.device)
    mean = (clips.mean(dim=(2, 3, 4)) * luma).sum(1)  # (B,)
    mapped = torch.baddbmm((offsets * mean)[:, None, None], matrices, clips.flatten(2))
    clips.copy_(mapped.clamp_(0, 1).view_as(clips))


def colour_matrices(
    brightness: np.ndarray,
    contrast: np.ndarray,
    saturation: np.ndarray,
    hue_turns: np.ndarray,
    grey: np.ndarray,
) -> np.ndarray:
    """Return the linear part (B, 3, 3) of jitter and grey; each maps grey to grey."""
    luma = np.array(LUMA)
    identity, to_grey = np.eye(3), np.tile(luma, (3, 1))  # to_grey @ rgb = (y, y, y)
    to_yiq = np.array([LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
    angle = 2 * np.pi * hue_turns
    turn = np.tile(identity, (len(angle), 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    hue = np.linalg.inv(to_yiq) @ turn @ to_yiq
    saturation = saturation[:, None, None]
    colour = hue @ (saturation * identity + (1 - saturation) * to_grey)
    colour = np.where(grey[:, None, None] > 0, to_grey @ colour, colour)
    return colour * (brightness * contrast)[:, None, None]


def _normalise(clips: Tensor, preprocessing: Preprocessing) -> None:
    """Subtract mean and divide by std per channel, in place."""
    mean = torch.tensor(preprocessing.mean, device=clips.device).view(3, 1, 1, 1)
    std = torch.tensor(preprocessing.std, device=clips.device).view(3, 1, 1, 1)
    clips.sub_(mean).div_(std)
