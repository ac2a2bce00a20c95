"""Networks of Table 1 that are small enough for a test."""

from __future__ import annotations

import torch
from reference import randomise_norms

from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from ccl_hub.model import CCLModel

SIDE = 48
TINY = CCLConfig(Architecture(stage_channels=(8, 8, 16, 16), stage_blocks=(1, 1, 1, 1)))


def tiny_model(**arch: object) -> CCLModel:
    torch.manual_seed(0)
    values = {"stage_channels": (8, 8, 16, 16), "stage_blocks": (1, 1, 1, 1), **arch}
    model = CCLModel(CCLConfig(Architecture(**values)))
    randomise_norms(model)
    return model.eval()


def small_model(seed: int = 0) -> CCLModel:
    """A model wide enough that int8 keeps its directions, and quick to convert."""
    torch.manual_seed(seed)
    arch = Architecture(stage_channels=(16, 16, 32, 32), stage_blocks=(1, 1, 1, 1))
    model = CCLModel(CCLConfig(arch, Preprocessing(clip_frames=4, crop_px=SIDE)))
    randomise_norms(model)
    return model.eval()
