"""Crop, scale and normalise: exact numbers and exact order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccl_hub.config import Preprocessing
from ccl_hub.errors import InputError
from ccl_hub.transforms import center_crop, to_clips

PAPER = Preprocessing()


def random_frames(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("height", "width", "crop", "top", "left"),
    [(128, 171, 112, 8, 29), (112, 112, 112, 0, 0), (113, 115, 112, 0, 1), (200, 128, 64, 68, 32)],
)
def test_the_crop_is_central(height: int, width: int, crop: int, top: int, left: int) -> None:
    frames = random_frames(2, 3, height, width, 3)
    got = center_crop(frames, crop)
    assert torch.equal(got, frames[:, :, top : top + crop, left : left + crop])
    assert got.data_ptr() == frames[:, :, top:, left:].data_ptr()  # a view


def test_values_are_those_of_the_formula() -> None:
    frames = random_frames(2, 8, 128, 171, 3)
    got = to_clips(frames, PAPER)
    assert got.shape == (2, 3, 8, 112, 112) and got.dtype == torch.float32
    assert got.is_contiguous()
    cut = frames[:, :, 8:120, 29:141].numpy().astype(np.float64)
    expected = (cut / 255 - np.array(PAPER.mean)) / np.array(PAPER.std)
    np.testing.assert_allclose(got.permute(0, 2, 3, 4, 1), expected, rtol=0, atol=1e-6)
    for channel in range(3):  # and to the bit those of float32 in the stated order
        value = torch.tensor(float(frames[1, 7, 60, 80, channel]))
        exact = (value / 255 - PAPER.mean[channel]) / PAPER.std[channel]
        assert got[1, channel, 7, 52, 51] == exact


def test_a_clip_does_not_depend_on_its_batch() -> None:
    frames = random_frames(5, 8, 128, 171, 3)
    together = to_clips(frames, PAPER)
    for i in range(5):
        assert torch.equal(together[i : i + 1], to_clips(frames[i : i + 1], PAPER))


def test_arrays_and_tensors_give_the_same_and_stay_as_they_were() -> None:
    frames = random_frames(1, 2, 128, 171, 3)
    before = frames.clone()
    assert torch.equal(to_clips(frames, PAPER), to_clips(frames.numpy(), PAPER))
    assert torch.equal(frames, before)


def test_the_cast_comes_last() -> None:
    frames = random_frames(1, 8, 128, 171, 3)
    half = to_clips(frames, PAPER, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, to_clips(frames, PAPER).to(torch.bfloat16))


@pytest.mark.parametrize(
    ("frames", "dtype", "words"),
    [
        (random_frames(8, 128, 171, 3), torch.float32, r"\(8, 128, 171, 3\).*allowed: \(B, T, H"),
        (random_frames(1, 8, 128, 171, 3).float(), torch.float32, "torch.float32; allowed"),
        (random_frames(1, 8, 3, 128, 171), torch.float32, r"allowed: \(..., h, w, 3\)"),
        (random_frames(1, 8, 100, 171, 3), torch.float32, "frames of 100 x 171; allowed: 1 to"),
        (random_frames(1, 8, 128, 171, 3), torch.int32, "torch.int32; allowed: a floating"),
    ],
)
def test_errors(frames: torch.Tensor, dtype: torch.dtype, words: str) -> None:
    with pytest.raises(InputError, match=words):
        to_clips(frames, PAPER, dtype=dtype)
