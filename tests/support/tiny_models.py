"""Networks of Table 1 that are small enough for a test."""

from __future__ import annotations

import torch
from reference import randomise_norms

from ccl_hub.config import Architecture, CCLConfig, Preprocessing
from ccl_hub.model import CCLModel

SIDE = 48
SHAPES: dict[str, dict[str, object]] = {
    "resnet18": {"stage_channels": (8, 8, 16, 16), "stage_blocks": (1, 1, 1, 1)},
    "efficientnet_lite0": {
        "stage_channels": (8, 8, 8, 16, 16, 16, 16, 32, 16),
        "stage_blocks": (1, 2, 1, 1, 1, 2, 1),
    },
}
"""Small widths and depths of every trunk, ending in 16 channels."""
TINY = CCLConfig(Architecture(stage_channels=(8, 8, 16, 16), stage_blocks=(1, 1, 1, 1)))


def tiny_model(**arch: object) -> CCLModel:
    torch.manual_seed(0)
    values = {**SHAPES[str(arch.get("trunk", "resnet18"))], **arch}
    model = CCLModel(CCLConfig(Architecture(**values)))
    randomise_norms(model)
    return model.eval()


def whitened_model(trunk: str) -> CCLModel:
    """A tiny model that squashes whole frames, and centres and whitens its vectors."""
    torch.manual_seed(0)
    pre = Preprocessing(
        clip_frames=4,
        resize="stretch",
        resize_height_px=64,
        resize_width_px=64,
        crop_px=64,
        frame_choice="on_screen",
    )
    arch = Architecture(trunk=trunk, output="whitened", **SHAPES[trunk])
    model = CCLModel(CCLConfig(arch, pre))
    randomise_norms(model)
    # Blobs of colours: noise alone would differ too little after pooling.
    blobs = torch.nn.functional.interpolate(2 * torch.randn(64, 3, 3, 3), (64, 64))
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.momentum = 1.0  # so that statistics are those of the blobs
        model.train()(blobs[:, :, None])
        model.output.fit(model.eval()(blobs[:, :, None]).frames[:, 0], damping=1.0)
    return model


def small_model(seed: int = 0) -> CCLModel:
    """A model wide enough that int8 keeps its directions, and quick to convert."""
    torch.manual_seed(seed)
    arch = Architecture(stage_channels=(16, 16, 32, 32), stage_blocks=(1, 1, 1, 1))
    model = CCLModel(CCLConfig(arch, Preprocessing(clip_frames=4, crop_px=SIDE)))
    randomise_norms(model)
    return model.eval()
